// The life of the gRPC library within a process.
#pragma once

namespace d2g::common {

// Keeps gRPC initialised until the process ends. Without it gRPC shuts itself down when its last
// channel or server goes, on whichever thread that is, and shutting down races with starting again
// (seen in 1.51: its timers are freed twice). Called by MakeChannel and RpcServer::Start.
void KeepGrpcInitialised();

}  // namespace d2g::common
