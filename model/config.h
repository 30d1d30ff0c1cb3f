// The shape of a Llama-architecture decoder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gladius {

// Llama-3 style RoPE scaling: frequencies with long wavelengths are divided by `factor`, short ones kept,
// smoothly between.
struct RopeScaling {
  float factor = 8.0f, low_freq_factor = 1.0f, high_freq_factor = 4.0f;
  int64_t original_context = 8192;
  bool operator==(const RopeScaling&) const = default;
};

struct Config {
  std::string name = "gladius";
  int64_t vocab = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, context = 0;
  int64_t head_dim = 0;  // usually hidden / heads
  float norm_eps = 1e-6f;
  float rope_theta = 10000.0f;
  std::optional<RopeScaling> rope_scaling;
  // Divisors of the rotation frequencies [head_dim/2] as a GGUF file carries them (rope_freqs.weight); empty:
  // all 1. Set from rope_scaling when that is given.
  std::vector<float> rope_divisors;
  bool tied = false;  // the LM head is the embedding

  int64_t parameters() const;  // number of trainable values
  bool operator==(const Config&) const = default;
};

// Throws Error naming the first value that is wrong: not positive, heads not a multiple of kv_heads, odd
// head_dim, or a size beyond what kernels and 64-bit sizes take. `source` names the file or the preset.
void validate(const Config& config, const std::string& source);

// "gladius-125m" (the reference) or "gladius-tiny" (the demo). Throws Error listing the names.
Config preset(std::string_view name);

// Floating-point operations that training on one token of a sequence of T takes, forward and backward: 6 for
// each weight of a matrix product (Kaplan et al. 2020, arXiv:2001.08361), and as many for each multiplication
// of the visible half of attention. What a step recomputes does not count.
double training_flops(const Config& config, int64_t T);

// Floating-point operations that reading T tokens behind `past` others takes, and scoring what follows the
// last: 2 for each weight of a matrix product and for each multiplication of the visible part of attention.
// The LM head, and all but the keys and values of the last layer, is for one token only.
double inference_flops(const Config& config, int64_t past, int64_t T);

std::vector<std::string> preset_names();

// Divisors of each pair's rotation frequency (RopeScaling), [head_dim/2].
std::vector<float> rope_scaling_divisors(const RopeScaling& scaling, float theta, int64_t head_dim);

}  // namespace gladius
