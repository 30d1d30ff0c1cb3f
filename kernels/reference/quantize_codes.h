// The integer code of one element of a block, without its type's zero point: the q (or q - 8, q - 16, q - 32)
// of blocks.h.
#pragma once

#include "kernels/blocks.h"

namespace gladius::reference {

inline int fifth_bit(const uint8_t* qh, int j) { return (qh[j / 8] >> (j % 8) & 1) << 4; }
inline int nibble(const uint8_t* qs, int j) { return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4; }

inline int code(const BlockQ4_0& b, int j) { return nibble(b.qs, j) - 8; }
inline int code(const BlockQ4_1& b, int j) { return nibble(b.qs, j); }
inline int code(const BlockQ5_0& b, int j) { return (nibble(b.qs, j) | fifth_bit(b.qh, j)) - 16; }
inline int code(const BlockQ5_1& b, int j) { return nibble(b.qs, j) | fifth_bit(b.qh, j); }
inline int code(const BlockQ8_0& b, int j) { return b.qs[j]; }
inline int code(const BlockQ8_1& b, int j) { return b.qs[j]; }
inline int code(const BlockQ8_K& b, int i) { return b.qs[i]; }
inline int code(const BlockQ4_K& b, int i) {
  const int byte = b.qs[i / 64 * 32 + i % 32];
  return i % 64 < 32 ? byte & 15 : byte >> 4;
}
inline int code(const BlockQ5_K& b, int i) {
  const int byte = b.qs[i / 64 * 32 + i % 32];
  return (i % 64 < 32 ? byte & 15 : byte >> 4) | (b.qh[i % 32] >> (i / 32) & 1) << 4;
}
inline int code(const BlockQ6_K& b, int i) {
  const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
  const int byte = b.ql[64 * half + quarter % 2 * 32 + l];
  return ((quarter < 2 ? byte & 15 : byte >> 4) | (b.qh[32 * half + l] >> (2 * quarter) & 3) << 4) - 32;
}

}  // namespace gladius::reference
