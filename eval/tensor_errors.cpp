#include "eval/tensor_errors.h"

#include <algorithm>

#include "engine/random.h"
#include "kernels/parallel.h"

namespace gladius {
namespace {

constexpr int64_t kPieceElements = 1 << 20;  // of a tensor that are converted at a time

double dot_with_difference(int64_t n, const float* g, const float* tested, const float* base) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(tested[i] - base[i]);
  return sum;
}

// G · (W_tested - W_base) of one tensor, added row by row.
double along_error(Context& ctx, const Tensor& base, const Tensor& tested) {
  const int64_t N = base.shape().rows(), K = base.shape()[-1];
  const int64_t rows = std::min(N, std::max<int64_t>(1, kPieceElements / K));
  const Tensor piece = ctx.empty({rows, K});
  const auto row_size = static_cast<size_t>(row_bytes(tested.dtype(), K));
  const float *g = base.grad(), *w = base.f32();
  std::vector<double> sums(static_cast<size_t>(N));
  for (int64_t first = 0; first < N; first += rows) {
    const int64_t last = std::min(N, first + rows);
    ctx.backend.dequantize(tested.dtype(), last - first, K,
                           tested.data() + static_cast<size_t>(first) * row_size, piece.f32());
    parallel_ranges(ctx.backend.threads(), last - first, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t at = (first + r) * K;
        sums[static_cast<size_t>(first + r)] = dot_with_difference(K, g + at, piece.f32() + r * K, w + at);
      }
    });
  }
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

// A token drawn with the softmax's probabilities; u in [0, 1).
int32_t draw(std::span<const float> softmax, double u) {
  double total = 0, below = 0;
  for (const float p : softmax) total += static_cast<double>(p);
  for (size_t v = 0; v < softmax.size(); ++v) {
    below += static_cast<double>(softmax[v]);
    if (below > u * total) return static_cast<int32_t>(v);
  }
  return static_cast<int32_t>(softmax.size()) - 1;
}

// Draws one window's targets and leaves the gradient of their summed loss in the model's weights.
class Sampler {
 public:
  Sampler(Context& ctx, const Model& model, const Chunks& windows, int32_t bos, uint64_t seed)
      : ctx_(ctx),
        model_(model),
        windows_(windows),
        bos_(bos),
        seed_(seed),
        rope_table_(make_rope_table(model.config, windows.context, ctx.pool)),
        batch_(make_token_batch(1, windows.context, ctx.pool)),
        targets_(ctx.pool, DType::I32, {windows.context}) {}

  void sample(int64_t index) {
    fill(batch_, windows_, index % windows_.count, bos_);
    Context recording = ctx_;
    recording.tape = &tape_;
    const Tensor hidden = forward(recording, model_, rope_table_, batch_);
    draw_targets(hidden, index);
    const Tensor loss = cross_entropy(recording, hidden, model_.head(), targets_, 1.0f);
    tape_.backward(ctx_.pool, loss);
  }

 private:
  void draw_targets(const Tensor& hidden, int64_t index) {
    const Random random(seed_, static_cast<uint64_t>(index));
    const int64_t begin = windows_.first_scored(), V = model_.config.vocab;
    std::fill_n(targets_.i32(), windows_.context, -1);
    for (int64_t first = 0; first < windows_.scored(); first += rows_at_once(model_.config)) {
      const int64_t last = std::min(windows_.scored(), first + rows_at_once(model_.config));
      const Tensor p = softmax(ctx_, logits(ctx_, model_, hidden.slice(begin + first, begin + last)));
      for (int64_t i = first; i < last; ++i)
        targets_.i32()[begin + i] = draw({p.f32() + (i - first) * V, static_cast<size_t>(V)},
                                         random.uniform(static_cast<uint64_t>(i)));
    }
  }

  Context ctx_;  // records nothing
  const Model& model_;
  const Chunks windows_;
  const int32_t bos_;
  const uint64_t seed_;
  RopeTable rope_table_;
  TokenBatch batch_;
  Tensor targets_;
  Tape tape_;
};

}  // namespace

std::string table_difference(const Model& a, const std::string& a_name, const Model& b,
                             const std::string& b_name) {
  if (a.specs.size() != b.specs.size())
    return fmt::format("{} and {} are not of one architecture: they have {} and {} tensors", a_name, b_name,
                       a.specs.size(), b.specs.size());
  for (size_t k = 0; k < a.specs.size(); ++k)
    if (a.specs[k].gguf_name != b.specs[k].gguf_name || a.specs[k].shape != b.specs[k].shape)
      return fmt::format("{} and {} are not of one architecture: {} {} and {} {}", a_name, b_name,
                         a.specs[k].gguf_name, a.specs[k].shape.text(), b.specs[k].gguf_name,
                         b.specs[k].shape.text());
  return {};
}

std::string config_difference(const Model& a, const std::string& a_name, const Model& b,
                              const std::string& b_name) {
  Config x = a.config, y = b.config;
  x.name = y.name, x.context = y.context;
  if (x == y) return {};
  return fmt::format("{} and {} differ in heads, RoPE or the norms' epsilon", a_name, b_name);
}

void check_same_architecture(const Model& a, const std::string& a_name, const Model& b,
                             const std::string& b_name) {
  for (const auto& difference :
       {table_difference(a, a_name, b, b_name), config_difference(a, a_name, b, b_name)})
    if (!difference.empty()) fail("{}", difference);
}

TensorErrors tensor_errors(Context& ctx, const Model& base, const Model& tested, const Chunks& windows,
                           int64_t samples, int32_t bos, uint64_t seed, const ChunkProgress& progress) {
  const size_t tensors = base.weights.size();
  const double scale = 0.5 / static_cast<double>(windows.scored());
  std::vector<std::vector<double>> divergences(tensors);
  std::vector<double> together;
  Sampler sampler(ctx, base, windows, bos, seed);
  for (int64_t s = 0; s < samples; ++s) {
    sampler.sample(s);
    double sum = 0;
    for (size_t k = 0; k < tensors; ++k) {
      const double along = along_error(ctx, base.weights[k], tested.weights[k]);
      base.weights[k].reset_grad();
      divergences[k].push_back(scale * along * along);
      sum += along;
    }
    together.push_back(scale * sum * sum);
    if (progress && !progress(s + 1, samples)) break;
  }
  TensorErrors errors{
      base.specs, {}, mean_of(together), static_cast<int64_t>(together.size()), windows.context};
  for (const auto& values : divergences) errors.kld.push_back(mean_of(values));
  return errors;
}

}  // namespace gladius
