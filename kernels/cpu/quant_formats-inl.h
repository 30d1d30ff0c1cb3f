// What kernels know of each quantised type: its constants, and how its bits become int8 codes with scales.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/blocks.h"
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
  float d[8];
  float m[8];
};

template <class Isa>
struct Unpack {
  static GLADIUS_INLINE void nibbles(const uint8_t* qs, int half, int8_t* c) {
    for (int i = 0; i < half; ++i) {
      c[i] = static_cast<int8_t>(qs[i] & 15);
      c[i + half] = static_cast<int8_t>(qs[i] >> 4);
    }
  }

  // Adds 16 to code i where bit i of qh is set, 8 codes at a time: byte i of `bits` keeps bit i alone, and
  // becomes 0x80 or more by adding 0x7f exactly when it is not 0.
  static GLADIUS_INLINE void fifth_bits(const uint8_t* qh, int8_t* c) {
    for (int i = 0; i < 4; ++i) {
      uint64_t codes;
      std::memcpy(&codes, c + 8 * i, 8);
      const uint64_t bits = (qh[i] * 0x0101010101010101u) & 0x8040201008040201u;
      codes |= ((bits + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
      std::memcpy(c + 8 * i, &codes, 8);
    }
  }

  static GLADIUS_INLINE void codes(const BlockQ4_0& b, int8_t* c) { nibbles(b.qs, 16, c); }
  static GLADIUS_INLINE void codes(const BlockQ4_1& b, int8_t* c) { nibbles(b.qs, 16, c); }
  static GLADIUS_INLINE void codes(const BlockQ5_0& b, int8_t* c) {
    nibbles(b.qs, 16, c);
    fifth_bits(b.qh, c);
  }
  static GLADIUS_INLINE void codes(const BlockQ5_1& b, int8_t* c) {
    nibbles(b.qs, 16, c);
    fifth_bits(b.qh, c);
  }
  static GLADIUS_INLINE void codes(const BlockQ8_0& b, int8_t* c) { std::memcpy(c, b.qs, kBlock); }
  static GLADIUS_INLINE void codes(const BlockQ4_K& b, int8_t* c) {
    for (int t = 0; t < 4; ++t) nibbles(b.qs + 32 * t, 32, c + 64 * t);
  }
  static GLADIUS_INLINE void codes(const BlockQ5_K& b, int8_t* c) {
    for (int t = 0; t < 4; ++t) {
      nibbles(b.qs + 32 * t, 32, c + 64 * t);
      for (int l = 0; l < 32; ++l) {
        c[64 * t + l] = static_cast<int8_t>(c[64 * t + l] | (b.qh[l] >> (2 * t) & 1) << 4);
        c[64 * t + 32 + l] = static_cast<int8_t>(c[64 * t + 32 + l] | (b.qh[l] >> (2 * t + 1) & 1) << 4);
      }
    }
  }
  static GLADIUS_INLINE void codes(const BlockQ6_K& b, int8_t* c) {
    for (int half = 0; half < 2; ++half, c += 128) {
      const uint8_t* low = b.ql + 64 * half;
      const uint8_t* top = b.qh + 32 * half;
      nibbles(low, 64,
              c);  // low[l], low[l + 32] hold elements l, l + 32 and, in their high halves, l + 64, l + 96
      for (int quarter = 0; quarter < 4; ++quarter)
        for (int l = 0; l < 32; ++l)
          c[32 * quarter + l] = static_cast<int8_t>(c[32 * quarter + l] | (top[l] >> (2 * quarter) & 3) << 4);
    }
  }

  static GLADIUS_INLINE void six_bit_scales(uint16_t d, uint16_t dmin, const uint8_t* packed, Chunk<Isa>& c) {
    c.d[0] = f16_to_f32(d);
    c.m[0] = f16_to_f32(dmin);
    for (int j = 0; j < 8; ++j) {
      const ScaleMin s = unpack_scales(packed, j);
      c.scales[j] = s.sc;
      c.mins[j] = s.m;
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

  // Unpacks `elements` elements (a multiple of the block size, at most kChunk); codes after them are 0.
  template <DType type>
  static GLADIUS_INLINE void chunk(const typename Format<type>::Block* b, int elements, Chunk<Isa>& c) {
    using F = Format<type>;
    if constexpr (F::super) {
      codes(*b, c.codes);
      scales(*b, c);
    } else {
      const int blocks = elements / F::size;
      for (int i = 0; i < blocks; ++i) {
        codes(b[i], c.codes + F::size * i);
        c.d[i] = f16_to_f32(b[i].d);
        if constexpr (F::has_min) c.m[i] = f16_to_f32(b[i].m);
      }
      if (elements < kChunk) std::memset(c.codes + elements, 0, static_cast<size_t>(kChunk - elements));
    }
  }
};

}  // namespace gladius::cpu
