// Products with quantised weights. Sums of products of codes are exact integers; blocks are added in order in
// float32, as reference::dot_row defines, so that both ways below, and all instruction sets, give the same
// bits:
//   rows    few activations (a token being generated): a weight row's codes are multiplied with each in place
//   panels  more: L weight rows (L lanes of an instruction set) are interleaved: a sum ends up in each lane
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/quant_formats-inl.h"
#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/quant_rows-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

template <class Isa>
using IntVec = xsimd::batch<int32_t, typename Isa::Arch>;

// Stores sums[r] of a tile's activation m and weight rows n + r, with what the tile adds to them.
template <class Isa>
GLADIUS_INLINE void store_sums(const TileProduct& t, int64_t m, int64_t n, int64_t rows, const float* sums) {
  float* out = t.out + m * t.ldo + n;
  for (int64_t r = 0; r < rows; ++r) {
    float v = sums[r];
    if (t.accumulate) v += out[r];
    if (t.residual) v += t.residual[m * t.ldo + n + r];
    out[r] = v;
  }
}

template <class Isa, DType type>
struct QuantProduct {
  using F = Format<type>;
  using Q = QuantIsa<Isa>;
  using V = Vec<Isa>;
  using I = IntVec<Isa>;
  using Row = ActivationRow<Isa, type, const std::byte>;
  static constexpr int L = static_cast<int>(lanes<Isa>);

  static GLADIUS_INLINE Row activation(const TileProduct& t, int64_t m) {
    return Row::at(t.a + m * t.a_stride, t.K);
  }

  // ---- rows ----

  // Products of 4 L neighbouring codes, added in fours.
  static GLADIUS_INLINE I products(const int8_t* w, const int8_t* y) {
    return Q::total(Q::template dot<F::is_signed>(Q::zero(), Q::load(w), Q::load(y)));
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
      const int32_t s = sums[0] - F::zero * y.sums[first];
      float term = c.d[b] * y.d[first] * static_cast<float>(s);
      if constexpr (F::has_min) term += c.m[b] * y.s[first];
      return sum + term;
    } else {
      if constexpr (F::zero != 0) {
        Ints32 codes;
        load_eight(y.sums + first, codes);
        sums -= F::zero * codes;
      }
      Floats32 dw, dy;
      load_eight(c.d, dw);
      load_eight(y.d + first, dy);
      Floats32 terms = dw * dy * __builtin_convertvector(sums, Floats32);
      if constexpr (F::has_min) {
        Floats32 mw, sy;
        load_eight(c.m, mw);
        load_eight(y.s + first, sy);
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
    const int32_t* sums = y.sums + k / F::group;
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
    const float product = c.d[0] * y.d[block] * static_cast<float>(sum);
    if constexpr (!F::has_min) return product;
    for (int g = 0; g < groups; ++g) offset += c.mins[g] * sums[g];
    return product - c.m[0] * y.d[block] * static_cast<float>(offset);
  }

  static constexpr int64_t max_row_activations = 3;  // with more, panels are faster

  static void by_rows(const TileProduct& t) {
    Row y[max_row_activations];
    for (int64_t m = 0; m < t.a_rows; ++m) y[m] = activation(t, m);
    for (int64_t n = 0; n < t.w_rows; ++n) {
      const auto* w = reinterpret_cast<const typename F::Block*>(t.w + n * t.w_stride);
      float sums[max_row_activations] = {};
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

  // ---- panels ----

  // A chunk of L weight rows: codes[k / step][row][k % step] with Q::panel_step, scales by row in the lanes.
  struct Panel {
    alignas(64) int8_t codes[kChunk * L];
    alignas(64) int32_t scales[16][L];
    alignas(64) int32_t mins[8][L];
    alignas(64) float d[8][L];
    alignas(64) float m[8][L];
  };

  static GLADIUS_INLINE void put_row(const Chunk<Isa>& c, int row, int elements, Panel& p) {
    constexpr int step = Q::panel_step;
    for (int k = 0; k < elements; k += step) std::memcpy(p.codes + k * L + row * step, c.codes + k, step);
    if constexpr (F::super) {
      p.d[0][row] = c.d[0];
      if constexpr (F::has_min) p.m[0][row] = c.m[0];
      for (int g = 0; g < F::size / F::group; ++g) p.scales[g][row] = c.scales[g];
      if constexpr (F::has_min)
        for (int g = 0; g < 8; ++g) p.mins[g][row] = c.mins[g];
    } else {
      for (int b = 0; b < elements / F::size; ++b) {
        p.d[b][row] = c.d[b];
        if constexpr (F::has_min) p.m[b][row] = c.m[b];
      }
    }
  }

  // sums[m], lane r: the products of `length` codes of weight row r, which start at `panel`, and of y[m] + k.
  template <int length, int M>
  static GLADIUS_INLINE void panel_sums(const int8_t* panel, const Row* y, int64_t k, I* sums) {
    if constexpr (Q::panel_step == 8) {
      typename Q::Ints s[M + 1];
      for (int m = 0; m < M; m += 2)
        Q::template two_rows<length>(panel, y[m].codes + k, y[m + 1 < M ? m + 1 : m].codes + k, s[m],
                                     s[m + 1]);
      for (int m = 0; m < M; ++m) sums[m] = I(s[m]);
    } else {
      typename Q::Sums s[M];
      for (int m = 0; m < M; ++m) s[m] = Q::zero();
      for (int i = 0; i < length; i += 4) {
        const auto w = Q::load(panel + i * L);
        for (int m = 0; m < M; ++m) {
          int32_t four;
          std::memcpy(&four, y[m].codes + k + i, 4);
          s[m] = Q::template dot<F::is_signed>(s[m], w, Q::repeat(four));
        }
      }
      for (int m = 0; m < M; ++m) sums[m] = I(Q::total(s[m]));
    }
  }

  // sums[m] + the products of the panel's chunk, which starts at element k, with M activation rows.
  template <int M>
  static GLADIUS_INLINE void add_panel(const Panel& p, int elements, const Row* y, int64_t k,
                                       float (*sums)[L]) {
    I group[M];
    if constexpr (F::super) {
      I total[M], offset[M];
      for (int m = 0; m < M; ++m) total[m] = offset[m] = I(0);
      for (int g = 0; g < F::size / F::group; ++g) {
        panel_sums<F::group, M>(p.codes + g * F::group * L, y, k + g * F::group, group);
        const I scale = I::load_aligned(p.scales[g]);
        for (int m = 0; m < M; ++m) {
          const int32_t codes = y[m].sums[k / F::group + g];
          if constexpr (F::zero != 0) group[m] = group[m] - I(F::zero * codes);
          total[m] = total[m] + I(Q::multiply(group[m], scale));
          if constexpr (F::has_min)
            offset[m] = offset[m] + I(Q::multiply(I::load_aligned(p.mins[g]), I(codes)));
        }
      }
      for (int m = 0; m < M; ++m) {
        const V dy(y[m].d[k / F::size]);
        V product = load<Isa>(p.d[0]) * dy * xsimd::to_float(total[m]);
        if constexpr (F::has_min) product = product - load<Isa>(p.m[0]) * dy * xsimd::to_float(offset[m]);
        store<Isa>(sums[m], load<Isa>(sums[m]) + product);
      }
    } else {
      V sum[M];
      for (int m = 0; m < M; ++m) sum[m] = load<Isa>(sums[m]);
      for (int b = 0; b < elements / F::size; ++b) {
        const int64_t block = k / F::size + b;
        panel_sums<F::size, M>(p.codes + b * F::size * L, y, block * F::size, group);
        for (int m = 0; m < M; ++m) {
          if constexpr (F::zero != 0) group[m] = group[m] - I(F::zero * y[m].sums[block]);
          V product = load<Isa>(p.d[b]) * V(y[m].d[block]) * xsimd::to_float(group[m]);
          if constexpr (F::has_min) product = product + load<Isa>(p.m[b]) * V(y[m].s[block]);
          sum[m] = sum[m] + product;
        }
      }
      for (int m = 0; m < M; ++m) store<Isa>(sums[m], sum[m]);
    }
  }

  static void by_panels(const TileProduct& t) {
    Row y[max_tile_activations];
    for (int64_t m = 0; m < t.a_rows; ++m) y[m] = activation(t, m);
    alignas(64) float sums[max_tile_activations][L];
    Panel p;
    Chunk<Isa> c;
    for (int64_t n = 0; n < t.w_rows; n += L) {
      const int rows = static_cast<int>(t.w_rows - n < L ? t.w_rows - n : L);
      std::memset(sums, 0, sizeof(sums));
      std::memset(&p, 0, sizeof(p));  // the lanes of missing rows stay zero
      for (int64_t k = 0; k < t.K; k += kChunk) {
        const int elements = static_cast<int>(t.K - k < kChunk ? t.K - k : kChunk);
        for (int r = 0; r < rows; ++r) {
          const auto* w = reinterpret_cast<const typename F::Block*>(t.w + (n + r) * t.w_stride);
          Unpack<Isa>::template chunk<type>(w + k / F::size, elements, c);
          put_row(c, r, elements, p);
        }
        int64_t m = 0;
        for (; m + 4 <= t.a_rows; m += 4) add_panel<4>(p, elements, y + m, k, sums + m);
        for (; m < t.a_rows; ++m) add_panel<1>(p, elements, y + m, k, sums + m);
      }
      for (int64_t m = 0; m < t.a_rows; ++m) store_sums<Isa>(t, m, n, rows, sums[m]);
    }
  }

  static void run(const TileProduct& t) { t.a_rows <= max_row_activations ? by_rows(t) : by_panels(t); }
};

}  // namespace gladius::cpu
