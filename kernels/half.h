// The two 16-bit floating-point formats as bit patterns: IEEE 754 binary16 (F16) and bfloat16 (BF16).
// Conversions to 16 bits round to nearest, ties to even; conversions to float are exact. Always inlined, so
// that no object file holds a copy compiled for one instruction set that another could run.
#pragma once

#include <bit>
#include <cstdint>

namespace gladius {

// From 65520 on the result is infinity; NaN stays NaN.
__attribute__((always_inline)) constexpr uint16_t f32_to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t a = bits & 0x7fffffff;
  if (a > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (a >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  // Below 2^-14 the result is a multiple of 2^-24, the unit in the last place of 0.5f: adding 0.5f rounds to
  // one.
  if (a < 0x38800000)
    return static_cast<uint16_t>(sign |
                                 (std::bit_cast<uint32_t>(std::bit_cast<float>(a) + 0.5f) - 0x3f000000));
  return static_cast<uint16_t>(sign | (a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13);
}

__attribute__((always_inline)) constexpr float f16_to_f32(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16;
  const uint32_t a = h & 0x7fffu;
  uint32_t bits = 0;
  if (a < 0x0400)
    bits = std::bit_cast<uint32_t>(static_cast<float>(a) * 0x1p-24f);
  else
    bits = (a << 13) + (a < 0x7c00 ? 112u << 23 : 224u << 23);
  return std::bit_cast<float>(sign | bits);
}

__attribute__((always_inline)) constexpr uint16_t f32_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

__attribute__((always_inline)) constexpr float bf16_to_f32(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

}  // namespace gladius
