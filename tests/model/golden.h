// Access to what tools/goldens/model_goldens.py wrote before these tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "model/files/error.h"
#include "model/weights/safetensors.h"

namespace d2g::model {

inline std::string GoldenFolder(const std::string& name) {
  const char* folder = std::getenv("D2G_GOLDENS");
  EXPECT_NE(folder, nullptr) << "D2G_GOLDENS is not set: run through ctest";
  return std::string(folder == nullptr ? "" : folder) + "/" + name;
}

// The sub-folders, sorted: one case each. Empty folders of cases are an error.
inline std::vector<std::string> GoldenCases(const std::string& name) {
  std::vector<std::string> cases;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenFolder(name))) {
    cases.push_back(name + "/" + entry.path().filename().string());
  }
  std::sort(cases.begin(), cases.end());
  EXPECT_FALSE(cases.empty());
  return cases;
}

inline TensorMap Golden(const std::string& name) {
  return ReadSafetensors(GoldenFolder(name) + "/golden.safetensors");
}

// max|a - b| / max|b|, in double; huge when shapes differ.
inline double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return 1e30;
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return ((x - y).abs().max() / y.abs().max()).item<double>();
}

}  // namespace d2g::model
