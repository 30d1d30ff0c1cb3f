// Products of few activations with quantised weights as they lie in a file: a row's codes are unpacked and
// multiplied with each activation in place.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/quant_formats-inl.h"
#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/quant_rows-inl.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tile_store-inl.h"

namespace gladius::cpu {

template <class Isa>
using IntVec = xsimd::batch<int32_t, typename Isa::Arch>;

template <class Isa, DType type>
struct RowProduct {
  using F = Format<type>;
  using Q = QuantIsa<Isa>;
  using V = Vec<Isa>;
  using I = IntVec<Isa>;
  using Row = ActivationRow<Isa, type, const std::byte>;
  static constexpr int L = static_cast<int>(lanes<Isa>);

  static GLADIUS_INLINE Row activation(const TileProduct& t, int64_t m) {
    return Row::at(t.a + m * t.a_stride, t.K);
  }

  // Products of 4 L neighbouring codes, added in fours.
  static GLADIUS_INLINE I products(const int8_t* w, const int8_t* y) {
    typename Q::Sums sums = Q::zero();
    Q::template dot<F::is_signed, 128>(sums, Q::load(w), Q::load(y), 0);
    return Q::total(sums);
  }

  // Eight numbers from memory.
  template <class Vector, class T>
  static GLADIUS_INLINE void load_eight(const T* p, Vector& v) {
    std::memcpy(&v, p, sizeof(v));
  }

  // v[b][0] + ... + v[b][7] for eight b: neighbours are added across two vectors at a time, which leaves the
  // eight sums in order in one.
  static GLADIUS_INLINE void sum_eights(const Ints32* v, Ints32& sums) {
    const auto halve = [](const Ints32& x, const Ints32& y, Ints32& sum) __attribute__((always_inline)) {
      sum = __builtin_shufflevector(x, y, 0, 2, 8, 10, 4, 6, 12, 14) +
            __builtin_shufflevector(x, y, 1, 3, 9, 11, 5, 7, 13, 15);
    };
    Ints32 pairs[4], fours[2];
    for (int i = 0; i < 4; ++i) halve(v[2 * i], v[2 * i + 1], pairs[i]);
    for (int i = 0; i < 2; ++i) halve(pairs[2 * i], pairs[2 * i + 1], fours[i]);
    sums = __builtin_shufflevector(fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15);
  }

  // sum + the products of B (1 or 8) blocks, from block b of the chunk and block `first` of the activation
  // on.
  template <int B>
  static GLADIUS_INLINE float add_blocks(float sum, const Chunk<Isa>& c, int b, const Row& y, int64_t first) {
    alignas(64) Ints32 v[B < 2 ? 2 : B];  // a vector may hold two blocks
    for (int i = 0; i < B * F::size; i += 4 * L)
      products(c.codes + b * F::size + i, y.codes + first * F::size + i)
          .store_aligned(reinterpret_cast<int32_t*>(v) + i / 4);
    Ints32 sums{};
    if constexpr (B == 8) {
      sum_eights(v, sums);
    } else {
      for (int i = 0; i < 8; ++i) sums[0] += v[0][i];
    }
    if constexpr (B == 1) {
      const int32_t s = sums[0] - F::zero * y.sums()[first];
      float term = c.d[b] * y.d()[first] * static_cast<float>(s);
      if constexpr (F::has_min) term += c.m[b] * y.s()[first];
      return sum + term;
    } else {
      if constexpr (F::zero != 0) {
        Ints32 codes;
        load_eight(y.sums() + first, codes);
        sums -= F::zero * codes;
      }
      Floats32 dw, dy;
      load_eight(c.d, dw);
      load_eight(y.d() + first, dy);
      Floats32 terms = dw * dy * __builtin_convertvector(sums, Floats32);
      if constexpr (F::has_min) {
        Floats32 mw, sy;
        load_eight(c.m, mw);
        load_eight(y.s() + first, sy);
        terms += mw * sy;
      }
      for (int i = 0; i < B; ++i) sum += terms[i];
      return sum;
    }
  }

  // The product of a super-block. fours_scales[i]: the scale of elements 4 i .. 4 i + 3.
  static GLADIUS_INLINE float super_product(const Chunk<Isa>& c, const int32_t* fours_scales, const Row& y,
                                            int64_t k) {
    constexpr int groups = F::size / F::group;
    const int16_t* sums = y.group_sums() + k / F::group;
    const int64_t block = k / F::size;
    I total(0);
    for (int i = 0; i < F::size; i += 4 * L)
      total = total +
              I(Q::multiply(products(c.codes + i, y.codes + k + i), I::load_aligned(fours_scales + i / 4)));
    int32_t sum = Q::sum(total), offset = 0;
    if constexpr (F::zero != 0) {
      for (int g = 0; g < groups; ++g) offset += c.scales[g] * sums[g];
      sum -= F::zero * offset;
    }
    const float product = c.d[0] * y.d()[block] * static_cast<float>(sum);
    if constexpr (!F::has_min) return product;
    for (int g = 0; g < groups; ++g) offset += c.mins[g] * sums[g];
    return product - c.m[0] * y.d()[block] * static_cast<float>(offset);
  }

  static constexpr int64_t most_activations = 3;  // with more, panels are faster

  static void run(const TileProduct& t) {
    Row y[most_activations];
    for (int64_t m = 0; m < t.a_rows; ++m) y[m] = activation(t, m);
    for (int64_t n = 0; n < t.w_rows; ++n) {
      const auto* w = reinterpret_cast<const typename F::Block*>(t.w + n * t.w_stride);
      float sums[most_activations] = {};
      Chunk<Isa> c;
      for (int64_t k = 0; k < t.K; k += kChunk) {
        const int elements = static_cast<int>(t.K - k < kChunk ? t.K - k : kChunk);
        Unpack<Isa>::template chunk<type>(w + k / F::size, elements, c);
        if constexpr (F::super) {
          alignas(64) int32_t fours_scales[kChunk / 4];
          using Scales = std::conditional_t<F::group == 32, Ints32, Ints16>;
          for (int g = 0; g < F::size / F::group; ++g) {
            const Scales repeated = Scales{} + c.scales[g];
            std::memcpy(fours_scales + g * F::group / 4, &repeated, sizeof(repeated));
          }
          for (int64_t m = 0; m < t.a_rows; ++m) sums[m] += super_product(c, fours_scales, y[m], k);
        } else {
          for (int64_t m = 0; m < t.a_rows; ++m) {
            if (elements == kChunk) {
              sums[m] = add_blocks<8>(sums[m], c, 0, y[m], k / F::size);
            } else {
              for (int b = 0; b < elements / F::size; ++b)
                sums[m] = add_blocks<1>(sums[m], c, b, y[m], k / F::size + b);
            }
          }
        }
      }
      for (int64_t m = 0; m < t.a_rows; ++m) store_sums<Isa>(t, m, n, 1, sums + m);
    }
  }
};

}  // namespace gladius::cpu
