// The table of floating-point kernels of one instruction set.
#pragma once

#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention_backward-inl.h"
#include "kernels/cpu/bf16_panels-inl.h"
#include "kernels/cpu/elementwise-inl.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/half_panels-inl.h"
#include "kernels/cpu/peak-inl.h"
#include "kernels/cpu/rows-inl.h"

namespace gladius::cpu {

template <class Isa, class Panels>
PeakKernel make_peak() {
  return {Peak<Isa, Panels>::flops_per_round, Peak<Isa, Panels>::multiply_adds};
}

// Lines of A are packed for tiles lower than half a cache line: each of these would come several times, for
// less than half of it.
template <class Isa>
constexpr GemmKernel lines_kernel() {
  constexpr Reads reads = 2 * Isa::gemm_rows >= floats_per_line ? Reads::lines : Reads::packed;
  return Gemm<Isa, F32Panels<Isa>, reads>::kernel();
}

template <class Isa>
FloatKernels make_float_kernels() {
  FloatKernels f{};
  f.gemm = Gemm<Isa, F32Panels<Isa>, Reads::packed>::kernel();
  f.gemm_rows = Gemm<InPlaceTile<Isa>, F32Panels<InPlaceTile<Isa>>, Reads::rows>::kernel();
  f.gemm_lines = lines_kernel<Isa>();
  f.gemm_one_row = OneRow<Isa>::kernel();
  f.gemm_bf16 = Gemm<Isa, RoundedPanels<Isa>, Reads::packed>::kernel();
  f.gemm_f16_weights = widening_gemm<Isa, DType::F16>();
  f.gemm_bf16_weights = widening_gemm<Isa, DType::BF16>();
  f.few_rows_tile = FewRows<Isa>::run;
  f.attention = AttentionForward<Isa>::run;
  f.attention_merge = AttentionForward<Isa>::merge;
  f.attention_backward = AttentionBackward<Isa>::run;
  f.rms_norm = Rows<Isa>::rms_norm;
  f.rms_norm_backward = Rows<Isa>::rms_norm_backward;
  f.rope = Rows<Isa>::rope;
  f.softmax = Rows<Isa>::softmax;
  f.softmax_backward = Rows<Isa>::softmax_backward;
  f.cross_entropy = Rows<Isa>::cross_entropy;
  f.swiglu = Elementwise<Isa>::swiglu;
  f.swiglu_backward = Elementwise<Isa>::swiglu_backward;
  f.adamw = Elementwise<Isa>::adamw;
  f.sum_of_squares = Elementwise<Isa>::sum_of_squares;
  f.add = Elementwise<Isa>::add;
  f.peak = make_peak<Isa, F32Panels<Isa>>();
  f.peak_bf16 = f.peak;
  f.read = Peak<Isa, F32Panels<Isa>>::read;
  return f;
}

}  // namespace gladius::cpu
