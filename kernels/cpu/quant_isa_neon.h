// The Arm instructions that quantised kernels need and xsimd lacks, a QuantIsa per instruction set
// (quant_isa.h).
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// What the Arm instruction sets share; Self names the instruction set.
template <class Self>
struct QuantNeon {
  using Bytes = int8x16_t;
  using Ints = int32x4_t;
  using Floats = float32x4_t;
  static constexpr bool unsigned_only = false, pairs_rows = false, scales_pairs = false;
  static constexpr int tile_vectors = 2, tile_activations = 4;

  static GLADIUS_INLINE Bytes load(const int8_t* p) { return vld1q_s8(p); }
  static GLADIUS_INLINE Bytes repeat(int32_t four_bytes) {
    return vreinterpretq_s8_s32(vdupq_n_s32(four_bytes));
  }
  static GLADIUS_INLINE Ints multiply(Ints x, Ints y) { return vmulq_s32(x, y); }
  static GLADIUS_INLINE int32_t sum(Ints x) { return vaddvq_s32(x); }
  static GLADIUS_INLINE Ints add_pairs(Ints sum, Ints w, int32_t y) {
    const int16x8_t pairs = vreinterpretq_s16_s32(w), both = vreinterpretq_s16_s32(vdupq_n_s32(y));
    return vaddq_s32(
        sum, vpaddq_s32(vmull_s16(vget_low_s16(pairs), vget_low_s16(both)), vmull_high_s16(pairs, both)));
  }
  static GLADIUS_INLINE Ints pair_bytes(const int8_t* x, const int8_t* y) {
    uint32_t four_x, four_y;
    std::memcpy(&four_x, x, 4);
    std::memcpy(&four_y, y, 4);
    return vreinterpretq_s32_s16(vmovl_s8(vzip1_s8(vcreate_s8(four_x), vcreate_s8(four_y))));
  }
  static GLADIUS_INLINE Floats from_f16(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
  static GLADIUS_INLINE Floats from_bf16(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
};

template <>
struct QuantIsa<struct Neon> : QuantNeon<QuantIsa<struct Neon>> {
  // Sums of pairs of products: of bytes 0-7 and of bytes 8-15.
  struct Sums {
    int32x4_t low, high;
  };
  static GLADIUS_INLINE Sums zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  template <bool is_signed, int max_code>
  static GLADIUS_INLINE void dot(Sums& s, Bytes w, Bytes y, int) {
    s.low = vpadalq_s16(s.low, vmull_s8(vget_low_s8(w), vget_low_s8(y)));
    s.high = vpadalq_s16(s.high, vmull_high_s8(w, y));
  }
  static GLADIUS_INLINE Ints total(Sums s) { return vpaddq_s32(s.low, s.high); }
};

#ifdef __ARM_FEATURE_DOTPROD
template <class Self>
struct QuantNeonDotprod : QuantNeon<Self> {
  using Sums = int32x4_t;
  static GLADIUS_INLINE Sums zero() { return vdupq_n_s32(0); }
  template <bool is_signed, int max_code>
  static GLADIUS_INLINE void dot(Sums& s, int8x16_t w, int8x16_t y, int) {
    s = vdotq_s32(s, w, y);
  }
  static GLADIUS_INLINE int32x4_t total(Sums s) { return s; }
};

template <>
struct QuantIsa<struct NeonDotprod> : QuantNeonDotprod<QuantIsa<struct NeonDotprod>> {};
#endif

#ifdef __ARM_FEATURE_MATMUL_INT8
// smmla multiplies two rows of 8 bytes by two others into a 2 × 2 matrix.
template <>
struct QuantIsa<struct NeonI8mm> : QuantNeonDotprod<QuantIsa<struct NeonI8mm>> {
  static constexpr bool pairs_rows = true;

  // The sums of `units` times four products of four weight rows, whose codes lie in a vector of fours every
  // `stride` bytes, and two activations.
  template <int units>
  static GLADIUS_INLINE void two_rows(const int8_t* w, int64_t stride, const int8_t* y0, const int8_t* y1,
                                      Ints& sums0, Ints& sums1) {
    int32x4_t first = vdupq_n_s32(0), second = vdupq_n_s32(0);  // weight rows 0, 1 and 2, 3
#pragma GCC unroll 8
    for (int u = 0; u < units; u += 2) {
      const int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(w + u * stride)),
                      b = vreinterpretq_s32_s8(vld1q_s8(w + (u + 1) * stride));
      const int8x16_t y = vcombine_s8(vld1_s8(y0 + 4 * u), vld1_s8(y1 + 4 * u));
      first = vmmlaq_s32(first, vreinterpretq_s8_s32(vzip1q_s32(a, b)), y);
      second = vmmlaq_s32(second, vreinterpretq_s8_s32(vzip2q_s32(a, b)), y);
    }
    sums0 = vuzp1q_s32(first, second);
    sums1 = vuzp2q_s32(first, second);
  }
};
#endif

}  // namespace gladius::cpu
