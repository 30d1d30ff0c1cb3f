// The two 16-bit floating-point formats as bit patterns: IEEE 754 binary16 (F16) and bfloat16 (BF16).
// Conversions to 16 bits round to nearest, ties to even; conversions to float are exact. Always inlined, so
// that no object file holds a copy compiled for one instruction set that another could run.
#pragma once

#include <bit>
#include <cstdint>

namespace gladius {

// From 65520 on the result is infinity; NaN becomes a quiet NaN. All cases are computed and one is picked, so
// that loops vectorise.
__attribute__((always_inline)) constexpr uint16_t f32_to_f16(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t a = bits & 0x7fffffff;
  const int32_t normal = (a - (112 << 23) + 0xfff + (a >> 13 & 1)) >> 13;
  // Below 2^-14 the result is a multiple of 2^-24, the unit in the last place of 0.5f: adding 0.5f rounds to
  // one.
  const int32_t tiny = std::bit_cast<int32_t>(std::bit_cast<float>(a) + 0.5f) - 0x3f000000;
  int32_t result = a < 0x38800000 ? tiny : normal;
  result = a >= 0x477ff000 ? 0x7c00 : result;
  result = a > 0x7f800000 ? 0x7e00 : result;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | result);
}

// Exponent and mantissa move to their places in a float; the product corrects the exponent's bias, also of
// subnormals.
__attribute__((always_inline)) constexpr float f16_to_f32(uint16_t h) {
  const int32_t a = h & 0x7fff;
  const int32_t sign = (h & 0x8000) << 16;
  const int32_t special = a >= 0x7c00 ? 0x7f800000 : 0;  // infinity, NaN
  return std::bit_cast<float>(std::bit_cast<int32_t>(std::bit_cast<float>(a << 13) * 0x1p112f) | sign |
                              special);
}

__attribute__((always_inline)) constexpr uint16_t f32_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const bool nan = std::bit_cast<int32_t>(bits & 0x7fffffff) > 0x7f800000;
  return static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

__attribute__((always_inline)) constexpr float bf16_to_f32(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

}  // namespace gladius
