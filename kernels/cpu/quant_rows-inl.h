// Kernels on single rows: activations to 8 bits, halves, and back to floats. Loops are written so that
// compilers vectorise them; every instruction set gives the same bits.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/blocks.h"
#include "kernels/cpu/quant_formats-inl.h"
#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/simd.h"
#include "kernels/half.h"

namespace gladius::cpu {

// The parts of an activation row converted for quantised weights (activation_row_bytes in quant_kernels.h).
// Byte is std::byte or const std::byte, for writing and reading.
template <class Isa, DType weight, class Byte>
struct ActivationRow {
  template <class T>
  using As = std::conditional_t<std::is_const_v<Byte>, const T, T>;
  using F = Format<weight>;

  As<int8_t>* codes;
  int64_t K;

  static GLADIUS_INLINE ActivationRow at(Byte* row, int64_t K) {
    return {reinterpret_cast<As<int8_t>*>(row), K};
  }
  GLADIUS_INLINE As<float>* d() const { return reinterpret_cast<As<float>*>(codes + K); }
  // Of simple blocks: sums of a block's codes and, for Q8_1, d * that.
  GLADIUS_INLINE As<int32_t>* sums() const { return reinterpret_cast<As<int32_t>*>(d() + blocks()); }
  GLADIUS_INLINE As<float>* s() const { return reinterpret_cast<As<float>*>(sums() + blocks()); }
  // Of super-blocks: sums of 16 and of 32 codes.
  GLADIUS_INLINE As<int16_t>* sixteens() const { return reinterpret_cast<As<int16_t>*>(d() + blocks()); }
  GLADIUS_INLINE As<int16_t>* thirty_twos() const { return sixteens() + blocks() * (F::size / 16); }
  GLADIUS_INLINE As<int16_t>* group_sums() const { return F::group == 16 ? sixteens() : thirty_twos(); }

 private:
  // A shift: without a sign, division rounds down.
  GLADIUS_INLINE int64_t blocks() const { return static_cast<int64_t>(static_cast<uint64_t>(K) / F::size); }
};

template <class Isa>
struct QuantRows {
  // The largest magnitude: bit patterns of floats without sign are in the order of their values.
  static GLADIUS_INLINE float largest_magnitude(int n, const float* x) {
    int32_t largest = 0;
    for (int i = 0; i < n; ++i) {
      const int32_t bits = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    return std::bit_cast<float>(largest);
  }

  static GLADIUS_INLINE int32_t sum_codes(int n, const int8_t* q) {
    int32_t sum = 0;
    for (int i = 0; i < n; ++i) sum += q[i];
    return sum;
  }

  // One block of Q8_0 or Q8_1: q = x / d rounded half away from zero, d = max |x| / 127, which is returned
  // unrounded.
  static GLADIUS_INLINE float eight_bits(const float* x, int8_t* q) {
    const float d = largest_magnitude(kBlock, x) / 127.0f;
    const float inverse = inverse_scale(d);
    for (int i = 0; i < kBlock; ++i) {
      const float v = x[i] * inverse;
      const int32_t t = static_cast<int32_t>(v);
      const float rest = v - static_cast<float>(t);  // exact
      q[i] = static_cast<int8_t>(t + (rest >= 0.5f) - (rest <= -0.5f));
    }
    return d;
  }

  // One super-block of Q8_K; returns d. The element of largest magnitude becomes -127.
  static GLADIUS_INLINE float super_eight_bits(const float* x, int8_t* q) {
    const float magnitude = largest_magnitude(kSuperBlock, x);
    int32_t first = kSuperBlock - 1;  // place of the first element of that magnitude
    for (int32_t i = 0; i < kSuperBlock; ++i) {
      const int32_t place = (x[i] == magnitude) | (x[i] == -magnitude) ? i : kSuperBlock - 1;
      first = place < first ? place : first;
    }
    if (magnitude == 0) {
      std::memset(q, 0, kSuperBlock);
      return 0;
    }
    const float inverse = -127.0f / x[first];
    for (int i = 0; i < kSuperBlock; ++i) {
      // Adding 1.5 * 2^23 rounds to the nearest integer, which the low mantissa bits hold.
      const int32_t t = (std::bit_cast<int32_t>(inverse * x[i] + 12582912.0f) & 0x7fffff) - 0x400000;
      q[i] = static_cast<int8_t>(t < 127 ? t : 127);
    }
    return 1 / inverse;
  }

  static void quantize_q8_0(int64_t n, const float* x, BlockQ8_0* y) {
    for (int64_t i = 0; i < n; i += kBlock, ++y) y->d = f32_to_f16(eight_bits(x + i, y->qs));
  }
  static void quantize_q8_1(int64_t n, const float* x, BlockQ8_1* y) {
    for (int64_t i = 0; i < n; i += kBlock, ++y) {
      const float d = eight_bits(x + i, y->qs);
      y->d = f32_to_f16(d);
      y->s = f32_to_f16(static_cast<float>(sum_codes(kBlock, y->qs)) * d);
    }
  }
  static void quantize_q8_K(int64_t n, const float* x, BlockQ8_K* y) {
    for (int64_t i = 0; i < n; i += kSuperBlock, ++y) {
      y->d = super_eight_bits(x + i, y->qs);
      for (int k = 0; k < 16; ++k) y->bsums[k] = static_cast<int16_t>(sum_codes(16, y->qs + 16 * k));
    }
  }
  static void to_f16(int64_t n, const float* x, uint16_t* y) {
    for (int64_t i = 0; i < n; ++i) y[i] = f32_to_f16(x[i]);
  }
  static void to_bf16(int64_t n, const float* x, uint16_t* y) {
    for (int64_t i = 0; i < n; ++i) y[i] = f32_to_bf16(x[i]);
  }

  // The same values as the blocks above, laid out as ActivationRow.
  template <DType weight>
  static void convert_blocks(int64_t K, const float* x, std::byte* a) {
    using F = Format<weight>;
    const auto row = ActivationRow<Isa, weight, std::byte>::at(a, K);
    for (int64_t b = 0; b < K / F::size; ++b) {
      int8_t* q = row.codes + b * F::size;
      if constexpr (F::super) {
        row.d()[b] = super_eight_bits(x + b * F::size, q);
      } else {
        const float d = eight_bits(x + b * F::size, q);
        row.d()[b] = f16_to_f32(f32_to_f16(d));
        if constexpr (F::activation == DType::Q8_1)
          row.s()[b] = f16_to_f32(f32_to_f16(static_cast<float>(sum_codes(F::size, q)) * d));
      }
    }
    if constexpr (F::super) {
      for (int64_t g = 0; g < K / 16; ++g)
        row.sixteens()[g] = static_cast<int16_t>(sum_codes(16, row.codes + g * 16));
      for (int64_t g = 0; g < K / 32; ++g)
        row.thirty_twos()[g] = static_cast<int16_t>(row.sixteens()[2 * g] + row.sixteens()[2 * g + 1]);
    } else {
      for (int64_t b = 0; b < K / F::size; ++b) row.sums()[b] = sum_codes(F::size, row.codes + b * F::size);
    }
  }

  // Floats, then zeros up to a multiple of 64 bytes.
  template <class Convert>
  static GLADIUS_INLINE void convert_floats(int64_t K, const float* x, std::byte* a, Convert convert) {
    float* y = reinterpret_cast<float*>(a);
    for (int64_t i = 0; i < K; ++i) y[i] = convert(x[i]);
    for (int64_t i = K; i % 16 != 0; ++i) y[i] = 0;
  }

  static void convert_activations(DType weight, int64_t K, const float* x, std::byte* a) {
    switch (weight) {
      case DType::F32:
      case DType::F16:
        convert_floats(K, x, a, [](float v) { return v; });
        break;
      case DType::BF16:
        convert_floats(K, x, a, [](float v) { return bf16_to_f32(f32_to_bf16(v)); });
        break;
      case DType::Q4_0:
      case DType::Q5_0:
      case DType::Q8_0:
        convert_blocks<DType::Q4_0>(K, x, a);
        break;
      case DType::Q4_1:
      case DType::Q5_1:
        convert_blocks<DType::Q4_1>(K, x, a);
        break;
      case DType::Q4_K:
      case DType::Q5_K:
      case DType::Q6_K:
        convert_blocks<DType::Q4_K>(K, x, a);
        break;
      default:
        break;
    }
  }

  // y[n] from halves by vectors, the last few one by one.
  template <class Load, class Convert>
  static GLADIUS_INLINE void widen(int64_t n, const uint16_t* x, float* y, Load vector, Convert scalar) {
    int64_t i = 0;
    for (; i + lanes<Isa> <= n; i += lanes<Isa>) store<Isa>(y + i, Vec<Isa>(vector(x + i)));
    for (; i < n; ++i) y[i] = scalar(x[i]);
  }
  static GLADIUS_INLINE void from_f16(int64_t n, const uint16_t* x, float* y) {
    widen(
        n, x, y, [](const uint16_t* p) { return QuantIsa<Isa>::from_f16(p); },
        [](uint16_t h) { return f16_to_f32(h); });
  }
  static GLADIUS_INLINE void from_bf16(int64_t n, const uint16_t* x, float* y) {
    widen(
        n, x, y, [](const uint16_t* p) { return QuantIsa<Isa>::from_bf16(p); },
        [](uint16_t h) { return bf16_to_f32(h); });
  }

  template <DType type>
  static void dequantize(int64_t n, const void* x, float* y) {
    using F = Format<type>;
    const auto* b = static_cast<const typename F::Block*>(x);
    Chunk<Isa> c;
    for (int64_t i = 0; i < n; i += F::size, ++b) {
      Unpack<Isa>::template chunk<type>(b, F::size, c);
      for (int g = 0; g < F::size / F::group; ++g) {
        const float d = F::super ? c.d[0] * static_cast<float>(c.scales[g]) : c.d[0];
        const float m = !F::has_min ? 0.0f : F::super ? -(c.m[0] * static_cast<float>(c.mins[g])) : c.m[0];
        float* out = y + i + g * F::group;
        for (int l = 0; l < F::group; ++l) {
          const float v = d * static_cast<float>(c.codes[g * F::group + l] - F::zero);
          out[l] = F::has_min ? v + m : v;
        }
      }
    }
  }

  // Codes of activation types are kept as they are; these rows are rarely turned back.
  template <class Block>
  static GLADIUS_INLINE void dequantize_eight_bits(int64_t n, int size, const void* x, float* y) {
    const auto* b = static_cast<const Block*>(x);
    for (int64_t i = 0; i < n; i += size, ++b) {
      float d;
      if constexpr (sizeof(b->d) == 2)
        d = f16_to_f32(b->d);
      else
        d = b->d;
      for (int l = 0; l < size; ++l) y[i + l] = static_cast<float>(b->qs[l]) * d;
    }
  }

  static void dequantize_row(DType type, int64_t n, const void* x, float* y) {
    switch (type) {
      case DType::F32:
        std::memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
        break;
      case DType::F16:
        from_f16(n, static_cast<const uint16_t*>(x), y);
        break;
      case DType::BF16:
        from_bf16(n, static_cast<const uint16_t*>(x), y);
        break;
      case DType::Q4_0:
        dequantize<DType::Q4_0>(n, x, y);
        break;
      case DType::Q4_1:
        dequantize<DType::Q4_1>(n, x, y);
        break;
      case DType::Q5_0:
        dequantize<DType::Q5_0>(n, x, y);
        break;
      case DType::Q5_1:
        dequantize<DType::Q5_1>(n, x, y);
        break;
      case DType::Q8_0:
        dequantize<DType::Q8_0>(n, x, y);
        break;
      case DType::Q4_K:
        dequantize<DType::Q4_K>(n, x, y);
        break;
      case DType::Q5_K:
        dequantize<DType::Q5_K>(n, x, y);
        break;
      case DType::Q6_K:
        dequantize<DType::Q6_K>(n, x, y);
        break;
      case DType::Q8_1:
        dequantize_eight_bits<BlockQ8_1>(n, kBlock, x, y);
        break;
      case DType::Q8_K:
        dequantize_eight_bits<BlockQ8_K>(n, kSuperBlock, x, y);
        break;
      case DType::I32:
        break;
    }
  }
};

}  // namespace gladius::cpu
