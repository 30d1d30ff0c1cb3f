// The Backend made of the plain loops in this folder.
#include <cstddef>
#include <vector>

#include "kernels/backend.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/cached_attention.h"
#include "kernels/reference/embedding.h"
#include "kernels/reference/loss.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/optimizer.h"
#include "kernels/reference/quant_dot.h"
#include "kernels/reference/quantize.h"
#include "kernels/reference/rope.h"
#include "kernels/reference/softmax.h"
#include "kernels/reference/swiglu.h"

namespace gladius {
namespace {

class ReferenceBackend final : public Backend {
 public:
  std::string name() const override { return "reference"; }
  int threads() const override { return 1; }
  size_t scratch_bytes() const override { return 0; }

  void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    reference::matmul_nt(d, A, B, C, e.accumulate, e.residual);
  }
  void matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    reference::matmul_nn(d, A, B, C, e.accumulate, e.residual);
  }
  void matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    reference::matmul_tn(d, A, B, C, e.accumulate, e.residual);
  }

  void matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) override {
    if (W.dtype == DType::F32) return matmul_nt(d, A, static_cast<const float*>(W.data), C, e);
    const DType activation = dtype_info(W.dtype).dot_with;
    std::vector<std::byte> a(static_cast<size_t>(row_bytes(activation, d.K)));
    const int64_t weight_row = row_bytes(W.dtype, d.K);
    for (int64_t m = 0; m < d.M; ++m) {
      reference::quantize_rows(activation, 1, d.K, A + m * d.K, nullptr, a.data());
      for (int64_t n = 0; n < d.N; ++n) {
        const std::byte* w = static_cast<const std::byte*>(W.data) + n * weight_row;
        float sum = reference::dot_row(W.dtype, d.K, w, a.data());
        if (e.accumulate) sum += C[m * d.N + n];
        if (e.residual) sum += e.residual[m * d.N + n];
        C[m * d.N + n] = sum;
      }
    }
  }

  void embedding(LossDims d, const int32_t* tokens, WeightView W, float* y) override {
    const int64_t row = row_bytes(W.dtype, d.C);
    for (int64_t m = 0; m < d.M; ++m)
      reference::dequantize_rows(W.dtype, 1, d.C, static_cast<const std::byte*>(W.data) + tokens[m] * row,
                                 y + m * d.C);
  }
  void embedding_backward(LossDims d, const int32_t* tokens, const float* dy, float* dW,
                          bool accumulate) override {
    reference::embedding_backward(d.M, d.C, d.V, tokens, dy, dW, accumulate);
  }

  void rms_norm(int64_t M, int64_t C, float eps, const float* x, const float* w, float* y,
                float* r) override {
    reference::rms_norm(M, C, double(eps), x, w, y, r);
  }
  void rms_norm_backward(int64_t M, int64_t C, const RmsNormState& f, const float* dy, GradTarget dx,
                         GradTarget dw) override {
    if (dx.data) reference::rms_norm_backward_input(M, C, f.x, f.w, f.r, dy, dx.data, dx.accumulate);
    if (dw.data) reference::rms_norm_backward_weight(M, C, f.x, f.r, dy, dw.data, dw.accumulate);
  }

  void rope(RopeDims d, const int32_t* positions, const float* cos, const float* sin, RopeDirection direction,
            const float* x, float* y) override {
    reference::rope(d, positions, cos, sin, direction, x, y);
  }

  void attention(const AttentionDims& d, const float* q, const float* k, const float* v, float* o,
                 float* lse) override {
    reference::attention(d, q, k, v, o, lse);
  }
  void attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                          const AttentionGradients& g) override {
    reference::attention_backward(d, {f.q, f.k, f.v, f.o, f.lse}, dO, g.dq, g.dk, g.dv);
  }
  void append_to_cache(const CachedAttentionDims& d, std::span<const SequenceRows> sequences, const float* k,
                       const float* v, KvCacheView cache) override {
    for (const SequenceRows& s : sequences) {
      reference::append_to_cache(d, s, cache.dtype, k, cache.k);
      reference::append_to_cache(d, s, cache.dtype, v, cache.v);
    }
  }
  void cached_attention(const CachedAttentionDims& d, std::span<const SequenceRows> sequences, const float* q,
                        KvCacheView cache, float* o) override {
    for (const SequenceRows& s : sequences) reference::cached_attention(d, s, q, cache, o);
  }

  void swiglu(int64_t n, const float* g, const float* u, float* y) override { reference::swiglu(n, g, u, y); }
  void swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                       float* du) override {
    reference::swiglu_backward(n, g, u, dy, dg, du);
  }

  void softmax(int64_t M, int64_t N, const float* x, float* y) override { reference::softmax(M, N, x, y); }
  void softmax_backward(int64_t M, int64_t N, const float* y, const float* dy, float* dx) override {
    reference::softmax_backward(M, N, y, dy, dx);
  }
  void linear_cross_entropy(LossDims d, const float* h, const float* W, const int32_t* targets,
                            LogitsRoom logits, float* losses, const LossGradients& g) override {
    reference::linear_cross_entropy(d, h, W, targets, double(g.scale), logits.data, logits.rows, losses, g.dh,
                                    g.dW.data, g.dW.accumulate);
  }

  void adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) override {
    reference::adamw(n, s, grad, p, m, v);
  }
  double sum_of_squares(int64_t n, const float* x) override { return reference::sum_of_squares(n, x); }

  void add(int64_t n, const float* a, const float* b, float* y) override {
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
  }
  void copy(int64_t n, const float* x, float* y) override {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i];
  }
  void fill(int64_t n, float value, float* y) override {
    for (int64_t i = 0; i < n; ++i) y[i] = value;
  }

  void quantize(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance,
                void* y) override {
    reference::quantize_rows(dtype, rows, cols, x, importance, y);
  }
  void dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) override {
    reference::dequantize_rows(dtype, rows, cols, x, y);
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace gladius
