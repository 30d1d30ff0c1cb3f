// The vectors that kernels are written in: one thin layer over xsimd, and the one place where its versions
// differ.
//
// Every kernel is a template over an Isa, a struct that isa/NAME.cpp defines:
//   using Arch = ...;                      the xsimd architecture
//   static constexpr int registers;        of vectors
//   static constexpr int gemm_rows;        rows of the register tile of a matrix product
//   static constexpr int gemm_vectors;     its width in vectors
//   static constexpr int in_place_rows;    the same for rows that are read where they lie: fewer rows
//   static constexpr int in_place_vectors; for more columns may be better
//   static constexpr int rows_k;           and how many of their elements a block usually has
//   static Batch fma(Batch x, Batch y, Batch z);   x * y + z, fused where the CPU can
// and, where the CPU has instructions for them,
//   static Batch accumulate(Batch x, Batch y, Batch sum);   as the function below
//   static Batch load_masked(const float* x, int64_t n, Batch rest);   load_first and store_first
//   static void store_masked(float* y, Batch v, int64_t n);
//
// Included only by isa/*.cpp and *-inl.h. Each of those files is compiled with `xsimd` defined as a name of
// its own, so that helpers that the compiler leaves out of line can never be shared between instruction sets.
#pragma once

#include <cstdint>
#include <utility>
#include <xsimd/xsimd.hpp>

#define GLADIUS_INLINE inline __attribute__((always_inline))

namespace gladius::cpu {

template <class Isa>
using Vec = xsimd::batch<float, typename Isa::Arch>;

inline constexpr int64_t cache_line = 64, floats_per_line = 16;

// Asks for what comes a little after x. Matrices that are read once are read in several such streams, pages
// apart: the CPU's own prefetching follows each up to the end of its 4 KiB page, while another goes on.
GLADIUS_INLINE void prefetch_stream(const void* x) { __builtin_prefetch(static_cast<const char*>(x) + 2048); }

// Asks for the `bytes` bytes that are read a while after those from `from` on, of what is read in one stream:
// more arithmetic than a CPU can look beyond lies between. May go beyond what there is.
template <int64_t bytes>
GLADIUS_INLINE void prefetch_ahead(const void* from) {
  constexpr int64_t ahead = 7168;
  for (int64_t i = 0; i < bytes; i += cache_line)
    __builtin_prefetch(static_cast<const char*>(from) + ahead + i);
}

// Floats in a vector.
template <class Isa>
inline constexpr int64_t lanes = static_cast<int64_t>(Vec<Isa>::size);

template <class Isa>
GLADIUS_INLINE Vec<Isa> load(const float* x) {
  return Vec<Isa>::load_unaligned(x);
}

template <class Isa>
GLADIUS_INLINE void store(float* y, Vec<Isa> v) {
  v.store_unaligned(y);
}

// x * y + sum in sum's register. From an fma compilers make forms that overwrite a factor, which they copy
// before; with many sums they run out of registers for it.
template <class Isa>
GLADIUS_INLINE Vec<Isa> accumulate(Vec<Isa> x, Vec<Isa> y, Vec<Isa> sum) {
  if constexpr (requires { Isa::accumulate(x, y, sum); })
    return Isa::accumulate(x, y, sum);
  else
    return Isa::fma(x, y, sum);
}

// Loads the first n < lanes floats; the other lanes hold `rest`.
template <class Isa>
GLADIUS_INLINE Vec<Isa> load_first(const float* x, int64_t n, float rest = 0.0f) {
  if constexpr (requires { Isa::load_masked(x, n, Vec<Isa>(rest)); }) {
    return Isa::load_masked(x, n, Vec<Isa>(rest));
  } else {
    alignas(64) float buffer[lanes<Isa>];
    for (int64_t i = 0; i < lanes<Isa>; ++i) buffer[i] = rest;
    for (int64_t i = 0; i < n; ++i) buffer[i] = x[i];
    return Vec<Isa>::load_aligned(buffer);
  }
}

// Stores the first n < lanes floats.
template <class Isa>
GLADIUS_INLINE void store_first(float* y, Vec<Isa> v, int64_t n) {
  if constexpr (requires { Isa::store_masked(y, v, n); }) {
    Isa::store_masked(y, v, n);
  } else {
    alignas(64) float buffer[lanes<Isa>];
    v.store_aligned(buffer);
    for (int64_t i = 0; i < n; ++i) y[i] = buffer[i];
  }
}

// The same for n <= lanes.
template <class Isa>
GLADIUS_INLINE Vec<Isa> load_upto(const float* x, int64_t n) {
  return n == lanes<Isa> ? load<Isa>(x) : load_first<Isa>(x, n);
}
template <class Isa>
GLADIUS_INLINE void store_upto(float* y, Vec<Isa> v, int64_t n) {
  n == lanes<Isa> ? store<Isa>(y, v) : store_first<Isa>(y, v, n);
}

// A vector as the compiler's own type, for the shuffles that xsimd 8.1 does not have on every architecture.
template <int64_t W>
using RawVector __attribute__((vector_size(W * sizeof(float)))) = float;

// One exchange of a transposition: of rows a and b = a + Step, lane j of the first is a[j] where bit Step of
// j is 0, else b[j - Step]; of the second a[j + Step], else b[j].
template <int64_t W, int64_t Step, int64_t... J>
GLADIUS_INLINE void exchange(RawVector<W>& a, RawVector<W>& b, std::integer_sequence<int64_t, J...>) {
  const RawVector<W> first = __builtin_shufflevector(a, b, ((J & Step) == 0 ? J : W + J - Step)...);
  b = __builtin_shufflevector(a, b, ((J & Step) == 0 ? J + Step : W + J)...);
  a = first;
}

// rows[i][j] = rows[j][i] of W / Word rows of as many words, each Word lanes long, by rounds of exchanges.
template <int64_t W, int64_t Word = 1, int64_t Step = W / Word / 2>
GLADIUS_INLINE void transpose(RawVector<W>* rows) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < W / Word; ++i)
    if ((i & Step) == 0)
      exchange<W, Step * Word>(rows[i], rows[i + Step], std::make_integer_sequence<int64_t, W>());
  if constexpr (Step > 1) transpose<W, Word, Step / 2>(rows);
}

// The lanes' sum or the like, taken as a binary tree whose first pairs lie half a vector apart.
template <int64_t W, class Join, int64_t... I>
GLADIUS_INLINE float reduce(RawVector<W> v, Join join, std::integer_sequence<int64_t, I...>) {
  if constexpr (W == 2)
    return join(v[0], v[1]);
  else
    return reduce<W / 2>(
        join(__builtin_shufflevector(v, v, I...), __builtin_shufflevector(v, v, (I + W / 2)...)), join,
        std::make_integer_sequence<int64_t, W / 4>());
}
template <class Isa, class Join>
GLADIUS_INLINE float reduce(Vec<Isa> v, Join join) {
  RawVector<lanes<Isa>> raw;
  store<Isa>(reinterpret_cast<float*>(&raw), v);
  return reduce<lanes<Isa>>(raw, join, std::make_integer_sequence<int64_t, lanes<Isa> / 2>());
}

template <class Isa>
GLADIUS_INLINE float reduce_add(Vec<Isa> v) {
  return reduce<Isa>(v, [](auto x, auto y) { return x + y; });
}

// One level of that tree for the values of two vectors: of those of `Part` lanes each holds, halves are
// added; the sums lie in order, a's before b's.
template <int64_t W, int64_t Part, int64_t... J>
GLADIUS_INLINE RawVector<W> add_halves(RawVector<W> a, RawVector<W> b, std::integer_sequence<int64_t, J...>) {
  constexpr int64_t half = Part / 2;
  return __builtin_shufflevector(a, b, (J / half * Part + J % half)...) +
         __builtin_shufflevector(a, b, (J / half * Part + J % half + half)...);
}

// totals[i] = reduce_add(sums[i]), with the same bits, for n <= lanes vectors together.
template <class Isa, int n, int64_t Part = lanes<Isa>>
GLADIUS_INLINE void reduce_together(RawVector<lanes<Isa>> (&sums)[n], float* totals) {
  if constexpr (Part == 1) {
    static_assert(n == 1);
    __builtin_memcpy(totals, &sums[0], sizeof(sums[0]));
  } else {
    RawVector<lanes<Isa>> added[(n + 1) / 2];
#pragma GCC unroll 16
    for (int i = 0; i < n; i += 2)
      added[i / 2] = add_halves<lanes<Isa>, Part>(sums[i], sums[i + 1 < n ? i + 1 : i],
                                                  std::make_integer_sequence<int64_t, lanes<Isa>>());
    reduce_together<Isa, (n + 1) / 2, Part / 2>(added, totals);
  }
}
// The same for any number of vectors; totals has room for a whole number of vectors.
template <class Isa, int n>
GLADIUS_INLINE void reduce_add(const Vec<Isa>* sums, float* totals) {
  constexpr int w = static_cast<int>(lanes<Isa>), first = n < w ? n : w;
  RawVector<lanes<Isa>> raw[first];
#pragma GCC unroll 16
  for (int i = 0; i < first; ++i) store<Isa>(reinterpret_cast<float*>(&raw[i]), sums[i]);
  reduce_together<Isa>(raw, totals);
  if constexpr (n > w) reduce_add<Isa, n - w>(sums + w, totals + w);
}

template <class Isa>
GLADIUS_INLINE float reduce_max(Vec<Isa> v) {
  return reduce<Isa>(v, [](auto x, auto y) { return x < y ? y : x; });
}

// The floats whose exponent fields are the last 8 bits of x.
template <class Isa>
GLADIUS_INLINE Vec<Isa> exponents_from_last_bits(Vec<Isa> x) {
  using Bits __attribute__((vector_size(lanes<Isa> * sizeof(float)))) = int32_t;
  Bits bits;
  store<Isa>(reinterpret_cast<float*>(&bits), x);
  bits <<= 23;
  return load<Isa>(reinterpret_cast<const float*>(&bits));
}

// e^x within 2 units in the last place for x up to 88.37: 0 below -87.3, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r; e^r is 1 + r + r^2 q(r), where q is the polynomial of
// degree 4 that makes the largest relative error least (Remez's algorithm): below 5e-9. ln 2 is subtracted in
// two parts (Cody & Waite 1980). Adding 1.5 * 2^23 rounds to whole numbers, which are then the last bits;
// with 127 more they are the exponent field of 2^n.
template <class Isa>
GLADIUS_INLINE Vec<Isa> exp_below_overflow(Vec<Isa> x) {
  using V = Vec<Isa>;
  const V shift(12582912.0f + 127.0f);
  const V shifted = Isa::fma(x, V(1.44269504f), shift), n = shifted - shift;
  V r = Isa::fma(n, V(-0.693359375f), x);
  r = Isa::fma(n, V(2.12194440e-4f), r);
  V p(1.381454e-3f);
  p = Isa::fma(p, r, V(8.368745e-3f));
  p = Isa::fma(p, r, V(4.1668391e-2f));
  p = Isa::fma(p, r, V(0.1666652f));
  p = Isa::fma(p, r, V(0.49999993f));
  p = Isa::fma(p, r, V(1.0f));
  p = Isa::fma(p, r, V(1.0f));
  return xsimd::select(x < V(-87.3f), V(0.0f), p * exponents_from_last_bits<Isa>(shifted));
}

// The same for any x: infinity above 88.37.
template <class Isa>
GLADIUS_INLINE Vec<Isa> exp(Vec<Isa> x) {
  return xsimd::select(x > Vec<Isa>(88.37f), Vec<Isa>(__builtin_inff()), exp_below_overflow<Isa>(x));
}

}  // namespace gladius::cpu
