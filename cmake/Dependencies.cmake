# What the services link, all from the distribution.
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED)
find_package(gRPC REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(PNG)

d2g_system_library(rocksdb rocksdb rocksdb/db.h)
d2g_system_library(prometheus prometheus-cpp-core prometheus/registry.h)
d2g_system_library(microhttpd microhttpd microhttpd.h)
d2g_system_library(xxhash xxhash xxhash.h)
