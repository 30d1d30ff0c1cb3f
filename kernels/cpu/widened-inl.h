// Elements of F32, F16 and BF16 as vectors of floats, exactly.
#pragma once

#include <cstdint>

#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/simd.h"
#include "kernels/dtype.h"

namespace gladius::cpu {

template <class Isa, DType type>
struct Widened {
  using V = Vec<Isa>;
  static_assert(type == DType::F32 || type == DType::F16 || type == DType::BF16);
  static constexpr int64_t bytes = type == DType::F32 ? 4 : 2;  // of an element

  // A vector of elements from x on.
  static GLADIUS_INLINE V load(const void* x) {
    if constexpr (type == DType::F32)
      return gladius::cpu::load<Isa>(static_cast<const float*>(x));
    else if constexpr (type == DType::F16)
      return QuantIsa<Isa>::from_f16(static_cast<const uint16_t*>(x));
    else
      return QuantIsa<Isa>::from_bf16(static_cast<const uint16_t*>(x));
  }
  // The first n < lanes of them, then zeros.
  static GLADIUS_INLINE V load_first(const void* x, int64_t n) {
    if constexpr (type == DType::F32) {
      return gladius::cpu::load_first<Isa>(static_cast<const float*>(x), n);
    } else {
      uint16_t first[lanes<Isa>] = {};
      for (int64_t i = 0; i < n; ++i) first[i] = static_cast<const uint16_t*>(x)[i];
      return load(first);
    }
  }
};

}  // namespace gladius::cpu
