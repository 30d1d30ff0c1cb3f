// The CPU's Backend: cuts each operation into tasks, whose borders depend on shapes only, and gives them to
// threads; the tasks run the kernels of one instruction set. Backends that compute some operations elsewhere
// derive from it.
#pragma once

#include <sys/mman.h>

#include <memory>
#include <new>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/cpu/isas.h"

namespace gladius::cpu {

// Uninitialised memory, in huge pages where it is large and there are some: fewer address translations.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n)
      : bytes_(whole_pages(static_cast<size_t>(n) * sizeof(T))),
        data_(static_cast<T*>(::operator new(bytes_, std::align_val_t{huge_page}))) {
    if (bytes_ >= huge_page) ::madvise(data_.get(), bytes_, MADV_HUGEPAGE);
  }
  T* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t huge_page = 2 << 20;
  // A huge page is only used whole; half a page more than is needed is worth it.
  static constexpr size_t whole_pages(size_t bytes) {
    return bytes < huge_page / 2 ? bytes : (bytes + huge_page - 1) / huge_page * huge_page;
  }
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{huge_page}); }
  };
  size_t bytes_;
  std::unique_ptr<T, Free> data_;
};

class CpuBackend : public Backend {
 public:
  // threads below 1 count as 1. Allocates all the memory that it will ever use, 11.5 MiB and up to 2.5 MiB
  // a thread, each part in whole huge pages, but for attention with heads wider than attention_max_width.
  CpuBackend(int threads, const Isa& isa);

  std::string name() const override;
  int threads() const override { return threads_; }
  size_t scratch_bytes() const override;

  void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) override;
  void matmul_weights(MatmulDims d, const float* A, std::span<const WeightProduct> products) override;
  int64_t panels_bytes(DType dtype, int64_t N, int64_t K) const override;
  void make_panels(DType dtype, int64_t N, int64_t K, const void* rows, void* panels) override;
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
  const GemmKernel& gemm_kernel(MatmulDims d, const GemmOperand& A, const GemmOperand& B) const;
  void gemm(const GemmKernel& kernel, MatmulDims d, const GemmOperand& A, const GemmOperand& B, float* C,
            Epilogue e);
  void gemm(MatmulDims d, const GemmOperand& A, const GemmOperand& B, float* C, Epilogue e);
  // By weights that A is converted for in the same way, of one type unless quantised, all of them rows or all
  // in panels.
  void products_alike(MatmulDims d, const float* A, std::span<const WeightProduct> products, Epilogue e);
  void plain_products(MatmulDims d, const float* A, std::span<const WeightProduct> products, Epilogue e);
  void few_rows_product(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) const;
  void quantized_products(MatmulDims d, const float* A, std::span<const WeightProduct> products, Epilogue e);

  int threads_;
  const KernelTable& table_;
  const FloatKernels& f_;
  bool quick_bf16_;
  SecondLevelCache cache_;
  int64_t packed_b_floats_;       // of B that a thread packs at a time: a part of the second-level cache
  Scratch<float> gemm_;           // gemm_packed_a_floats + packed_b_floats_ a thread
  Scratch<std::byte> converted_;  // activations for a weight that they are converted for
  Scratch<float> attention_;      // attention_scratch floats a thread
  Scratch<float> partials_;       // attention_partials × attention_partial_floats
  Scratch<double> partial_sums_;  // of sum_of_squares
  Scratch<float> norm_partials_;  // of the gradients of RMSNorm's weights
};

}  // namespace gladius::cpu
