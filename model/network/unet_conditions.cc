#include "model/network/unet_conditions.h"

#include <algorithm>
#include <cmath>

#include "model/files/error.h"

namespace d2g::model {

namespace {

TimestepEmbeddingOptions TimeOptions(const UNetConfig& config) {
  TimestepEmbeddingOptions options;
  options.in = config.time_input_width();
  options.width = config.time_embedding_width();
  options.activation = config.act_fn;
  options.post_activation = config.timestep_post_act;
  options.condition_width = config.time_cond_proj_dim;
  return options;
}

TimestepEmbeddingOptions PlainOptions(const UNetConfig& config, int64_t in) {
  TimestepEmbeddingOptions options;
  options.in = in;
  options.width = config.time_embedding_width();
  return options;
}

at::Tensor FourierWeight(ParameterReader& reader, const UNetConfig& config) {
  if (!config.fourier_time) return {};
  return reader.Take("time_proj.weight", {config.time_input_width() / 2});
}

void RequireMatrix(const char* what, const at::Tensor& x, int64_t width) {
  if (x.dim() != 2 || x.size(0) < 1 || x.size(1) != width) {
    Fail("unet: ", what, " is ", x.sizes(), ", not [B, ", width, "]");
  }
}

// Table rows as int64, whatever dtype they came in.
at::Tensor ClassIndices(const at::Tensor& labels, int64_t classes) {
  const at::Tensor rows = labels.to(at::kLong).reshape({-1});
  const at::Tensor given = labels.reshape({-1});
  const bool whole = !given.is_floating_point() || at::equal(rows.to(given.scalar_type()), given);
  if (rows.numel() > 0 &&
      (!whole || rows.min().item<int64_t>() < 0 || rows.max().item<int64_t>() >= classes)) {
    Fail("unet: class_labels must be whole numbers from 0 to ", classes - 1,
         ", one below num_class_embeds; they span ", given.min().item<double>(), " to ",
         given.max().item<double>());
  }
  return rows;
}

}  // namespace

TextTimeEmbedding::TextTimeEmbedding(ParameterReader& reader, const std::string& name,
                                     int64_t text_width, int64_t time_width, int64_t heads_)
    : norm1(reader, name + ".norm1", text_width),
      positional_embedding(reader.Take(name + ".pool.positional_embedding", {1, text_width})),
      k_proj(reader, name + ".pool.k_proj", text_width, text_width),
      q_proj(reader, name + ".pool.q_proj", text_width, text_width),
      v_proj(reader, name + ".pool.v_proj", text_width, text_width),
      proj(reader, name + ".proj", text_width, time_width),
      norm2(reader, name + ".norm2", time_width),
      heads(heads_) {}

at::Tensor TextTimeEmbedding::operator()(const at::Tensor& text) const {
  const at::Tensor x = norm1(text);
  const at::Tensor query = x.mean(1, /*keepdim=*/true) + positional_embedding;
  const at::Tensor all = at::cat({query, x}, 1);
  const at::Tensor pooled =
      kernels::Attention(SplitHeads(q_proj(query), heads), SplitHeads(k_proj(all), heads),
                         SplitHeads(v_proj(all), heads));
  return norm2(proj(MergeHeads(pooled).squeeze(1)));
}

ConditionEmbedding::ConditionEmbedding(ParameterReader& reader, const UNetConfig& c)
    : config(c),
      fourier_weight(FourierWeight(reader, c)),
      time(reader, "time_embedding", TimeOptions(c)) {
  const int64_t width = c.time_embedding_width();
  const int64_t projected = c.projection_class_embeddings_input_dim;
  if (c.encoder_hid_dim > 0) {
    encoder_hid_proj =
        Linear(reader, "encoder_hid_proj", c.encoder_hid_dim, c.cross_attention_dim.front());
  }
  switch (c.class_embed_type) {
    case ClassEmbedType::kNone:
    case ClassEmbedType::kIdentity:
      break;
    case ClassEmbedType::kTable:
      class_table = reader.Take("class_embedding.weight", {c.num_class_embeds, width});
      break;
    case ClassEmbedType::kTimestep: {
      TimestepEmbeddingOptions options = PlainOptions(c, c.time_input_width());
      options.activation = c.act_fn;
      class_mlp.emplace(reader, "class_embedding", options);
      break;
    }
    case ClassEmbedType::kProjection:
      class_mlp.emplace(reader, "class_embedding", PlainOptions(c, projected));
      break;
    case ClassEmbedType::kSimpleProjection:
      class_linear = Linear(reader, "class_embedding", projected, width);
      break;
  }
  if (c.addition_embed_type == AdditionEmbedType::kText) {
    text_pool.emplace(reader, "add_embedding", c.text_width(), width,
                      c.addition_embed_type_num_heads);
  } else if (c.addition_embed_type == AdditionEmbedType::kTextTime) {
    added_mlp.emplace(reader, "add_embedding", PlainOptions(c, projected));
  }
}

at::Tensor ConditionEmbedding::EmbedNumbers(const at::Tensor& numbers) const {
  if (!config.fourier_time) {
    return SinusoidalEmbedding(numbers, config.time_input_width(), config.flip_sin_to_cos,
                               config.freq_shift);
  }
  // The angles are large, so precision and order of the products show in the result.
  const at::ScalarType type = numbers.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor angle =
      numbers.to(type).unsqueeze(1) * fourier_weight.to(at::kFloat).unsqueeze(0) * 2 * M_PI;
  const at::Tensor sine = at::sin(angle), cosine = at::cos(angle);
  return config.flip_sin_to_cos ? at::cat({cosine, sine}, 1) : at::cat({sine, cosine}, 1);
}

at::Tensor ConditionEmbedding::EmbedClasses(const at::Tensor& labels,
                                            const at::TensorOptions& options) const {
  if (!labels.defined()) Fail("unet: needs class_labels");
  const at::Tensor placed = labels.to(options.device());
  switch (config.class_embed_type) {
    case ClassEmbedType::kTable:
    case ClassEmbedType::kTimestep:
      if (labels.dim() > 1 || labels.numel() < 1) {
        Fail("unet: class_labels is ", labels.sizes(), ", not [B]");
      }
      if (config.class_embed_type == ClassEmbedType::kTable) {
        return class_table.index_select(0, ClassIndices(placed, config.num_class_embeds));
      }
      return (*class_mlp)(EmbedNumbers(placed.reshape({-1})).to(options.dtype()));
    case ClassEmbedType::kIdentity:
      RequireMatrix("class_labels", labels, config.time_embedding_width());
      return placed.to(options.dtype());
    case ClassEmbedType::kProjection:
    case ClassEmbedType::kSimpleProjection: {
      RequireMatrix("class_labels", labels, config.projection_class_embeddings_input_dim);
      const at::Tensor x = placed.to(options.dtype());
      return class_mlp ? (*class_mlp)(x) : class_linear(x);
    }
    case ClassEmbedType::kNone:
      break;
  }
  return {};
}

at::Tensor ConditionEmbedding::EmbedTextTime(const UNetConditions& conditions,
                                             const at::TensorOptions& options) const {
  const at::Tensor& text = conditions.text_embeds;
  const at::Tensor& ids = conditions.time_ids;
  if (!text.defined() || !ids.defined()) {
    Fail("unet: addition_embed_type text_time needs text_embeds and time_ids");
  }
  const int64_t wanted = config.projection_class_embeddings_input_dim;
  const int64_t each = config.addition_time_embed_dim;
  if (text.dim() != 2 || text.size(0) < 1 || ids.numel() % text.size(0) != 0 ||
      text.size(1) + ids.numel() / text.size(0) * each != wanted) {
    Fail("unet: text_embeds ", text.sizes(), " and time_ids ", ids.sizes(),
         " do not make the projection_class_embeddings_input_dim of ", wanted, ": [B, P] and ",
         "[B, n] with P + n * ", each, " are needed");
  }
  const at::Tensor times = SinusoidalEmbedding(ids.to(options.device()).reshape({-1}), each,
                                               config.flip_sin_to_cos, config.freq_shift)
                               .reshape({text.size(0), -1});
  return (*added_mlp)(at::cat({text.to(options), times.to(options.dtype())}, 1));
}

PreparedConditions ConditionEmbedding::Prepare(const UNetConditions& conditions,
                                               const at::TensorOptions& options) const {
  const at::Tensor& hidden = conditions.encoder_hidden_states;
  PreparedConditions prepared;
  if (conditions.timestep_cond.defined()) {
    if (config.time_cond_proj_dim == 0) {
      Fail("unet: timestep_cond is given, but the network has no time_cond_proj_dim");
    }
    RequireMatrix("timestep_cond", conditions.timestep_cond, config.time_cond_proj_dim);
    prepared.time_condition = time.cond_proj(conditions.timestep_cond.to(options));
  }
  if (config.class_embed_type != ClassEmbedType::kNone) {
    prepared.class_embedding = EmbedClasses(conditions.class_labels, options);
  }
  if (text_pool) {
    if (!hidden.defined()) Fail("unet: addition_embed_type text needs encoder_hidden_states");
    prepared.added_embedding = (*text_pool)(hidden.to(options));
  } else if (added_mlp) {
    prepared.added_embedding = EmbedTextTime(conditions, options);
  }

  const struct {
    const char* name;
    const at::Tensor& tensor;
  } kRows[] = {{"timestep_cond", prepared.time_condition},
               {"class_labels", prepared.class_embedding},
               {"text_embeds", prepared.added_embedding}};
  if (hidden.defined()) {
    prepared.rows = hidden.size(0);
  } else {
    for (const auto& item : kRows) {
      if (item.tensor.defined()) prepared.rows = std::max(prepared.rows, item.tensor.size(0));
    }
    // One row that all samples share says nothing about their number.
    if (prepared.rows == 1) prepared.rows = 0;
  }
  for (const auto& item : kRows) {
    if (item.tensor.defined() && item.tensor.size(0) != 1 && item.tensor.size(0) != prepared.rows) {
      Fail("unet: ", item.name, " has ", item.tensor.size(0), " rows, must have 1 or ",
           prepared.rows);
    }
  }
  return prepared;
}

at::Tensor ConditionEmbedding::Text(const at::Tensor& hidden,
                                    const at::TensorOptions& options) const {
  const at::Tensor converted = hidden.to(options);
  return config.encoder_hid_dim > 0 ? encoder_hid_proj(converted) : converted;
}

at::Tensor ConditionEmbedding::Time(const at::Tensor& timesteps, const PreparedConditions& prepared,
                                    const at::TensorOptions& options) const {
  at::Tensor x = EmbedNumbers(timesteps.to(options.device()).reshape({-1})).to(options.dtype());
  if (prepared.time_condition.defined()) x = x + prepared.time_condition;
  at::Tensor embedding = time(x);
  if (prepared.class_embedding.defined()) {
    if (config.class_embeddings_concat) {
      const int64_t rows = std::max(embedding.size(0), prepared.class_embedding.size(0));
      embedding =
          at::cat({embedding.expand({rows, -1}), prepared.class_embedding.expand({rows, -1})}, 1);
    } else {
      embedding = embedding + prepared.class_embedding;
    }
  }
  if (prepared.added_embedding.defined()) embedding = embedding + prepared.added_embedding;
  return config.time_embedding_act_fn ? Activate(*config.time_embedding_act_fn, embedding)
                                      : embedding;
}

}  // namespace d2g::model
