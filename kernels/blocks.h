// The blocks that quantised rows are stored in: little-endian, without padding, field by field as in GGUF
// files (ggml's formats). d, dmin and m are IEEE binary16 bit patterns except where a float is declared.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gladius {

inline constexpr int kBlock = 32;        // elements of a simple block
inline constexpr int kSuperBlock = 256;  // elements of a super-block (the "K" types)

// x = d * (q - 8); the low nibble of qs[j] is element j, the high one element j + 16.
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[kBlock / 2];
};

// x = d * q + m; nibbles as Q4_0.
struct BlockQ4_1 {
  uint16_t d, m;
  uint8_t qs[kBlock / 2];
};

// x = d * (q - 16); nibbles as Q4_0, the fifth bit of element j is bit j of qh, read as one little-endian
// number.
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[kBlock / 2];
};

// x = d * q + m; bits as Q5_0.
struct BlockQ5_1 {
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[kBlock / 2];
};

// x = d * q.
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[kBlock];
};

// x = d * q; s = d * (sum of qs), which a product with an offset (Q4_1, Q5_1) needs. Activations only.
struct BlockQ8_1 {
  uint16_t d, s;
  int8_t qs[kBlock];
};

// x = d * sc[j] * q - dmin * m[j] in sub-block j of 32 elements. scales packs eight 6-bit sc and eight 6-bit
// m (unpack_scales below). Byte 32 t + l of qs holds element 64 t + l in its low and element 64 t + 32 + l in
// its high nibble.
struct BlockQ4_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qs[kSuperBlock / 2];
};

// As Q4_K; the fifth bit of element 64 t + l is bit 2 t of qh[l], of element 64 t + 32 + l bit 2 t + 1.
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qh[kSuperBlock / 8];
  uint8_t qs[kSuperBlock / 2];
};

// x = d * scales[i / 16] * (q - 32). In each half of 128 elements (64 bytes of ql, 32 of qh), elements l, l +
// 32, l + 64 and l + 96 take their low bits from the low nibbles of ql[l], ql[l + 32] and the high nibbles of
// ql[l], ql[l + 32], and their top two bits from bits 0-1, 2-3, 4-5, 6-7 of qh[l].
struct BlockQ6_K {
  uint8_t ql[kSuperBlock / 2];
  uint8_t qh[kSuperBlock / 4];
  int8_t scales[kSuperBlock / 16];
  uint16_t d;
};

// x = d * q; bsums[k] is the sum of qs over group k of 16 elements. Activations only.
struct BlockQ8_K {
  float d;
  int8_t qs[kSuperBlock];
  int16_t bsums[kSuperBlock / 16];
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ8_1) == 36);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);
static_assert(sizeof(BlockQ8_K) == 292 && offsetof(BlockQ6_K, d) == 208);

// 1 / d for a block's scale d; 0 where that is no finite number (|d| <= 2^-128): such a block is one of
// zeros.
__attribute__((always_inline)) constexpr float inverse_scale(float d) {
  return d > 0x1p-128f || d < -0x1p-128f ? 1.0f / d : 0.0f;
}

// Scale sc (0..63) and minimum m (0..63) of sub-block j (0..7) in the 12 bytes of a Q4_K or Q5_K block.
struct ScaleMin {
  uint8_t sc, m;
};
__attribute__((always_inline)) constexpr ScaleMin unpack_scales(const uint8_t* s, int j) {
  if (j < 4) return {static_cast<uint8_t>(s[j] & 63), static_cast<uint8_t>(s[j + 4] & 63)};
  return {static_cast<uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4),
          static_cast<uint8_t>(s[j + 4] >> 4 | (s[j] >> 6) << 4)};
}

// The inverse, for all eight sub-blocks at once.
__attribute__((always_inline)) constexpr void pack_scales(const uint8_t* sc, const uint8_t* m, uint8_t* s) {
  for (int j = 0; j < 4; ++j) {
    s[j] = static_cast<uint8_t>(sc[j] | (sc[j + 4] >> 4) << 6);
    s[j + 4] = static_cast<uint8_t>(m[j] | (m[j + 4] >> 4) << 6);
    s[j + 8] = static_cast<uint8_t>((sc[j + 4] & 15) | (m[j + 4] & 15) << 4);
  }
}

}  // namespace gladius
