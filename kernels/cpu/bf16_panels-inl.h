// BF16 factors on CPUs without instructions for their products: rounded while they are packed, held and
// multiplied as F32.
#pragma once

#include "kernels/cpu/register_tile-inl.h"

namespace gladius::cpu {

template <class Isa>
struct RoundedPanels {
  using V = Vec<Isa>;
  using Words = F32Panels<Isa>;
  static constexpr int64_t word_floats = 1, per_word = 1, per_float = 1;
  static constexpr bool plain = false;
  static GLADIUS_INLINE V along(const float* x) { return round(x); }
  static GLADIUS_INLINE V across(const float* x, int64_t) { return round(x); }

 private:
  static constexpr int64_t w = lanes<Isa>;
  using Bits __attribute__((vector_size(w * sizeof(uint32_t)))) = uint32_t;

  // To nearest, ties to even; a NaN stays one (f32_to_bf16).
  static GLADIUS_INLINE V round(const float* x) {
    RawVector<w> value;
    __builtin_memcpy(&value, x, sizeof(value));
    const Bits bits = reinterpret_cast<Bits>(value), nan = reinterpret_cast<Bits>(value != value);
    const Bits rounded = bits + 0x7fff + (bits >> 16 & 1);
    const Bits result = ((nan & (bits | 0x400000)) | (~nan & rounded)) & 0xffff0000;
    return load<Isa>(reinterpret_cast<const float*>(&result));
  }
};

}  // namespace gladius::cpu
