// Other ways to compute what the CPU kernels compute: LibTorch's operators as they are ("eager"),
// and the operators that its compiler calls, whose weights oneDNN or MKL has laid out before
// ("onednn", "mkl"). For comparisons by model_bench; inference only.
#pragma once

#include <functional>
#include <map>
#include <string>

#include <ATen/ATen.h>

namespace d2g::model {

// `choice` is "plain", what the product uses, or "kernel=form" joined by "+": product=, eager,
// onednn or mkl; conv= and conv3x3=, eager, onednn or product (conv3x3: no Winograd); attention=,
// eager or matrix; group_norm=, layer_norm= and geglu=, eager. Throws c10::Error for anything else.
// Needs a network that kept its weights. Not while a network runs.
void ChooseKernelForms(const std::string& choice);

// CPU seconds of the calling thread by kernel and form, over all calls of one evaluation.
using KernelSeconds = std::map<std::string, std::map<std::string, double>>;

// Runs `work` once, and in it each kernel in every form that there is, one after the other on the
// same input; weights are laid out before the clock starts. The best of some repetitions of each
// call counts. Throws c10::Error where forms disagree.
KernelSeconds CompareKernelForms(const std::function<at::Tensor()>& work);

}  // namespace d2g::model
