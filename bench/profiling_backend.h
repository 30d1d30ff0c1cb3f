// A Backend that passes every call on to another one and remembers how long each kind of operation took.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "bench/costs.h"
#include "kernels/forwarding_backend.h"

namespace gladius::bench {

// Sums over calls; what is counted, costs.h says.
struct OperationProfile {
  int64_t calls = 0;
  double seconds = 0, flops = 0, bytes = 0;
};
using Profile = std::map<std::string, OperationProfile>;

// What a machine can do at most: floating-point operations and bytes a second.
struct ProfileRoof {
  double flops, bandwidth;
};
// A table of the operations of `runs` equal runs, which took `seconds` in all, each beside the roof.
void print_profile(const Profile& profile, int64_t runs, double seconds, const ProfileRoof& roof);

class ProfilingBackend final : public ForwardingBackend {
 public:
  explicit ProfilingBackend(std::unique_ptr<Backend> backend)
      : ForwardingBackend(*backend), owned_(std::move(backend)) {}

  // By operation, for matrix products with their shapes: "matmul_nt 1024x768x768", "matmul Q4_K 1x768x768".
  const Profile& profile() const { return profile_; }
  void reset() { profile_.clear(); }
  void watch(bool on) { watches_ = on; }

  void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) override;
  void matmul_weights(MatmulDims d, const float* A, std::span<const WeightProduct> products) override;
  void embedding(LossDims d, const int32_t* tokens, WeightView W, float* y) override;
  void embedding_backward(LossDims d, const int32_t* tokens, const float* dy, float* dW,
                          bool accumulate) override;
  void rms_norm(int64_t M, int64_t C, float eps, const float* x, const float* w, float* y, float* r) override;
  void rms_norm_backward(int64_t M, int64_t C, const RmsNormState& f, const float* dy, GradTarget dx,
                         GradTarget dw) override;
  void rope(RopeDims d, const int32_t* positions, const float* cos, const float* sin, RopeDirection direction,
            const float* x, float* y) override;
  void attention(const AttentionDims& d, const float* q, const float* k, const float* v, float* o,
                 float* lse) override;
  void attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                          const AttentionGradients& g) override;
  void append_to_cache(const CachedAttentionDims& d, std::span<const SequenceRows> sequences, const float* k,
                       const float* v, KvCacheView cache) override;
  void cached_attention(const CachedAttentionDims& d, std::span<const SequenceRows> sequences, const float* q,
                        KvCacheView cache, float* o) override;
  void swiglu(int64_t n, const float* g, const float* u, float* y) override;
  void swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                       float* du) override;
  void softmax(int64_t M, int64_t N, const float* x, float* y) override;
  void softmax_backward(int64_t M, int64_t N, const float* y, const float* dy, float* dx) override;
  void linear_cross_entropy(LossDims d, const float* h, const float* W, const int32_t* targets,
                            LogitsRoom logits, float* losses, const LossGradients& g) override;
  void adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) override;
  double sum_of_squares(int64_t n, const float* x) override;
  void add(int64_t n, const float* a, const float* b, float* y) override;
  void copy(int64_t n, const float* x, float* y) override;
  void fill(int64_t n, float value, float* y) override;
  void quantize(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance,
                void* y) override;
  void dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) override;

 private:
  template <class F>
  void time(const std::string& operation, const Cost& cost, F call);

  std::unique_ptr<Backend> owned_;
  Profile profile_;
  bool watches_ = true;
};

}  // namespace gladius::bench
