// AVX-512 with VNNI and BF16: Intel since Cooper Lake, AMD since Zen 4.
#include "kernels/cpu/half_panels-inl.h"
#include "kernels/cpu/isa/avx512.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/peak-inl.h"
#include "kernels/cpu/quant_bf16-inl.h"

namespace gladius::cpu {

struct Avx512Bf16 : Avx512Base<Avx512Bf16> {};

// Pairs of BF16 neighbours along the summed dimension, whose products one instruction adds to an F32 sum. It
// takes subnormal inputs for zero and rounds results to nearest even, subnormal ones to zero.
struct Bf16Pairs {
  using V = Vec<Avx512Bf16>;
  using Words = Bf16Pairs;
  static constexpr int64_t word_floats = 1, per_word = 2, per_float = 1;
  static constexpr bool plain = false;

  static GLADIUS_INLINE V along(const float* x) {
    return to_words(
        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x))));
  }
  static GLADIUS_INLINE V across(const float* x, int64_t stride) {
    return to_words(_mm512_or_si512(widened(x), _mm512_slli_epi32(widened(x + stride), 16)));
  }
  static GLADIUS_INLINE V load(const uint16_t* x) { return to_words(_mm512_loadu_si512(x)); }
  static GLADIUS_INLINE V load_first(const uint16_t* x, int64_t n) {
    return to_words(_mm512_maskz_loadu_epi16((__mmask32{1} << n) - 1, x));
  }
  static GLADIUS_INLINE V multiply_add(V a, V b, V sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(static_cast<__m512>(a)),
                            reinterpret_cast<__m512bh>(static_cast<__m512>(b)));
  }

 private:
  static GLADIUS_INLINE V to_words(__m512i x) { return _mm512_castsi512_ps(x); }
  static GLADIUS_INLINE __m512i widened(const float* x) {
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x))));
  }
};

const KernelTable& table_avx512_bf16() {
  static const KernelTable table = [] {
    KernelTable t{"avx512_bf16", table_avx512_vnni().f, table_avx512_vnni().q};
    t.f.gemm_bf16 = Gemm<Avx512Bf16, Bf16Pairs, Reads::packed>::kernel();
    t.f.peak_bf16 = {Peak<Avx512Bf16, Bf16Pairs>::flops_per_round,
                     Peak<Avx512Bf16, Bf16Pairs>::multiply_adds};
    t.q.pairs = make_pair_kernels<Avx512Bf16, Bf16Pairs>();
    t.q.pairs.gemm = pairs_gemm<Avx512Bf16, Bf16Pairs>();
    return t;
  }();
  return table;
}

}  // namespace gladius::cpu
