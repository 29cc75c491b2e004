// Classifier-free guidance.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace d2g::model {

// u + scale (c - u) of the outputs without and with the prompt, [B, ...] each (Ho and Salimans
// 2022, arXiv 2207.12598). With rescale above 0 the result is then moved by that share towards the
// standard deviation that c has, for each sample of its own (Lin et al. 2023, arXiv 2305.08891,
// section 3.4). Source: diffusers 0.35.2, pipelines/stable_diffusion (rescale_noise_cfg).
at::Tensor Guide(const at::Tensor& uncond, const at::Tensor& cond, double scale, double rescale);

// What a network that was distilled with guidance (time_cond_proj_dim) is told instead:
// [rows, width] fp32, sines and cosines of 1000 (scale - 1). Source: diffusers 0.35.2,
// get_guidance_scale_embedding; Meng et al. 2022 (arXiv 2210.03142).
at::Tensor GuidanceEmbedding(double scale, int64_t rows, int64_t width);

}  // namespace d2g::model
