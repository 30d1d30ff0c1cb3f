#include "kernels/backend.h"

namespace gladius {
namespace {

class NullBackend final : public Backend {
 public:
  std::string name() const override { return "null"; }
  int threads() const override { return 1; }
  size_t scratch_bytes() const override { return 0; }

  void matmul_nt(MatmulDims, const float*, const float*, float*, Epilogue) override {}
  void matmul_nn(MatmulDims, const float*, const float*, float*, Epilogue) override {}
  void matmul_tn(MatmulDims, const float*, const float*, float*, Epilogue) override {}
  void matmul_weight(MatmulDims, const float*, WeightView, float*, Epilogue) override {}
  void embedding(LossDims, const int32_t*, WeightView, float*) override {}
  void embedding_backward(LossDims, const int32_t*, const float*, float*, bool) override {}
  void rms_norm(int64_t, int64_t, float, const float*, const float*, float*, float*) override {}
  void rms_norm_backward(int64_t, int64_t, const RmsNormState&, const float*, GradTarget,
                         GradTarget) override {}
  void rope(RopeDims, const int32_t*, const float*, const float*, RopeDirection, const float*,
            float*) override {}
  void attention(const AttentionDims&, const float*, const float*, const float*, float*, float*) override {}
  void attention_backward(const AttentionDims&, const AttentionState&, const float*,
                          const AttentionGradients&) override {}
  void append_to_cache(const CachedAttentionDims&, std::span<const SequenceRows>, const float*, const float*,
                       KvCacheView) override {}
  void cached_attention(const CachedAttentionDims&, std::span<const SequenceRows>, const float*, KvCacheView,
                        float*) override {}
  void swiglu(int64_t, const float*, const float*, float*) override {}
  void swiglu_backward(int64_t, const float*, const float*, const float*, float*, float*) override {}
  void softmax(int64_t, int64_t, const float*, float*) override {}
  void softmax_backward(int64_t, int64_t, const float*, const float*, float*) override {}
  void linear_cross_entropy(LossDims, const float*, const float*, const int32_t*, LogitsRoom, float*,
                            const LossGradients&) override {}
  void adamw(int64_t, const AdamWStep&, const float*, float*, float*, float*) override {}
  double sum_of_squares(int64_t, const float*) override { return 0; }
  void add(int64_t, const float*, const float*, float*) override {}
  void copy(int64_t, const float*, float*) override {}
  void fill(int64_t, float, float*) override {}
  void quantize(DType, int64_t, int64_t, const float*, const float*, void*) override {}
  void dequantize(DType, int64_t, int64_t, const void*, float*) override {}
};

}  // namespace

std::unique_ptr<Backend> make_null_backend() { return std::make_unique<NullBackend>(); }

}  // namespace gladius
