// What kernels know of each quantised type: its constants, and how its bits become int8 codes with scales.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/simd.h"
#include "kernels/dtype.h"
#include "kernels/half.h"

namespace gladius::cpu {

// Codes here are unsigned (0 .. 63) except those of Q8_0; what the format subtracts from them is `zero`,
// which a product takes off its integer sum: sum (q - zero) y = sum q y - zero * sum y.
template <DType>
struct Format;

template <class B, DType dot_with, int zero_point, bool with_min>
struct SimpleFormat {
  using Block = B;
  static constexpr DType activation = dot_with;
  static constexpr int size = kBlock, group = kBlock, zero = zero_point;
  static constexpr bool super = false, has_min = with_min, is_signed = false;
};
template <class B, int group_size, int zero_point, bool with_min>
struct SuperFormat {
  using Block = B;
  static constexpr DType activation = DType::Q8_K;
  static constexpr int size = kSuperBlock, group = group_size, zero = zero_point;
  static constexpr bool super = true, has_min = with_min, is_signed = false;
};

template <>
struct Format<DType::Q4_0> : SimpleFormat<BlockQ4_0, DType::Q8_0, 8, false> {};
template <>
struct Format<DType::Q5_0> : SimpleFormat<BlockQ5_0, DType::Q8_0, 16, false> {};
template <>
struct Format<DType::Q4_1> : SimpleFormat<BlockQ4_1, DType::Q8_1, 0, true> {};
template <>
struct Format<DType::Q5_1> : SimpleFormat<BlockQ5_1, DType::Q8_1, 0, true> {};
template <>
struct Format<DType::Q8_0> : SimpleFormat<BlockQ8_0, DType::Q8_0, 0, false> {
  static constexpr bool is_signed = true;
};
template <>
struct Format<DType::Q4_K> : SuperFormat<BlockQ4_K, 32, 0, true> {};
template <>
struct Format<DType::Q5_K> : SuperFormat<BlockQ5_K, 32, 0, true> {};
template <>
struct Format<DType::Q6_K> : SuperFormat<BlockQ6_K, 16, 32, false> {};

inline constexpr int kChunk = 256;  // elements of a row that are unpacked at once: a super-block, or 8 blocks

// Up to 256 unpacked elements of a weight row. In a super-block group g (of Format::group elements) has the
// integer scale scales[g] and, with has_min, the integer minimum mins[g]; d[0] and m[0] multiply those.
// Otherwise block b has d[b], m[b].
template <class Isa>
struct Chunk {
  alignas(64) int8_t codes[kChunk];
  int32_t scales[16];
  int32_t mins[8];
  float d[16];  // eight are used; a vector may be longer
  float m[16];
};

// Vectors of the compiler: they become whatever registers the instruction set has.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Bytes32 = uint8_t __attribute__((vector_size(32)));
using Words32 = uint64_t __attribute__((vector_size(32)));
using Ints16 = int32_t __attribute__((vector_size(16)));
using Ints32 = int32_t __attribute__((vector_size(32)));
using Floats32 = float __attribute__((vector_size(32)));

// unpack_scales of blocks.h for four at once: those of four sub-blocks, or of a sub-block in four rows. x
// holds the bytes 0 to 3, 4 to 7 and 8 to 11 of the packed scales; [0] becomes sub-blocks 0 to 3, [1] the
// others.
struct SixBits {
  uint32_t scales[2], mins[2];
  explicit GLADIUS_INLINE SixBits(const uint32_t* x)
      : scales{x[0] & 0x3f3f3f3f, (x[2] & 0x0f0f0f0f) | (x[0] >> 2 & 0x30303030)},
        mins{x[1] & 0x3f3f3f3f, (x[2] >> 4 & 0x0f0f0f0f) | (x[1] >> 2 & 0x30303030)} {}
};

template <class Isa>
struct Unpack {
  template <class Vector>
  static GLADIUS_INLINE void load_bytes(const uint8_t* p, Vector& v) {
    std::memcpy(&v, p, sizeof(v));
  }
  static GLADIUS_INLINE void store_codes(int8_t* c, const Bytes32& v) { std::memcpy(c, &v, sizeof(v)); }

  // The 32 nibbles of a simple block in the order of their elements: low ones, then high ones.
  static GLADIUS_INLINE void nibbles(const uint8_t* qs, Bytes32& codes) {
    Bytes16 v;
    load_bytes(qs, v);
    codes = __builtin_shufflevector(v & 15, v >> 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
                                    17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
  }

  // The same with 16 added to code i where bit i of qh is set. Byte i of a word keeps bit i alone, and
  // becomes 0x80 or more by adding 0x7f exactly when it is not 0.
  static GLADIUS_INLINE void nibbles_and_bits(const uint8_t* qs, const uint8_t* qh, Bytes32& codes) {
    constexpr uint64_t ones = 0x0101010101010101;
    const Words32 bytes = {qh[0] * ones, qh[1] * ones, qh[2] * ones, qh[3] * ones};
    const Words32 bits = bytes & 0x8040201008040201u;
    nibbles(qs, codes);
    codes |= reinterpret_cast<Bytes32>(((bits + 0x7f * ones) & 0x80 * ones) >> 3);
  }

  // One store where a vector holds 32 codes: loads of the codes could not take theirs from two.
  static GLADIUS_INLINE void store_nibbles(const uint8_t* qs, int8_t* c) {
    if constexpr (lanes<Isa> >= 8) {
      Bytes32 v;
      nibbles(qs, v);
      store_codes(c, v);
    } else {
      Bytes16 v;
      load_bytes(qs, v);
      const Bytes16 low = v & 15, high = v >> 4;
      std::memcpy(c, &low, 16);
      std::memcpy(c + 16, &high, 16);
    }
  }

  static GLADIUS_INLINE void codes(const BlockQ4_0& b, int8_t* c) { store_nibbles(b.qs, c); }
  static GLADIUS_INLINE void codes(const BlockQ4_1& b, int8_t* c) { store_nibbles(b.qs, c); }
  static GLADIUS_INLINE void codes(const BlockQ5_0& b, int8_t* c) {
    Bytes32 v;
    nibbles_and_bits(b.qs, b.qh, v);
    store_codes(c, v);
  }
  static GLADIUS_INLINE void codes(const BlockQ5_1& b, int8_t* c) {
    Bytes32 v;
    nibbles_and_bits(b.qs, b.qh, v);
    store_codes(c, v);
  }
  static GLADIUS_INLINE void codes(const BlockQ8_0& b, int8_t* c) { std::memcpy(c, b.qs, kBlock); }
  static GLADIUS_INLINE void codes(const BlockQ4_K& b, int8_t* c) {
    for (int t = 0; t < 4; ++t) {
      Bytes32 v;
      load_bytes(b.qs + 32 * t, v);
      store_codes(c + 64 * t, v & 15);
      store_codes(c + 64 * t + 32, v >> 4);
    }
  }
  static GLADIUS_INLINE void codes(const BlockQ5_K& b, int8_t* c) {
    Bytes32 top, v;
    load_bytes(b.qh, top);
    for (int t = 0; t < 4; ++t, top >>= 2) {
      load_bytes(b.qs + 32 * t, v);
      store_codes(c + 64 * t, (v & 15) | (top & 1) << 4);
      store_codes(c + 64 * t + 32, v >> 4 | (top & 2) << 3);
    }
  }
  static GLADIUS_INLINE void codes(const BlockQ6_K& b, int8_t* c) {
    for (int half = 0; half < 2; ++half, c += 128) {
      Bytes32 first, second, top;
      load_bytes(b.ql + 64 * half, first);
      load_bytes(b.ql + 64 * half + 32, second);
      load_bytes(b.qh + 32 * half, top);
      store_codes(c, (first & 15) | (top & 3) << 4);
      store_codes(c + 32, (second & 15) | (top & 12) << 2);
      store_codes(c + 64, first >> 4 | (top & 48));
      store_codes(c + 96, second >> 4 | (top & 192) >> 2);
    }
  }

  static GLADIUS_INLINE void six_bit_scales(uint16_t d, uint16_t dmin, const uint8_t* packed, Chunk<Isa>& c) {
    c.d[0] = f16_to_f32(d);
    c.m[0] = f16_to_f32(dmin);
    uint32_t x[3];
    std::memcpy(x, packed, 12);
    const SixBits s(x);
    for (int j = 0; j < 8; ++j) {
      c.scales[j] = static_cast<int32_t>(s.scales[j / 4] >> (8 * (j % 4)) & 255);
      c.mins[j] = static_cast<int32_t>(s.mins[j / 4] >> (8 * (j % 4)) & 255);
    }
  }
  static GLADIUS_INLINE void scales(const BlockQ4_K& b, Chunk<Isa>& c) {
    six_bit_scales(b.d, b.dmin, b.scales, c);
  }
  static GLADIUS_INLINE void scales(const BlockQ5_K& b, Chunk<Isa>& c) {
    six_bit_scales(b.d, b.dmin, b.scales, c);
  }
  static GLADIUS_INLINE void scales(const BlockQ6_K& b, Chunk<Isa>& c) {
    c.d[0] = f16_to_f32(b.d);
    for (int j = 0; j < 16; ++j) c.scales[j] = b.scales[j];
  }

  // The first eight of 16 halves; a vector may take in more.
  static GLADIUS_INLINE void widen_eight(const uint16_t* h, float* y) {
    for (int i = 0; i < 8; i += static_cast<int>(lanes<Isa>))
      store<Isa>(y + i, Vec<Isa>(QuantIsa<Isa>::from_f16(h + i)));
  }

  // Unpacks `elements` elements (a multiple of the block size, at most kChunk); codes after them are 0.
  template <DType type>
  static GLADIUS_INLINE void chunk(const typename Format<type>::Block* b, int elements, Chunk<Isa>& c) {
    using F = Format<type>;
    if constexpr (F::super) {
      codes(*b, c.codes);
      scales(*b, c);
    } else {
      const int blocks = elements / F::size;
      uint16_t d[16] = {}, m[16] = {};
      for (int i = 0; i < blocks; ++i) {
        codes(b[i], c.codes + F::size * i);
        d[i] = b[i].d;
        if constexpr (F::has_min) m[i] = b[i].m;
      }
      widen_eight(d, c.d);
      if constexpr (F::has_min) widen_eight(m, c.m);
      if (elements < kChunk) std::memset(c.codes + elements, 0, static_cast<size_t>(kChunk - elements));
    }
  }
};

}  // namespace gladius::cpu
