// The life of the gRPC library within a process.
#pragma once

namespace d2g::common {

// Keeps gRPC initialised until the process ends. Without it gRPC shuts itself down when its last
// channel or server goes, on whichever thread that is, and shutting down races with starting again
// (seen in 1.51: its timers are freed twice). Called by MakeChannel and RpcServer::Start.
//
// Also lets channels look at their sockets every 200 ms: one that lost its server fails calls at
// once until it is connected again, so no call waits on its socket, and gRPC's own interval of 5 s
// would let each step of reconnecting take that long.
void KeepGrpcInitialised();

}  // namespace d2g::common
