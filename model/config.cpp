#include "model/config.h"

#include <cmath>
#include <numbers>

#include "engine/error.h"
#include "kernels/backend.h"
#include "model/params.h"

namespace gladius {
namespace {

void require_range(const std::string& source, std::string_view name, int64_t value, int64_t low,
                   int64_t high) {
  if (value < low || value > high) fail("{}: {} is {}, but must be {} to {}", source, name, value, low, high);
}

// Weights of the layers' matrix products.
int64_t layer_products(const Config& c) {
  const int64_t norms = c.hidden * (2 * c.layers + 1);
  const int64_t tables = c.vocab * c.hidden * (c.tied ? 1 : 2);  // embedding and head
  return c.parameters() - norms - tables;
}

}  // namespace

void validate(const Config& c, const std::string& source) {
  // Bounds of sizes that keep a tensor below 2^44 elements, so that the bytes of a whole model fit 64 bits.
  // The widths are also the lengths of weight rows, which kernels have scratch memory for.
  constexpr int64_t kMost = 1 << 24, kWidest = max_weight_columns;
  require_range(source, "vocabulary size", c.vocab, 1, kMost);
  require_range(source, "hidden size", c.hidden, 1, kWidest);
  require_range(source, "intermediate size", c.intermediate, 1, kWidest);
  require_range(source, "number of layers", c.layers, 1, 1 << 12);
  require_range(source, "number of heads", c.heads, 1, 1 << 12);
  require_range(source, "number of key/value heads", c.kv_heads, 1, c.heads);
  require_range(source, "context length", c.context, 1, kMost);
  require_range(source, "head width", c.head_dim, 2, 1 << 12);
  require_range(source, "heads times head width", c.heads * c.head_dim, 2, kWidest);
  if (c.heads % c.kv_heads != 0) {
    fail("{}: {} heads cannot share {} key/value heads evenly", source, c.heads, c.kv_heads);
  }
  if (c.head_dim % 2 != 0) fail("{}: head width {} is odd, but RoPE rotates pairs", source, c.head_dim);
  if (!(c.norm_eps > 0) || !(c.norm_eps < 1))
    fail("{}: RMSNorm epsilon {} is not in (0, 1)", source, c.norm_eps);
  if (!(c.rope_theta >= 1) || !std::isfinite(c.rope_theta)) {
    fail("{}: RoPE theta {} is not a number of at least 1", source, c.rope_theta);
  }
  if (!c.rope_divisors.empty() && c.rope_divisors.size() != static_cast<size_t>(c.head_dim / 2)) {
    fail("{}: {} RoPE divisors for {} pairs", source, c.rope_divisors.size(), c.head_dim / 2);
  }
  for (const float divisor : c.rope_divisors) {
    if (!(divisor > 0) || !std::isfinite(divisor))
      fail("{}: RoPE divisor {} is not positive", source, divisor);
  }
}

int64_t Config::parameters() const {
  int64_t n = 0;
  for (const ParamSpec& spec : parameter_table(*this)) n += spec.shape.elements();
  return n;
}

std::vector<std::string> preset_names() { return {"gladius-125m", "gladius-tiny"}; }

Config preset(std::string_view name) {
  Config c;
  c.name = name;
  if (name == "gladius-125m") {
    c.vocab = 32000, c.hidden = 768, c.intermediate = 2048, c.layers = 12, c.heads = 12, c.kv_heads = 4,
    c.context = 2048;
  } else if (name == "gladius-tiny") {  // rows are multiples of 256, so that every matrix takes a k-quant
    c.vocab = 1024, c.hidden = 256, c.intermediate = 768, c.layers = 4, c.heads = 4, c.kv_heads = 2,
    c.context = 256;
  } else {
    fail("no model preset is called {}; there are gladius-125m and gladius-tiny", name);
  }
  c.head_dim = c.hidden / c.heads;
  return c;
}

std::vector<float> rope_scaling_divisors(const RopeScaling& s, float theta, int64_t head_dim) {
  // As transformers' rope type "llama3": by the wavelength of each pair, keep, divide, or blend.
  std::vector<float> divisors;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency =
        std::pow(static_cast<double>(theta), -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double turns = static_cast<double>(s.original_context) * frequency / (2 * std::numbers::pi);
    double divisor = 1;
    if (turns < s.low_freq_factor) {
      divisor = s.factor;
    } else if (turns <= s.high_freq_factor) {
      const double smooth =
          (turns - s.low_freq_factor) / (static_cast<double>(s.high_freq_factor) - s.low_freq_factor);
      divisor = 1 / ((1 - smooth) / s.factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

double training_flops(const Config& c, int64_t T) {
  const int64_t multiplied = layer_products(c) + c.vocab * c.hidden;
  const auto scores_and_mix =
      static_cast<double>(c.layers * c.heads * c.head_dim * (T + 1));  // 2 * (T + 1) / 2
  return 6.0 * (static_cast<double>(multiplied) + scores_and_mix);
}

double inference_flops(const Config& c, int64_t past, int64_t T) {
  const double visible =
      static_cast<double>(T) * (static_cast<double>(past) + static_cast<double>(T + 1) / 2);
  const double scores_and_mix = 2 * static_cast<double>(c.heads * c.head_dim) *
                                (static_cast<double>(c.layers - 1) * visible + static_cast<double>(past + T));
  const int64_t once = c.hidden * (2 * c.heads * c.head_dim + 3 * c.intermediate);  // of the last layer
  return 2 * (static_cast<double>(layer_products(c) - once) * static_cast<double>(T) +
              static_cast<double>(once + c.vocab * c.hidden) + scores_and_mix);
}

}  // namespace gladius
