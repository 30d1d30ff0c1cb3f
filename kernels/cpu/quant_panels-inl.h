// Panels of quantised weights (weight_panels.h): made from rows, and read as vectors of codes and factors.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/quant_formats-inl.h"
#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/weight_panels.h"

namespace gladius::cpu {

template <class Isa, DType type>
struct PanelWriter {
  using Block = typename Format<type>::Block;

  // Of w_rows <= panel_rows rows of K elements.
  static void panel(int64_t K, const std::byte* rows, int64_t w_rows, std::byte* panel) {
    const int64_t blocks = K / Format<type>::size;
    const auto* x = reinterpret_cast<const Block*>(rows);
    auto* const bytes = reinterpret_cast<uint8_t*>(panel);
    for (int64_t b = 0; b < blocks; ++b) {
      const Block* column[panel_rows];
      for (int64_t r = 0; r < panel_rows; ++r) column[r] = r < w_rows ? x + r * blocks + b : nullptr;
      const PanelPlace at = panel_place(type, b);
      block(column, bytes + at.head, bytes + at.lines);
    }
  }

  // A block's head and lines from the blocks of the rows; null: a missing row, of zeros.
  static void block(const Block* const* rows, uint8_t* head, uint8_t* lines) {
    for (int64_t r = 0; r < panel_rows; ++r) {
      const Block zero{};
      const Block& b = rows[r] ? *rows[r] : zero;
      put_head(b, r, head);
      put_lines(b, r, lines);
    }
  }

 private:
  static GLADIUS_INLINE void put_half(uint16_t h, int64_t r, uint8_t* head) {
    std::memcpy(head + 2 * r, &h, 2);
  }
  template <int count>
  static GLADIUS_INLINE void put_bytes(const void* from, int64_t r, uint8_t* to) {
    for (int j = 0; j < count; ++j) to[j * panel_rows + r] = static_cast<const uint8_t*>(from)[j];
  }
  template <int count>
  static GLADIUS_INLINE void put_fours(const void* from, int64_t r, uint8_t* lines) {
    for (int u = 0; u < count / 4; ++u)
      std::memcpy(lines + (u * panel_rows + r) * 4, static_cast<const uint8_t*>(from) + 4 * u, 4);
  }

  static GLADIUS_INLINE void put_head(const Block& b, int64_t r, uint8_t* head) {
    put_half(b.d, r, head);
    head += 2 * panel_rows;
    if constexpr (type == DType::Q4_1 || type == DType::Q5_1) {
      put_half(b.m, r, head);
    } else if constexpr (type == DType::Q4_K || type == DType::Q5_K) {
      put_half(b.dmin, r, head);
      put_bytes<12>(b.scales, r, head + 2 * panel_rows);
    } else if constexpr (type == DType::Q6_K) {
      put_bytes<16>(b.scales, r, head);
    }
  }

  static GLADIUS_INLINE void put_lines(const Block& b, int64_t r, uint8_t* lines) {
    if constexpr (type == DType::Q6_K) {
      for (int stage = 0; stage < 4; ++stage)
        for (int step = 0; step < 4; ++step, lines += 12 * panel_rows) {
          const int at = 4 * (stage % 2) + step, half = stage / 2;
          put_fours<4>(b.ql + 64 * half + 4 * at, r, lines);
          put_fours<4>(b.ql + 64 * half + 32 + 4 * at, r, lines + 4 * panel_rows);
          put_fours<4>(b.qh + 32 * half + 4 * at, r, lines + 8 * panel_rows);
        }
    } else if constexpr (type == DType::Q5_K) {
      put_fours<sizeof(b.qh)>(b.qh, r, lines);
      put_fours<sizeof(b.qs)>(b.qs, r, lines + sizeof(b.qh) * panel_rows);
    } else if constexpr (type == DType::Q5_0 || type == DType::Q5_1) {
      uint32_t bits;
      std::memcpy(&bits, b.qh, 4);
      uint8_t by_place[4] = {};
      for (int i = 0; i < kBlock; ++i)
        by_place[i % 4] = static_cast<uint8_t>(by_place[i % 4] | (bits >> i & 1) << i / 4);
      put_fours<4>(by_place, r, lines);
      put_fours<sizeof(b.qs)>(b.qs, r, lines + 4 * panel_rows);
    } else {
      put_fours<sizeof(b.qs)>(b.qs, r, lines);
    }
  }
};

// A vector of four bytes a lane.
template <int64_t Bytes>
using WordVector __attribute__((vector_size(Bytes))) = uint32_t;

// How lines become codes. They are read in `stages`, each of `steps` steps; a step makes `parts` vectors of
// codes, each of four neighbouring elements of a row from element 4 * unit on. A part's codes in a stage
// belong to one group of the block.
template <DType type>
struct PanelCodes;

template <>
struct PanelCodes<DType::Q8_0> {
  static constexpr int stages = 1, steps = 8, parts = 1, max_code = 128;
  static GLADIUS_INLINE constexpr int group(int, int) { return 0; }
  static GLADIUS_INLINE constexpr int unit(int, int, int step) { return step; }
  template <class Line, class Fetch>
  static GLADIUS_INLINE void read(int, int step, Fetch fetch, Line* codes) {
    codes[0] = fetch(step);
  }
};

struct NibbleCodes {
  static constexpr int stages = 1, steps = 4, parts = 2, max_code = 15;
  static GLADIUS_INLINE constexpr int group(int, int) { return 0; }
  static GLADIUS_INLINE constexpr int unit(int, int part, int step) { return 4 * part + step; }
  template <class Line, class Fetch>
  static GLADIUS_INLINE void read(int, int step, Fetch fetch, Line* codes) {
    const Line x = fetch(step);
    codes[0] = x & 0x0f0f0f0f;
    codes[1] = x >> 4 & 0x0f0f0f0f;
  }
};
template <>
struct PanelCodes<DType::Q4_0> : NibbleCodes {};
template <>
struct PanelCodes<DType::Q4_1> : NibbleCodes {};

// Bit `from` of each byte as bit 4.
template <class Line>
GLADIUS_INLINE Line fifth_bit(const Line& x, int from) {
  return (from < 4 ? x << (4 - from) : x >> (from - 4)) & 0x10101010;
}

struct FiveBitCodes {
  static constexpr int stages = 1, steps = 4, parts = 2, max_code = 31;
  static GLADIUS_INLINE constexpr int group(int, int) { return 0; }
  static GLADIUS_INLINE constexpr int unit(int, int part, int step) { return 4 * part + step; }
  template <class Line, class Fetch>
  static GLADIUS_INLINE void read(int, int step, Fetch fetch, Line* codes) {
    const Line x = fetch(1 + step), top = fetch(0);
    codes[0] = (x & 0x0f0f0f0f) | fifth_bit(top, step);
    codes[1] = (x >> 4 & 0x0f0f0f0f) | fifth_bit(top, 4 + step);
  }
};
template <>
struct PanelCodes<DType::Q5_0> : FiveBitCodes {};
template <>
struct PanelCodes<DType::Q5_1> : FiveBitCodes {};

template <>
struct PanelCodes<DType::Q4_K> {
  static constexpr int stages = 4, steps = 8, parts = 2, max_code = 15;
  static GLADIUS_INLINE constexpr int group(int stage, int part) { return 2 * stage + part; }
  static GLADIUS_INLINE constexpr int unit(int stage, int part, int step) {
    return 8 * group(stage, part) + step;
  }
  template <class Line, class Fetch>
  static GLADIUS_INLINE void read(int stage, int step, Fetch fetch, Line* codes) {
    const Line x = fetch(8 * stage + step);
    codes[0] = x & 0x0f0f0f0f;
    codes[1] = x >> 4 & 0x0f0f0f0f;
  }
};

template <>
struct PanelCodes<DType::Q5_K> : PanelCodes<DType::Q4_K> {
  static constexpr int max_code = 31;
  template <class Line, class Fetch>
  static GLADIUS_INLINE void read(int stage, int step, Fetch fetch, Line* codes) {
    const Line x = fetch(8 + 8 * stage + step), top = fetch(step);
    codes[0] = (x & 0x0f0f0f0f) | fifth_bit(top, 2 * stage);
    codes[1] = (x >> 4 & 0x0f0f0f0f) | fifth_bit(top, 2 * stage + 1);
  }
};

template <>
struct PanelCodes<DType::Q6_K> {
  static constexpr int stages = 4, steps = 4, parts = 4, max_code = 63;  // stages: quarters of a row's lines
  static GLADIUS_INLINE constexpr int group(int stage, int part) {
    return stage / 2 * 8 + 2 * part + stage % 2;
  }
  static GLADIUS_INLINE constexpr int unit(int stage, int part, int step) {
    return 4 * group(stage, part) + step;
  }
  template <class Line, class Fetch>
  static GLADIUS_INLINE void read(int stage, int step, Fetch fetch, Line* codes) {
    const int at = 3 * (4 * stage + step);
    const Line x = fetch(at), y = fetch(at + 1), top = fetch(at + 2);
    codes[0] = (x & 0x0f0f0f0f) | (top << 4 & 0x30303030);
    codes[1] = (y & 0x0f0f0f0f) | (top << 2 & 0x30303030);
    codes[2] = (x >> 4 & 0x0f0f0f0f) | (top & 0x30303030);
    codes[3] = (y >> 4 & 0x0f0f0f0f) | (top >> 2 & 0x30303030);
  }
};

// The factors of a block of 16 rows. Super-blocks have a scale for every group, and what a group's sum of
// activation codes is multiplied by (minimums of Q4_K and Q5_K, scales of Q6_K), for two groups in the halves
// of a lane.
template <class Isa, DType type>
struct PanelFactors {
  using F = Format<type>;
  static constexpr int groups = F::size / F::group;
  // Whether scales are held twice in a lane, to multiply sums of pairs (QuantIsa::scales_pairs).
  static constexpr bool twice = F::super && QuantIsa<Isa>::scales_pairs;
  // Whether half a super-block's sum of scale * code * activation's code is a whole number that floats hold.
  static constexpr bool float_sums = F::super && !twice && F::has_min &&
                                     int64_t{F::size / 2} * PanelCodes<type>::max_code * 63 * 127 < 1 << 24;
  using Scale = std::conditional_t<float_sums, float, int32_t>;

  alignas(64) float d[panel_rows];
  alignas(64) float m[panel_rows];
  alignas(64) Scale scales[F::super ? groups : 1][panel_rows];
  alignas(64) int32_t pairs[F::super ? groups / 2 : 1][panel_rows];

  GLADIUS_INLINE void read(const uint8_t* head) {
    widen(head, d);
    head += 2 * panel_rows;
    if constexpr (F::has_min) {
      widen(head, m);
      head += 2 * panel_rows;
    }
    if constexpr (F::super && F::has_min) {
      int8_t scale_bytes[groups * panel_rows], mins[groups * panel_rows];
      six_bits(head, scale_bytes, mins);
      read_scales(scale_bytes);
      read_pairs(mins);
    } else if constexpr (F::super) {
      read_scales(reinterpret_cast<const int8_t*>(head));
      read_pairs(reinterpret_cast<const int8_t*>(head));
    }
  }

 private:
  static GLADIUS_INLINE void widen(const uint8_t* halves, float* y) {
    for (int i = 0; i < panel_rows; i += static_cast<int>(lanes<Isa>))
      store<Isa>(y + i, Vec<Isa>(QuantIsa<Isa>::from_f16(reinterpret_cast<const uint16_t*>(halves) + i)));
  }

  // Of four rows at once.
  static GLADIUS_INLINE void six_bits(const uint8_t* packed, int8_t* scale_bytes, int8_t* mins) {
    constexpr int four = 4 * panel_rows;  // bytes of each row
    for (int i = 0; i < four; i += 4) {
      uint32_t x[3];
      for (int j = 0; j < 3; ++j) std::memcpy(x + j, packed + j * four + i, 4);
      const SixBits s(x);
      for (int j = 0; j < 2; ++j) {
        std::memcpy(scale_bytes + j * four + i, s.scales + j, 4);
        std::memcpy(mins + j * four + i, s.mins + j, 4);
      }
    }
  }

  GLADIUS_INLINE void read_scales(const int8_t* bytes) {
    for (int g = 0; g < groups; ++g, bytes += panel_rows) {
      if constexpr (twice) {
        pair_up(bytes, bytes, scales[g]);
      } else {
        for (int r = 0; r < panel_rows; ++r) scales[g][r] = bytes[r];
      }
    }
  }
  GLADIUS_INLINE void read_pairs(const int8_t* bytes) {
    for (int g = 0; g < groups / 2; ++g, bytes += 2 * panel_rows)
      pair_up(bytes, bytes + panel_rows, pairs[g]);
  }
  static GLADIUS_INLINE void pair_up(const int8_t* x, const int8_t* y, int32_t* to) {
    for (int r = 0; r < panel_rows; r += static_cast<int>(lanes<Isa>)) {
      const typename QuantIsa<Isa>::Ints pairs = QuantIsa<Isa>::pair_bytes(x + r, y + r);
      std::memcpy(to + r, &pairs, sizeof(pairs));
    }
  }
};

}  // namespace gladius::cpu
