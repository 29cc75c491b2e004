// Our half of bench/model_bench.py: loads a model folder, then does one piece of work as often as
// each line of standard input says and answers with the wall and CPU seconds of one. A line's
// second word names the forms of the kernels (kernel_forms.h); after "compare" the answer is one
// line of JSON, CPU seconds by kernel and form. The last result is written at the end of the input,
// so that the two halves can be compared.
#include <ATen/core/grad_mode.h>

#include <ctime>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>

#include "bench/kernel_forms.h"
#include "model/text_to_image.h"
#include "model/torch_process.h"

namespace d2g::model {
namespace {

constexpr double kEvaluationTimestep = 500;
constexpr int64_t kBytesPerKilobyte = 1024;

struct Options {
  std::string work, model, inputs, outputs, device = "cpu", dtype = "fp32";
  int threads = 1;
  int64_t steps = 50;
  double guidance = 3;
};

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSeconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The largest resident size since exec, in bytes. getrusage would give the parent's where that was
// larger.
int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * kBytesPerKilobyte;
  }
  return 0;
}

at::ScalarType DtypeOf(const std::string& name) {
  return name == "fp16" ? at::kHalf : name == "bf16" ? at::kBFloat16 : at::kFloat;
}

// What is timed. `in` holds the tensors of --inputs.
std::function<at::Tensor()> Work(const Options& options, TextToImageModel& model, TensorMap in) {
  if (options.work == "evaluate") {
    const auto text = model.unet().PrepareConditions({in.at("hidden")});
    return [&model, in, text] {
      return model.unet().Forward(in.at("sample"), kEvaluationTimestep, text);
    };
  }
  if (options.work == "solve") {
    SolverOptions solver;
    solver.steps = options.steps;
    solver.guidance = options.guidance;
    if (!in.contains("pooled")) {
      return [&model, in, solver] {
        return model.Solve(in.at("noise"), in.at("cond"), in.at("uncond"), solver);
      };
    }
    return [&model, in, solver] {
      return model.Solve(in.at("noise"), {in.at("cond"), in.at("pooled")},
                         {in.at("uncond"), in.at("pooled_uncond")}, solver);
    };
  }
  if (options.work == "decode") {
    return [&model, in] { return model.DecodeToImages(in.at("latents")); };
  }
  if (options.work == "encode") {
    return [&model, in] { return model.prompts().text_encoder().Forward(in.at("input_ids")); };
  }
  // A training step's evaluation, forward and backward.
  for (const auto& [name, parameter] : model.unet().parameters()) parameter.requires_grad_(true);
  return [&model, in] {
    const at::AutoGradMode gradients(true);
    const at::Tensor output =
        model.unet().Forward(in.at("sample"), kEvaluationTimestep, in.at("hidden"));
    output.square().mean().backward();
    return output.detach();
  };
}

void Serve(const Options& options) {
  SetUpTorchProcess(options.threads);
  const at::NoGradGuard no_grad;
  const double started = WallSeconds();
  ModelOptions load;
  load.load_vae = options.work == "decode";
  load.device = at::Device(options.device);
  load.dtype = DtypeOf(options.dtype);
  TextToImageModel model = TextToImageModel::Load(options.model, load);
  std::cout << WallSeconds() - started << " " << PeakBytes() << std::endl;
  TensorMap inputs = ReadSafetensors(options.inputs);
  for (auto& [name, tensor] : inputs) tensor = tensor.to(load.device);
  const std::function<at::Tensor()> work = Work(options, model, std::move(inputs));
  at::Tensor result;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    int count = 1;
    std::string forms = "plain";
    words >> count >> forms;
    if (forms == "compare") {
      std::cout << nlohmann::json(CompareKernelForms(work)).dump() << std::endl;
      continue;
    }
    ChooseKernelForms(forms);
    const double wall = WallSeconds(), cpu = CpuSeconds();
    for (int i = 0; i < count; ++i) result = work();
    result = result.to(at::kCPU);  // A GPU's work has then ended.
    std::cout << (WallSeconds() - wall) / count << " " << (CpuSeconds() - cpu) / count << std::endl;
  }
  if (result.defined()) WriteSafetensors(options.outputs, {{"result", result}});
}

}  // namespace
}  // namespace d2g::model

int main(int argc, char** argv) {
  d2g::model::Options options;
  CLI::App app("Does one piece of work for each line on standard input; see model_bench.py");
  app.add_option("--work", options.work)
      ->required()
      ->check(CLI::IsMember({"evaluate", "solve", "decode", "encode", "train"}));
  app.add_option("--model", options.model)->required();
  app.add_option("--inputs", options.inputs)->required();
  app.add_option("--outputs", options.outputs)->required();
  app.add_option("--device", options.device);
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  app.add_option("--threads", options.threads);
  app.add_option("--steps", options.steps);
  app.add_option("--guidance", options.guidance);
  CLI11_PARSE(app, argc, argv);
  try {
    d2g::model::Serve(options);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
