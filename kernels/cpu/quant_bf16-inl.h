// Products with BF16 weights on CPUs that multiply pairs of BF16: activations stay in 16 bits, nothing is
// widened. Pairs is the instruction set's type of a vector of such pairs (isa/*_bf16.cpp), which says how
// their products are rounded; of what HalfProduct needs it has load, load_first and multiply_add.
#pragma once

#include <cstdint>

#include "kernels/cpu/half_matmul-inl.h"
#include "kernels/cpu/plain_panels-inl.h"

namespace gladius::cpu {

template <class Isa, class Pairs>
struct Bf16Halves : Pairs {
  using Activation = uint16_t;
  static constexpr int64_t step = 2 * lanes<Isa>;
  static GLADIUS_INLINE Vec<Isa> activations(const uint16_t* y) { return Pairs::load(y); }

  // BF16 values, then zeros up to a whole vector.
  static void convert(int64_t K, const float* x, std::byte* a) {
    auto* y = reinterpret_cast<uint16_t*>(a);
    for (int64_t i = 0; i < K; ++i) y[i] = f32_to_bf16(x[i]);
    for (int64_t i = K; i % step != 0; ++i) y[i] = 0;
  }
};

// A line of a panel is a pair of each row, read as a word.
template <class Isa, class Pairs>
struct PairLine : PanelLine<Isa, DType::F32> {
  static GLADIUS_INLINE Vec<Isa> multiply_add(Vec<Isa> w, Vec<Isa> y, Vec<Isa> sum) {
    return Pairs::multiply_add(w, y, sum);
  }
};

template <class Isa, class Pairs>
PairKernels make_pair_kernels() {
  const auto tile = [](const TileProduct& t) {
    t.panels ? PlainPanelProduct<Isa, PairLine<Isa, Pairs>>::run(t)
             : HalfProduct<Isa, Bf16Halves<Isa, Pairs>>::run(t);
  };
  return {Bf16Halves<Isa, Pairs>::convert, tile, {}};
}

}  // namespace gladius::cpu
