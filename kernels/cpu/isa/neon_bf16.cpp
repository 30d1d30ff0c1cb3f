// Arm with products of BF16 matrices: since Neoverse V1, Cortex-X2, Apple M2.
#include <arm_neon.h>

#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/isa/neon.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/peak-inl.h"
#include "kernels/cpu/quant_bf16-inl.h"

namespace gladius::cpu {

struct NeonBf16 : NeonBase<NeonBf16> {};

// Both instructions below take subnormal inputs for zero and add the products of two neighbours, then that to
// the sum, each rounded to odd, subnormal results to zero (Arm Architecture Reference Manual, BFDotAdd).

// Words of four BF16 neighbours along the summed dimension. A vector holds two rows of them; bfmmla adds the
// products of two rows of A and two columns of B to a 2 × 2 block of F32 sums.
struct Bf16Quads {
  using V = Vec<NeonBf16>;
  using Words = Bf16Quads;
  static constexpr int64_t word_floats = 2, per_word = 4, per_float = 1;
  static constexpr bool plain = false;

  static GLADIUS_INLINE V along(const float* x) { return to_words(rounded(vld1q_f32(x), vld1q_f32(x + 4))); }
  static GLADIUS_INLINE V across(const float* x, int64_t stride) {
    constexpr uint8x16_t transposed = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    const auto lines = [&](int64_t i) {
      return vcombine_f32(vld1_f32(x + i * stride), vld1_f32(x + (i + 1) * stride));
    };
    const uint8x16_t bytes = vreinterpretq_u8_bf16(rounded(lines(0), lines(2)));
    return to_words(vreinterpretq_bf16_u8(vqtbl1q_u8(bytes, transposed)));
  }
  static GLADIUS_INLINE V multiply_add(V a, V b, V sum) {
    return vbfmmlaq_f32(sum, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
  }

 private:
  static GLADIUS_INLINE V to_words(bfloat16x8_t x) { return vreinterpretq_f32_bf16(x); }
  static GLADIUS_INLINE bfloat16x8_t rounded(float32x4_t low, float32x4_t high) {
    return vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high);
  }
};

// Sums are held as 2 × 2 blocks: those of rows 2i and 2i + 1 in sums[2i] and sums[2i + 1], by turns along the
// columns. With an odd number of rows the last pair's second word is what follows in memory, its sums unused.
template <int R, int Vectors>
struct TileWalk<NeonBf16, Bf16Quads, R, Vectors, false, FromPanel> {
  using V = Vec<NeonBf16>;
  static constexpr int held = (R + 1) / 2 * 2;

  const float *a, *b;
  int64_t a_step, b_step;

  explicit GLADIUS_INLINE TileWalk(const TileFactors& f)
      : a(f.a), b(f.b), a_step(f.a_step), b_step(f.b_step) {}

  template <int Words>
  GLADIUS_INLINE void multiply(V (&sums)[held][Vectors]) {
    for (int word = 0; word < Words; ++word, a += a_step, b += b_step) {
      V columns[2 * Vectors];
#pragma GCC unroll 8
      for (int j = 0; j < 2 * Vectors; ++j) columns[j] = load<NeonBf16>(b + 4 * j);
#pragma GCC unroll 64
      for (int i = 0; i < held; i += 2) {
        // No load before its turn: GCC would load all rows at once and spill sums.
        __asm__ volatile("" ::: "memory");
        const V rows = load<NeonBf16>(a + 2 * i);
#pragma GCC unroll 8
        for (int j = 0; j < 2 * Vectors; ++j) {
          V& sum = sums[i + j % 2][j / 2];
          sum = Bf16Quads::multiply_add(rows, columns[j], sum);
        }
      }
    }
  }

  static GLADIUS_INLINE void finish(V (&sums)[held][Vectors]) {
#pragma GCC unroll 64
    for (int i = 0; i < held; i += 2) {
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        const float64x2_t left = vreinterpretq_f64_f32(sums[i][j]),
                          right = vreinterpretq_f64_f32(sums[i + 1][j]);
        sums[i][j] = vreinterpretq_f32_f64(vzip1q_f64(left, right));
        sums[i + 1][j] = vreinterpretq_f32_f64(vzip2q_f64(left, right));
      }
    }
  }
};

// Pairs of neighbours, for weights that are multiplied as they lie.
struct Bf16Pairs {
  using V = Vec<NeonBf16>;

  static GLADIUS_INLINE V load(const uint16_t* x) { return vreinterpretq_f32_u16(vld1q_u16(x)); }
  static GLADIUS_INLINE V load_first(const uint16_t* x, int64_t n) {
    uint16_t values[8] = {};
    for (int64_t i = 0; i < n; ++i) values[i] = x[i];
    return load(values);
  }
  static GLADIUS_INLINE V multiply_add(V a, V b, V sum) {
    return vbfdotq_f32(sum, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
  }
};

const KernelTable& table_neon_bf16() {
  static const KernelTable table = [] {
    KernelTable t{"neon_bf16", table_neon_i8mm().f, table_neon_i8mm().q};
    t.f.gemm_bf16 = Gemm<NeonBf16, Bf16Quads, Reads::packed>::kernel();
    t.f.peak_bf16 = {Peak<NeonBf16, Bf16Quads>::flops_per_round, Peak<NeonBf16, Bf16Quads>::multiply_adds};
    t.q.pairs = make_pair_kernels<NeonBf16, Bf16Pairs>();
    return t;
  }();
  return table;
}

}  // namespace gladius::cpu
