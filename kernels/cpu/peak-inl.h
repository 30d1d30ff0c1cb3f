// What a core can do at most: multiply-adds that wait for nothing, and reads of memory.
#pragma once

#include "kernels/cpu/register_tile-inl.h"

namespace gladius::cpu {

template <class Isa, class Panels>
struct Peak {
  using V = Vec<Isa>;
  static constexpr int chains =
      Isa::gemm_rows * Isa::gemm_vectors;  // as many independent sums as a register tile
  static_assert(chains >= 8);
  static constexpr int64_t flops_per_round = 2 * chains * lanes<Isa> * Panels::per_word;

  // Returns a number that depends on all of them, so that none is left out.
  static float multiply_adds(int64_t rounds) {
    volatile float small = 1e-3f;
    const V a(small), b(small);
    V sums[chains];
#pragma GCC unroll 64
    for (int i = 0; i < chains; ++i) sums[i] = V(static_cast<float>(i));
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 64
      for (int i = 0; i < chains; ++i) sums[i] = Panels::multiply_add(a, b, sums[i]);
    }
    V sum = sums[0];
    for (int i = 1; i < chains; ++i) sum = sum + sums[i];
    return reduce_add<Isa>(sum);
  }

  // Adds n floats, a multiple of 8 vectors.
  static float read(int64_t n, const float* x) {
    constexpr int parts = 8;
    V sums[parts];
    for (V& sum : sums) sum = V(0.0f);
    for (int64_t i = 0; i < n; i += parts * lanes<Isa>) {
#pragma GCC unroll 8
      for (int part = 0; part < parts; ++part) sums[part] = sums[part] + load<Isa>(x + i + part * lanes<Isa>);
    }
    V sum = sums[0];
    for (int part = 1; part < parts; ++part) sum = sum + sums[part];
    return reduce_add<Isa>(sum);
  }
};

}  // namespace gladius::cpu
