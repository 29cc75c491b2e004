// What every LibTorch translation unit is compiled with: a header of its own because one inclusion
// costs 15 seconds. Each unit still instantiates the templates that its inline functions use, 1.5
// seconds. So what few need is left out: torch/types.h and custom_function.h would cost all others
// another second.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>
