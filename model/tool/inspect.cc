// d2g-model inspect: what a model folder is, whether d2g runs it, and if not, why.
#include <cstdio>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "model/check/model_summary.h"
#include "model/files/error.h"
#include "model/tool/commands.h"

namespace d2g::model {

namespace {

using nlohmann::json;

struct InspectOptions {
  std::string model;
  std::string digest;
  bool json = false;
};

std::string Bytes(int64_t bytes) {
  char text[32];
  const double value = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) {
    std::snprintf(text, sizeof(text), "%.2f GB", value / 1e9);
  } else if (bytes >= 1'000'000) {
    std::snprintf(text, sizeof(text), "%.1f MB", value / 1e6);
  } else {
    std::snprintf(text, sizeof(text), "%.1f kB", value / 1e3);
  }
  return text;
}

std::string Shape(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t side : shape) text += (text.empty() ? "" : "x") + std::to_string(side);
  return text;
}

std::string Joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

void PrintText(const ModelSummary& summary, const std::string& digest) {
  std::cout << summary.path << ": " << summary.class_name;
  if (!summary.diffusers_version.empty()) std::cout << ", diffusers " << summary.diffusers_version;
  std::cout << "\n";
  for (const ComponentSummary& component : summary.components) {
    std::printf("  %-16s %-28s", component.name.c_str(), component.class_name.c_str());
    if (component.parameters > 0) {
      std::printf(" %.4g M parameters, %s of %s", static_cast<double>(component.parameters) / 1e6,
                  Bytes(component.bytes).c_str(), Joined(component.dtypes).c_str());
    }
    std::printf("%s\n", component.used ? "" : " (not used)");
    if (!component.options.empty()) std::printf("  %16s %s\n", "", component.options.c_str());
    for (const std::string& note : component.notes) {
      std::printf("  %16s left out: %s\n", "", note.c_str());
    }
    if (!component.trouble.empty()) std::printf("  %16s ! %s\n", "", component.trouble.c_str());
  }
  std::fflush(stdout);
  if (!summary.latent_shape.empty()) {
    std::cout << "  latents " << Shape(summary.latent_shape);
    if (!summary.picture_shape.empty()) std::cout << ", pictures " << Shape(summary.picture_shape);
    std::cout << "\n";
  }
  if (summary.parameters() > 0) {
    std::cout << "  weights in memory: " << Bytes(4 * summary.parameters()) << " in fp32, "
              << Bytes(2 * summary.parameters()) << " in fp16 or bf16\n";
  }
  if (!digest.empty()) std::cout << "  digest " << digest << "\n";
  if (!summary.trouble.empty()) std::cout << "  ! " << summary.trouble << "\n";
  if (summary.usable()) std::cout << "  usable by d2g\n";
}

void PrintJson(const ModelSummary& summary, const std::string& digest) {
  json components = json::array();
  for (const ComponentSummary& component : summary.components) {
    components.push_back({{"name", component.name},
                          {"class", component.class_name},
                          {"used", component.used},
                          {"parameters", component.parameters},
                          {"bytes", component.bytes},
                          {"dtypes", component.dtypes},
                          {"options", component.options},
                          {"left_out", component.notes},
                          {"trouble", component.trouble}});
  }
  const json whole = {{"path", summary.path},
                      {"class", summary.class_name},
                      {"diffusers_version", summary.diffusers_version},
                      {"components", components},
                      {"latent_shape", summary.latent_shape},
                      {"picture_shape", summary.picture_shape},
                      {"parameters", summary.parameters()},
                      {"digest", digest},
                      {"trouble", summary.trouble},
                      {"usable", summary.usable()}};
  std::cout << whole.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
}

}  // namespace

void AddInspect(CLI::App& app, Action* action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand(
      "inspect", "What a model folder is and whether d2g runs it; reads no weights");
  command
      ->add_option("DIR", options->model, "Model folder in the diffusers layout, or one component")
      ->required();
  command->add_option("--digest", options->digest, "The folder's digest, to be printed with it");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options, action] {
    *action = [options] {
      const ModelSummary summary = SummariseModel(options->model);
      (options->json ? PrintJson : PrintText)(summary, options->digest);
      if (!summary.usable()) Fail(options->model, ": not usable by d2g");
    };
  });
}

}  // namespace d2g::model
