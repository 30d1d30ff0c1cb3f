// One table of a model's parameters: what initialisation, checkpoints, import and export all read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "model/config.h"

namespace gladius {

enum class Init {
  ones,             // norms
  normal,           // N(0, 0.02)
  residual_normal,  // N(0, 0.02 / sqrt(2 * layers)): the projections that write to the residual stream
};

// Which row order Hugging Face files hold: GGUF's (and ours) rotates adjacent pairs, Hugging Face's the two
// halves of a head.
enum class RowOrder { same, rope_query, rope_key };

struct ParamSpec {
  std::string gguf_name;  // "blk.0.attn_q.weight": also the name inside the program and in checkpoints
  std::string hf_name;    // "model.layers.0.self_attn.q_proj.weight"
  Shape shape;            // [out, in] for a matrix, [n] for a norm
  Init init;
  RowOrder hf_order;
  int layer;  // -1 outside the layers
};

// In file order: token_embd, output_norm, output (absent when tied), then layer by layer.
std::vector<ParamSpec> parameter_table(const Config& config);

}  // namespace gladius
