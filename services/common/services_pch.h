// What translation units of services are compiled with: Abseil, Protobuf's and gRPC's headers and
// our messages cost each two seconds to read. The stubs (*.grpc.pb.h) are left out because few need
// them. Only CMake includes this file; sources include what they use.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/coordinator/rows/v1/rows.pb.h"
#include "d2g/coordinator/v1/dataset_service.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "d2g/coordinator/v1/job_service.pb.h"
#include "d2g/coordinator/v1/shard_service.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "d2g/store/v1/rows.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "grpcpp/grpcpp.h"
