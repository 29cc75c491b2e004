// Whether the parts of a model folder make a pipeline.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config/clip_text_config.h"
#include "model/config/unet_config.h"
#include "model/pipeline/pipeline_index.h"
#include "model/solver/scheduler_config.h"

namespace d2g::model {

// A tokenizer and its encoder.
struct TextFit {
  TextComponents names;
  int64_t model_max_length = 0;
  ClipTextConfig encoder;
};

// Numbers of the time_ids that an XL network is told.
int64_t TimeIdCount(const PipelineIndex& index);

// Which of the encoders gives an XL network its pooled embedding; -1: none.
int64_t PoolingEncoder(const PipelineIndex& index);

// scheduler/scheduler_config.json for a solver, as the pipeline runs it: StableDiffusionPipeline's
// constructor makes steps_offset 1 and clip_sample false; XL pipelines change nothing.
SchedulerConfig ReadPipelineScheduler(const std::string& folder, const PipelineIndex& index,
                                      SolverKind kind);

// `texts` are in the order of index.texts. Throws Error naming the folder and what differs.
void CheckTextsFit(const std::string& folder, const PipelineIndex& index,
                   const std::vector<TextFit>& texts);

// All but that. vae_channels is the vae's latent_channels, where a vae is wanted.
void CheckPipelineFits(const std::string& folder, const PipelineIndex& index,
                       const std::vector<TextFit>& texts, const UNetConfig& unet,
                       std::optional<int64_t> vae_channels);

}  // namespace d2g::model
