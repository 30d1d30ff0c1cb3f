// The x86 instructions that quantised kernels need and xsimd lacks, a QuantIsa per instruction set
// (quant_isa.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// Sums of two products of a code, 0 .. max_code, and an activation's that are sure to fit into 16 bits.
template <int max_code>
inline constexpr int most_narrow_sums = 32767 / (2 * 127 * max_code);

// Sums stay in order: compilers may add products in a tree, for which there are too few registers.
template <class V>
GLADIUS_INLINE void keep_order(V& sum) {
  __asm__("" : "+v"(sum));
}

template <>
struct QuantIsa<struct Sse2> {
  using Bytes = __m128i;
  using Ints = __m128i;
  using Floats = __m128;
  // Sums of pairs of products: of bytes 0-7 and of bytes 8-15.
  struct Sums {
    __m128i low, high;
  };
  static constexpr bool unsigned_only = false, pairs_rows = false, scales_pairs = false;
  static constexpr int tile_vectors = 1, tile_activations = 2;

  static GLADIUS_INLINE Bytes load(const int8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static GLADIUS_INLINE Bytes repeat(int32_t four_bytes) { return _mm_set1_epi32(four_bytes); }
  static GLADIUS_INLINE Sums zero() { return {_mm_setzero_si128(), _mm_setzero_si128()}; }

  template <bool is_signed, int max_code>
  static GLADIUS_INLINE void dot(Sums& s, Bytes w, Bytes y, int) {
    const auto low = [](Bytes b) { return _mm_srai_epi16(_mm_unpacklo_epi8(b, b), 8); };  // sign-extended
    const auto high = [](Bytes b) { return _mm_srai_epi16(_mm_unpackhi_epi8(b, b), 8); };
    s.low = _mm_add_epi32(s.low, _mm_madd_epi16(low(w), low(y)));
    s.high = _mm_add_epi32(s.high, _mm_madd_epi16(high(w), high(y)));
    keep_order(s.low);
    keep_order(s.high);
  }
  static GLADIUS_INLINE Ints add_pairs(Ints sum, Ints w, int32_t y) {
    return _mm_add_epi32(sum, _mm_madd_epi16(w, _mm_set1_epi32(y)));
  }
  static GLADIUS_INLINE Ints pair_bytes(const int8_t* x, const int8_t* y) {
    const __m128i pairs = _mm_unpacklo_epi8(_mm_loadu_si32(x), _mm_loadu_si32(y));
    return _mm_srai_epi16(_mm_unpacklo_epi8(pairs, pairs), 8);
  }

  static GLADIUS_INLINE Ints total(Sums s) {
    const __m128 low = _mm_castsi128_ps(s.low), high = _mm_castsi128_ps(s.high);
    return _mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0))),
                         _mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1))));
  }

  // SSE2 multiplies 32-bit lanes two at a time.
  static GLADIUS_INLINE Ints multiply(Ints x, Ints y) {
    const __m128i even = _mm_mul_epu32(x, y);
    const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(x, 32), _mm_srli_epi64(y, 32));
    return _mm_unpacklo_epi32(_mm_shuffle_epi32(even, _MM_SHUFFLE(2, 0, 2, 0)),
                              _mm_shuffle_epi32(odd, _MM_SHUFFLE(2, 0, 2, 0)));
  }

  static GLADIUS_INLINE int32_t sum(Ints x) {
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, _MM_SHUFFLE(2, 3, 0, 1))));
  }

  // Exponent and mantissa move to their places in a float; the product corrects the exponent's bias, also for
  // subnormals.
  static GLADIUS_INLINE Floats from_f16(const uint16_t* p) {
    const __m128i h =
        _mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128());
    const __m128i a = _mm_and_si128(h, _mm_set1_epi32(0x7fff));
    const __m128i sign = _mm_slli_epi32(_mm_andnot_si128(_mm_set1_epi32(0x7fff), h), 16);
    const __m128 value = _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(a, 13)), _mm_set1_ps(0x1p112f));
    const __m128i special =
        _mm_and_si128(_mm_cmpgt_epi32(a, _mm_set1_epi32(0x7bff)), _mm_set1_epi32(0x7f800000));
    return _mm_or_ps(value, _mm_castsi128_ps(_mm_or_si128(sign, special)));
  }
  static GLADIUS_INLINE Floats from_bf16(const uint16_t* p) {
    const __m128i h = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), h));
  }
};

#ifdef __AVX2__
template <>
struct QuantIsa<struct Avx2> {
  using Bytes = __m256i;
  using Ints = __m256i;
  using Floats = __m256;
  // `narrow`: sums of 16 bits, which are added to `wide` before they could be too large; at once, and so not
  // held, where only one fits.
  struct Sums {
    __m256i narrow, wide;
  };
  static constexpr bool unsigned_only = false, pairs_rows = false, scales_pairs = true;
  static constexpr int tile_vectors = 2, tile_activations = 4;

  static GLADIUS_INLINE Bytes load(const int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static GLADIUS_INLINE Bytes repeat(int32_t four_bytes) { return _mm256_set1_epi32(four_bytes); }
  static GLADIUS_INLINE Sums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

  // vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits with saturation: 2 * 128 * 127
  // fits. Where codes are signed, their sign moves to the activation.
  template <bool is_signed, int max_code>
  static GLADIUS_INLINE void dot(Sums& s, Bytes w, Bytes y, int step, Ints scale = one()) {
    if constexpr (is_signed) {
      y = _mm256_sign_epi8(y, w);
      w = _mm256_abs_epi8(w);
    }
    const __m256i products = _mm256_maddubs_epi16(w, y);
    if constexpr (most_narrow_sums<max_code> == 1) {
      s.wide = _mm256_add_epi32(s.wide, _mm256_madd_epi16(products, scale));
      keep_order(s.wide);
      return;
    }
    if (step > 0 && step % most_narrow_sums<max_code> == 0)
      s = {products, total(s, scale)};
    else
      s.narrow = _mm256_add_epi16(s.narrow, products);
    keep_order(s.narrow);
  }
  static GLADIUS_INLINE Ints total(Sums s, Ints scale = one()) {
    return _mm256_add_epi32(s.wide, _mm256_madd_epi16(s.narrow, scale));
  }
  static GLADIUS_INLINE Ints add_pairs(Ints sum, Ints w, int32_t y) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi32(y)));
  }
  static GLADIUS_INLINE Ints pair_bytes(const int8_t* x, const int8_t* y) {
    return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(_mm_loadu_si64(x), _mm_loadu_si64(y)));
  }

  static GLADIUS_INLINE Ints multiply(Ints x, Ints y) { return _mm256_mullo_epi32(x, y); }
  static GLADIUS_INLINE int32_t sum(Ints v) {
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, _MM_SHUFFLE(2, 3, 0, 1))));
  }

  static GLADIUS_INLINE Floats from_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static GLADIUS_INLINE Floats from_bf16(const uint16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }

 private:
  static GLADIUS_INLINE Ints one() { return _mm256_set1_epi16(1); }
};
#endif

#ifdef __AVX512BW__
// What the AVX-512 instruction sets share; Self names the instruction set.
template <class Self>
struct QuantAvx512 {
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr bool pairs_rows = false;
  static constexpr int tile_vectors = 2, tile_activations = 6;

  static GLADIUS_INLINE Bytes load(const int8_t* p) { return _mm512_loadu_si512(p); }
  static GLADIUS_INLINE Bytes repeat(int32_t four_bytes) { return _mm512_set1_epi32(four_bytes); }
  template <bool is_signed, int max_code, class Sums, class... Scale>
  static GLADIUS_INLINE void dot(Sums& s, Bytes w, Bytes y, int step, Scale... scale) {
    if constexpr (is_signed) {
      y = _mm512_mask_sub_epi8(y, _mm512_movepi8_mask(w), _mm512_setzero_si512(), y);
      w = _mm512_abs_epi8(w);
    }
    Self::template add_products<max_code>(s, w, y, step, scale...);
  }
  static GLADIUS_INLINE Ints pair_bytes(const int8_t* x, const int8_t* y) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x)),
                  b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(y));
    return _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b)));
  }

  static GLADIUS_INLINE Ints multiply(Ints x, Ints y) { return _mm512_mullo_epi32(x, y); }
  static GLADIUS_INLINE int32_t sum(Ints x) { return _mm512_reduce_add_epi32(x); }

  static GLADIUS_INLINE Floats from_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static GLADIUS_INLINE Floats from_bf16(const uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
};

template <>
struct QuantIsa<struct Avx512> : QuantAvx512<QuantIsa<struct Avx512>> {
  struct Sums {  // as those of AVX2
    __m512i narrow, wide;
  };
  static constexpr bool unsigned_only = false, scales_pairs = true;

  static GLADIUS_INLINE Sums zero() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  template <int max_code>
  static GLADIUS_INLINE void add_products(Sums& s, __m512i w, __m512i y, int step, Ints scale = one()) {
    const __m512i products = _mm512_maddubs_epi16(w, y);
    if constexpr (most_narrow_sums<max_code> == 1) {
      s.wide = _mm512_add_epi32(s.wide, _mm512_madd_epi16(products, scale));
      keep_order(s.wide);
      return;
    }
    if (step > 0 && step % most_narrow_sums<max_code> == 0)
      s = {products, total(s, scale)};
    else
      s.narrow = _mm512_add_epi16(s.narrow, products);
    keep_order(s.narrow);
  }
  static GLADIUS_INLINE Ints total(Sums s, Ints scale = one()) {
    return _mm512_add_epi32(s.wide, _mm512_madd_epi16(s.narrow, scale));
  }
  static GLADIUS_INLINE Ints add_pairs(Ints sum, Ints w, int32_t y) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, _mm512_set1_epi32(y)));
  }

 private:
  static GLADIUS_INLINE Ints one() { return _mm512_set1_epi16(1); }
};
#endif

#ifdef __AVX512VNNI__
template <>
struct QuantIsa<struct Avx512Vnni> : QuantAvx512<QuantIsa<struct Avx512Vnni>> {
  using Sums = __m512i;
  static constexpr bool unsigned_only = true, scales_pairs = false;

  static GLADIUS_INLINE Sums zero() { return _mm512_setzero_si512(); }
  template <int>
  static GLADIUS_INLINE void add_products(Sums& s, __m512i w, __m512i y, int) {
    s = _mm512_dpbusd_epi32(s, w, y);
  }
  static GLADIUS_INLINE Ints total(Sums s) { return s; }
  static GLADIUS_INLINE Ints add_pairs(Ints sum, Ints w, int32_t y) {
    return _mm512_dpwssd_epi32(sum, w, _mm512_set1_epi32(y));
  }
};
#endif

}  // namespace gladius::cpu
