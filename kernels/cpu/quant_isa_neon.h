// The Arm instructions that quantised kernels need and xsimd lacks, a QuantIsa per instruction set
// (quant_isa.h).
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// What the Arm instruction sets share; Self names the instruction set.
template <class Self>
struct QuantNeon {
  using Bytes = int8x16_t;
  using Ints = int32x4_t;
  using Floats = float32x4_t;
  static constexpr int panel_step = 4;

  static GLADIUS_INLINE Bytes load(const int8_t* p) { return vld1q_s8(p); }
  static GLADIUS_INLINE Bytes repeat(int32_t four_bytes) {
    return vreinterpretq_s8_s32(vdupq_n_s32(four_bytes));
  }
  static GLADIUS_INLINE Ints multiply(Ints x, Ints y) { return vmulq_s32(x, y); }
  static GLADIUS_INLINE int32_t sum(Ints x) { return vaddvq_s32(x); }
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
  template <bool is_signed>
  static GLADIUS_INLINE Sums dot(Sums s, Bytes w, Bytes y) {
    return {vpadalq_s16(s.low, vmull_s8(vget_low_s8(w), vget_low_s8(y))),
            vpadalq_s16(s.high, vmull_high_s8(w, y))};
  }
  static GLADIUS_INLINE Ints total(Sums s) { return vpaddq_s32(s.low, s.high); }
};

#ifdef __ARM_FEATURE_DOTPROD
template <class Self>
struct QuantNeonDotprod : QuantNeon<Self> {
  using Sums = int32x4_t;
  static GLADIUS_INLINE Sums zero() { return vdupq_n_s32(0); }
  template <bool is_signed>
  static GLADIUS_INLINE Sums dot(Sums s, int8x16_t w, int8x16_t y) {
    return vdotq_s32(s, w, y);
  }
  static GLADIUS_INLINE int32x4_t total(Sums s) { return s; }
};

template <>
struct QuantIsa<struct NeonDotprod> : QuantNeonDotprod<QuantIsa<struct NeonDotprod>> {};
#endif

#ifdef __ARM_FEATURE_MATMUL_INT8
// Panels of steps of 8 elements: smmla multiplies two rows of 8 bytes by two others into a 2 × 2 matrix.
template <>
struct QuantIsa<struct NeonI8mm> : QuantNeonDotprod<QuantIsa<struct NeonI8mm>> {
  static constexpr int panel_step = 8;

  // The sums of panel_sums (quant_matmul-inl.h) for two activation rows.
  template <int length>
  static GLADIUS_INLINE void two_rows(const int8_t* panel, const int8_t* y0, const int8_t* y1, Ints& sums0,
                                      Ints& sums1) {
    int32x4_t first = vdupq_n_s32(0), second = vdupq_n_s32(0);  // weight rows 0, 1 and 2, 3
    for (int k = 0; k < length; k += panel_step) {
      const int8x16_t y = vcombine_s8(vld1_s8(y0 + k), vld1_s8(y1 + k));
      first = vmmlaq_s32(first, vld1q_s8(panel + 4 * k), y);
      second = vmmlaq_s32(second, vld1q_s8(panel + 4 * k + 16), y);
    }
    sums0 = vuzp1q_s32(first, second);
    sums1 = vuzp2q_s32(first, second);
  }
};
#endif

}  // namespace gladius::cpu
