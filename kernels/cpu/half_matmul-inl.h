// Products of few activations with rows of F16 and BF16 weights, lane by lane along a row. How a vector of
// them is read and multiplied is a parameter, Halves:
//   Activation, step              an activation's type, the elements of a vector
//   load(x), load_first(x, n)     a vector of halves, of the first n and zeros
//   activations(y)                a vector of activations
//   multiply_add(w, y, sum)       sum + the products of two such vectors
#pragma once

#include <cstdint>

#include "kernels/cpu/quant_matmul-inl.h"
#include "kernels/cpu/widened-inl.h"

namespace gladius::cpu {

// Halves are widened, exactly, products added in float32.
template <class Isa, DType type>
struct WidenedHalves : Widened<Isa, type> {
  using V = Vec<Isa>;
  using Activation = float;
  static constexpr int64_t step = lanes<Isa>;
  static GLADIUS_INLINE V activations(const float* y) { return gladius::cpu::load<Isa>(y); }
  static GLADIUS_INLINE V multiply_add(V w, V y, V sum) { return Isa::fma(w, y, sum); }
};

template <class Isa, class Halves>
struct HalfProduct {
  using V = Vec<Isa>;
  static constexpr int R = 4;                             // weight rows at once
  static constexpr int A = Isa::registers >= 32 ? 4 : 2;  // activations at once: R * A sums in registers

  // Rows that are multiplied together are far apart: the weight is read in R streams (prefetch_stream).
  static void run(const TileProduct& t) {
    const int64_t stream = t.w_rows / R;
    for (int64_t n = 0; n < stream; ++n) of_rows<R>(t, n, stream);
    for (int64_t n = R * stream; n < t.w_rows; ++n) of_rows<1>(t, n, 0);
  }

 private:
  // Count weight rows from n on, `apart` rows from one to the next.
  template <int Count>
  static GLADIUS_INLINE void of_rows(const TileProduct& t, int64_t n, int64_t apart) {
    int64_t m = 0;
    for (; m + A <= t.a_rows; m += A) block<A, Count>(t, n, apart, m);
    for (; m < t.a_rows; ++m) block<1, Count>(t, n, apart, m);
  }

  // Those rows by M activations from m on.
  template <int M, int Count>
  static GLADIUS_INLINE void block(const TileProduct& t, int64_t n, int64_t apart, int64_t m) {
    using Activation = typename Halves::Activation;
    const uint16_t* w[Count];
    for (int r = 0; r < Count; ++r)
      w[r] = reinterpret_cast<const uint16_t*>(t.w + (n + r * apart) * t.w_stride);
    const Activation* y[M];
    for (int i = 0; i < M; ++i) y[i] = reinterpret_cast<const Activation*>(t.a + (m + i) * t.a_stride);
    V s[M][Count];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) s[i][r] = V(0.0f);
    const auto add = [&](int64_t k, auto fetch) __attribute__((always_inline)) {
      V x[M];
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) x[i] = Halves::activations(y[i] + k);
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) {
        const V wr = fetch(w[r] + k);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) s[i][r] = Halves::multiply_add(wr, x[i], s[i][r]);
      }
    };
    const auto whole = [](const uint16_t* from) __attribute__((always_inline)) { return Halves::load(from); };
    constexpr int64_t step = Halves::step, line = 32;  // halves
    int64_t k = 0;
    for (; k + line <= t.K; k += line) {
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) prefetch_stream(w[r] + k);
#pragma GCC unroll 8
      for (int64_t i = 0; i < line; i += step) add(k + i, whole);
    }
    for (; k + step <= t.K; k += step) add(k, whole);
    if (k < t.K)  // activations end in zeros
      add(k, [&](const uint16_t* from)
                 __attribute__((always_inline)) { return Halves::load_first(from, t.K - k); });
    float totals[M * Count + lanes<Isa>];
    reduce_add<Isa, M * Count>(&s[0][0], totals);
    for (int i = 0; i < M; ++i)
      for (int r = 0; r < Count; ++r) store_sums<Isa>(t, m + i, n + r * apart, 1, &totals[i * Count + r]);
  }
};

}  // namespace gladius::cpu
