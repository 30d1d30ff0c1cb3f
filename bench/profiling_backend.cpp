#include "bench/profiling_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace gladius::bench {
namespace {

std::string with_shape(std::string_view operation, MatmulDims d) {
  return fmt::format("{} {}x{}x{}", operation, d.M, d.N, d.K);
}
std::string weight_product(WeightView W) { return fmt::format("matmul {}", dtype_info(W.dtype).name); }

}  // namespace

void print_profile(const Profile& profile, int64_t runs, double seconds, const ProfileRoof& roof) {
  const auto n = static_cast<double>(runs);
  fmt::print("peak {:.1f} GFLOP/s, {:.1f} GB/s\n", roof.flops * 1e-9, roof.bandwidth * 1e-9);
  fmt::print("{:<38} {:>6} {:>10} {:>7} {:>9} {:>7} {:>11}\n", "operation", "calls", "ms/run", "share",
             "GFLOP/s", "GB/s", "of roofline");
  double known = 0;
  for (const auto& [name, p] : profile) {
    known += p.seconds;
    const double least = std::max(p.flops / roof.flops, p.bytes / roof.bandwidth);  // seconds at the roofline
    fmt::print("{:<38} {:>6} {:>10.3f} {:>6.1f}% {:>9.1f} {:>7.1f} {:>10.0f}%\n", name, p.calls / runs,
               p.seconds / n * 1e3, 100 * p.seconds / seconds, p.flops / p.seconds * 1e-9,
               p.bytes / p.seconds * 1e-9, 100 * least / p.seconds);
  }
  fmt::print("{:<38} {:>6} {:>10.3f} {:>6.1f}%\n", "everything else", "", (seconds - known) / n * 1e3,
             100 * (1 - known / seconds));
}

template <class F>
void ProfilingBackend::time(const std::string& operation, const Cost& cost, F call) {
  if (!watches_) return call();
  const auto start = std::chrono::steady_clock::now();
  call();
  OperationProfile& sum = profile_[operation];
  sum.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  sum.flops += cost.flops;
  sum.bytes += cost.bytes;
  ++sum.calls;
}

void ProfilingBackend::matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  time(with_shape("matmul_nt", d), cost::matmul(d), [&] { backend_->matmul_nt(d, A, B, C, e); });
}
void ProfilingBackend::matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  time(with_shape("matmul_nn", d), cost::matmul(d), [&] { backend_->matmul_nn(d, A, B, C, e); });
}
void ProfilingBackend::matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  time(with_shape("matmul_tn", d), cost::matmul(d), [&] { backend_->matmul_tn(d, A, B, C, e); });
}
void ProfilingBackend::matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) {
  time(with_shape(weight_product(W), d), cost::matmul_weight(d, W.dtype),
       [&] { backend_->matmul_weight(d, A, W, C, e); });
}
void ProfilingBackend::matmul_weights(MatmulDims d, const float* A, std::span<const WeightProduct> products) {
  Cost cost;
  std::string name;
  d.N = 0;
  for (const WeightProduct& p : products) {
    cost += cost::matmul_weight({d.M, p.N, d.K}, p.W.dtype);
    d.N += p.N;
    name = name.empty() || name == weight_product(p.W) ? weight_product(p.W) : "matmul of mixed types";
  }
  time(with_shape(name, d), cost, [&] { backend_->matmul_weights(d, A, products); });
}

void ProfilingBackend::embedding(LossDims d, const int32_t* tokens, WeightView W, float* y) {
  time("embedding", cost::embedding(d, W.dtype), [&] { backend_->embedding(d, tokens, W, y); });
}
void ProfilingBackend::embedding_backward(LossDims d, const int32_t* tokens, const float* dy, float* dW,
                                          bool accumulate) {
  time("embedding_backward", cost::embedding_backward(d, accumulate),
       [&] { backend_->embedding_backward(d, tokens, dy, dW, accumulate); });
}

void ProfilingBackend::rms_norm(int64_t M, int64_t C, float eps, const float* x, const float* w, float* y,
                                float* r) {
  time("rms_norm", cost::rms_norm(M, C), [&] { backend_->rms_norm(M, C, eps, x, w, y, r); });
}
void ProfilingBackend::rms_norm_backward(int64_t M, int64_t C, const RmsNormState& f, const float* dy,
                                         GradTarget dx, GradTarget dw) {
  time("rms_norm_backward", cost::rms_norm_backward(M, C, dx.accumulate),
       [&] { backend_->rms_norm_backward(M, C, f, dy, dx, dw); });
}
void ProfilingBackend::rope(RopeDims d, const int32_t* positions, const float* cos, const float* sin,
                            RopeDirection direction, const float* x, float* y) {
  time("rope", cost::rope(d), [&] { backend_->rope(d, positions, cos, sin, direction, x, y); });
}

void ProfilingBackend::attention(const AttentionDims& d, const float* q, const float* k, const float* v,
                                 float* o, float* lse) {
  time("attention", cost::attention(d), [&] { backend_->attention(d, q, k, v, o, lse); });
}
void ProfilingBackend::attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                                          const AttentionGradients& g) {
  time("attention_backward", cost::attention_backward(d), [&] { backend_->attention_backward(d, f, dO, g); });
}
void ProfilingBackend::append_to_cache(const CachedAttentionDims& d, std::span<const SequenceRows> sequences,
                                       const float* k, const float* v, KvCacheView cache) {
  Cost cost;
  for (const SequenceRows& s : sequences) cost += cost::append_to_cache(d, s, cache.dtype);
  time("append_to_cache", cost, [&] { backend_->append_to_cache(d, sequences, k, v, cache); });
}
void ProfilingBackend::cached_attention(const CachedAttentionDims& d, std::span<const SequenceRows> sequences,
                                        const float* q, KvCacheView cache, float* o) {
  Cost cost;
  for (const SequenceRows& s : sequences) cost += cost::cached_attention(d, s, cache.dtype);
  time("cached_attention", cost, [&] { backend_->cached_attention(d, sequences, q, cache, o); });
}

void ProfilingBackend::swiglu(int64_t n, const float* g, const float* u, float* y) {
  time("swiglu", cost::swiglu(n), [&] { backend_->swiglu(n, g, u, y); });
}
void ProfilingBackend::swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                                       float* du) {
  time("swiglu_backward", cost::swiglu_backward(n), [&] { backend_->swiglu_backward(n, g, u, dy, dg, du); });
}

void ProfilingBackend::softmax(int64_t M, int64_t N, const float* x, float* y) {
  time("softmax", cost::softmax(M, N), [&] { backend_->softmax(M, N, x, y); });
}
void ProfilingBackend::softmax_backward(int64_t M, int64_t N, const float* y, const float* dy, float* dx) {
  time("softmax_backward", cost::softmax_backward(M, N),
       [&] { backend_->softmax_backward(M, N, y, dy, dx); });
}
void ProfilingBackend::linear_cross_entropy(LossDims d, const float* h, const float* W,
                                            const int32_t* targets, LogitsRoom logits, float* losses,
                                            const LossGradients& g) {
  time("linear_cross_entropy", cost::linear_cross_entropy(d, g.dh != nullptr),
       [&] { backend_->linear_cross_entropy(d, h, W, targets, logits, losses, g); });
}

void ProfilingBackend::adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) {
  time("adamw", cost::adamw(n), [&] { backend_->adamw(n, s, grad, p, m, v); });
}
double ProfilingBackend::sum_of_squares(int64_t n, const float* x) {
  double sum = 0;
  time("sum_of_squares", cost::sum_of_squares(n), [&] { sum = backend_->sum_of_squares(n, x); });
  return sum;
}

void ProfilingBackend::add(int64_t n, const float* a, const float* b, float* y) {
  time("add", cost::add(n), [&] { backend_->add(n, a, b, y); });
}
void ProfilingBackend::copy(int64_t n, const float* x, float* y) {
  time("copy", cost::copy(n), [&] { backend_->copy(n, x, y); });
}
void ProfilingBackend::fill(int64_t n, float value, float* y) {
  time("fill", cost::fill(n), [&] { backend_->fill(n, value, y); });
}

void ProfilingBackend::quantize(DType dtype, int64_t rows, int64_t cols, const float* x,
                                const float* importance, void* y) {
  time("quantize", cost::convert(dtype, rows, cols),
       [&] { backend_->quantize(dtype, rows, cols, x, importance, y); });
}
void ProfilingBackend::dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) {
  time("dequantize", cost::convert(dtype, rows, cols),
       [&] { backend_->dequantize(dtype, rows, cols, x, y); });
}

}  // namespace gladius::bench
