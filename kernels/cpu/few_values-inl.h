// Attention of a few query rows: values in 16 bits, mixed where they lie.
#pragma once

#include <cstdint>

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/widened-inl.h"

namespace gladius::cpu {

// o[row] += sum over keys of weights[row][key] * values[key]: a few rows, `columns` of each; weights are
// attention_keys apart, values of a 16-bit type.
struct FewValuesTask {
  int64_t rows, keys, columns;
  const float* weights;
  const std::byte* values;
  int64_t row_bytes;  // from a value to the next
  float* o;
  int64_t o_stride;
};

template <class Isa, DType type>
struct FewValues {
  using V = Vec<Isa>;
  using Elements = Widened<Isa, type>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int R = 4, C = Isa::registers >= 32 ? 4 : 2;  // rows and vectors of sums in registers

  static void add(const FewValuesTask& t) {
    int64_t i = 0;
    for (; i + R <= t.rows; i += R) of_rows<R>(t, i);
    if (t.rows - i == 3) of_rows<3>(t, i);
    if (t.rows - i == 2) of_rows<2>(t, i);
    if (t.rows - i == 1) of_rows<1>(t, i);
  }

 private:
  template <int Rows>
  static void of_rows(const FewValuesTask& t, int64_t i) {
    int64_t c = 0;
    for (; c + C * w <= t.columns; c += C * w)
      block<Rows, C>(t, i, c, w, [](const std::byte* x) { return Elements::load(x); });
    for (; c + w <= t.columns; c += w)
      block<Rows, 1>(t, i, c, w, [](const std::byte* x) { return Elements::load(x); });
    const int64_t rest = t.columns - c;
    if (rest > 0)
      block<Rows, 1>(t, i, c, rest, [rest](const std::byte* x) { return Elements::load_first(x, rest); });
  }

  // Rows from i on by Count vectors of columns from c on, `last` of the last one.
  template <int Rows, int Count, class Load>
  static GLADIUS_INLINE void block(const FewValuesTask& t, int64_t i, int64_t c, int64_t last, Load fetch) {
    V sums[Rows][Count];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Count; ++v) sums[r][v] = V(0.0f);
    const float* weights = t.weights + i * attention_keys;
    const std::byte* x = t.values + c * Elements::bytes;
    for (int64_t key = 0; key < t.keys; ++key, x += t.row_bytes) {
      prefetch_ahead<Count * w * Elements::bytes>(x);
      V values[Count];
#pragma GCC unroll 4
      for (int v = 0; v < Count; ++v) values[v] = fetch(x + v * w * Elements::bytes);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const V weight(weights[r * attention_keys + key]);
#pragma GCC unroll 4
        for (int v = 0; v < Count; ++v) sums[r][v] = Isa::fma(weight, values[v], sums[r][v]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Count; ++v) {
        float* o = t.o + (i + r) * t.o_stride + c + v * w;
        store_upto<Isa>(o, load_upto<Isa>(o, last) + sums[r][v], last);
      }
  }
};

}  // namespace gladius::cpu
