// A Backend that passes every call on to another one: the base of those that watch what goes by and override
// only what they watch.
#pragma once

#include "kernels/backend.h"

namespace gladius {

class ForwardingBackend : public Backend {
 public:
  std::string name() const override { return backend_->name(); }
  int threads() const override { return backend_->threads(); }
  size_t scratch_bytes() const override { return backend_->scratch_bytes(); }

  void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    backend_->matmul_nt(d, A, B, C, e);
  }
  void matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    backend_->matmul_nn(d, A, B, C, e);
  }
  void matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    backend_->matmul_tn(d, A, B, C, e);
  }
  void matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) override {
    backend_->matmul_weight(d, A, W, C, e);
  }
  int64_t panels_bytes(DType dtype, int64_t N, int64_t K) const override {
    return backend_->panels_bytes(dtype, N, K);
  }
  void make_panels(DType dtype, int64_t N, int64_t K, const void* rows, void* panels) override {
    backend_->make_panels(dtype, N, K, rows, panels);
  }

  void embedding(LossDims d, const int32_t* tokens, WeightView W, float* y) override {
    backend_->embedding(d, tokens, W, y);
  }
  void embedding_backward(LossDims d, const int32_t* tokens, const float* dy, float* dW,
                          bool accumulate) override {
    backend_->embedding_backward(d, tokens, dy, dW, accumulate);
  }

  void rms_norm(int64_t M, int64_t C, float eps, const float* x, const float* w, float* y,
                float* r) override {
    backend_->rms_norm(M, C, eps, x, w, y, r);
  }
  void rms_norm_backward(int64_t M, int64_t C, const RmsNormState& f, const float* dy, GradTarget dx,
                         GradTarget dw) override {
    backend_->rms_norm_backward(M, C, f, dy, dx, dw);
  }
  void rope(RopeDims d, const int32_t* positions, const float* cos, const float* sin, RopeDirection direction,
            const float* x, float* y) override {
    backend_->rope(d, positions, cos, sin, direction, x, y);
  }

  void attention(const AttentionDims& d, const float* q, const float* k, const float* v, float* o,
                 float* lse) override {
    backend_->attention(d, q, k, v, o, lse);
  }
  void attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                          const AttentionGradients& g) override {
    backend_->attention_backward(d, f, dO, g);
  }
  void append_to_cache(const CachedAttentionDims& d, std::span<const SequenceRows> sequences, const float* k,
                       const float* v, KvCacheView cache) override {
    backend_->append_to_cache(d, sequences, k, v, cache);
  }
  void cached_attention(const CachedAttentionDims& d, std::span<const SequenceRows> sequences, const float* q,
                        KvCacheView cache, float* o) override {
    backend_->cached_attention(d, sequences, q, cache, o);
  }

  void swiglu(int64_t n, const float* g, const float* u, float* y) override { backend_->swiglu(n, g, u, y); }
  void swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                       float* du) override {
    backend_->swiglu_backward(n, g, u, dy, dg, du);
  }

  void softmax(int64_t M, int64_t N, const float* x, float* y) override { backend_->softmax(M, N, x, y); }
  void softmax_backward(int64_t M, int64_t N, const float* y, const float* dy, float* dx) override {
    backend_->softmax_backward(M, N, y, dy, dx);
  }
  void linear_cross_entropy(LossDims d, const float* h, const float* W, const int32_t* targets,
                            LogitsRoom logits, float* losses, const LossGradients& g) override {
    backend_->linear_cross_entropy(d, h, W, targets, logits, losses, g);
  }

  void adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) override {
    backend_->adamw(n, s, grad, p, m, v);
  }
  double sum_of_squares(int64_t n, const float* x) override { return backend_->sum_of_squares(n, x); }

  void add(int64_t n, const float* a, const float* b, float* y) override { backend_->add(n, a, b, y); }
  void copy(int64_t n, const float* x, float* y) override { backend_->copy(n, x, y); }
  void fill(int64_t n, float value, float* y) override { backend_->fill(n, value, y); }

  void quantize(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance,
                void* y) override {
    backend_->quantize(dtype, rows, cols, x, importance, y);
  }
  void dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) override {
    backend_->dequantize(dtype, rows, cols, x, y);
  }

 protected:
  explicit ForwardingBackend(Backend& backend) : backend_(&backend) {}  // must outlive this one

  Backend* backend_;
};

}  // namespace gladius
