// Early return of absl::Status.
//
//   D2G_RETURN_IF_ERROR(file.Sync());
//   D2G_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace d2g::common {

// "context: message", same code and payloads; an OK status is returned as it is.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(),
                         std::string(context) + ": " + std::string(status.message()));
  status.ForEachPayload([&annotated](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace d2g::common

#define D2G_RETURN_IF_ERROR(expr)                               \
  do {                                                          \
    if (::absl::Status d2g_status = (expr); !d2g_status.ok()) { \
      return d2g_status;                                        \
    }                                                           \
  } while (false)

#define D2G_CONCAT_INNER(a, b) a##b
#define D2G_CONCAT(a, b) D2G_CONCAT_INNER(a, b)

// `lhs` may declare a variable; `expr` yields an absl::StatusOr.
#define D2G_ASSIGN_OR_RETURN(lhs, expr) \
  D2G_ASSIGN_OR_RETURN_IMPL(D2G_CONCAT(d2g_status_or_, __LINE__), lhs, expr)

#define D2G_ASSIGN_OR_RETURN_IMPL(status_or, lhs, expr)      \
  auto status_or = (expr);                                   \
  if (!status_or.ok()) return std::move(status_or).status(); \
  lhs = std::move(status_or).value()
