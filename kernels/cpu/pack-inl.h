// Copies factors of matrix products into panels, the order in which a register tile reads them.
#pragma once

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/register_tile-inl.h"
#include "kernels/cpu/weight_panels.h"

namespace gladius::cpu {

// Where a weight's rows from i on begin in the first line of their panel.
template <class Line>
GLADIUS_INLINE const float* panel_place(const GemmOperand& x, int64_t i) {
  const int64_t row = x.row + i;
  return x.data + row / panel_rows * x.stride + x.line * panel_rows + Line::place(row % panel_rows);
}

template <class Isa, class Panels>
struct Packing {
  using V = Vec<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t per_word = Panels::per_word, word_floats = Panels::word_floats;
  static constexpr int64_t side = w / word_floats;  // words of a vector

  // Words that k elements take.
  static constexpr int64_t words(int64_t k) { return (k + per_word - 1) / per_word; }

  // Elements (i, p), i < n, p < k, of x as panels of `width` values of i: words y[panel][word][width], zeros
  // beyond k, anything beyond n. Values of i below `readable` may be read, too. Where per_float is not 1, x
  // is contiguous along k, a multiple of per_float.
  static void pack(const GemmOperand& x, int64_t n, int64_t readable, int64_t k, int64_t width, float* y) {
    if constexpr (requires { typename Panels::Line; }) {
      if (x.panels) return pack_panels(x, n, k, width, y);
    }
    if constexpr (Panels::per_float == 1) {
      if (!x.k_contiguous) return pack_lines(n, readable, k, x.data, x.stride, width, y);
    }
    for (int64_t i = 0; i < n; i += width)
      pack_rows(smaller(n - i, width), k, x.data + i * x.stride, x.stride, width, y + i * floats(k));
  }

  // How many of k lines, `stride` apart, may be read as whole vectors for n values of i, those before the
  // line that follows.
  static int64_t whole_lines(int64_t stride, int64_t n, int64_t readable, int64_t k) {
    const int64_t beyond = ceil_div(n, side) * side - readable;
    return beyond > 0 ? k - smaller(k, ceil_div(beyond, stride)) : k;
  }

  // One panel from rows that are contiguous along k: squares of vectors are transposed in registers. What
  // lies a few cache lines on is asked for, which may be beyond the rows' ends.
  static void pack_rows(int64_t count, int64_t k, const float* x, int64_t stride, int64_t width, float* y) {
    constexpr int64_t step = side * per_word / Panels::per_float, ahead = 3 * larger(step, floats_per_line);
    const float* end = y + floats(k) * width;
    for (int64_t p = 0; p < k; p += side * per_word, y += w * width) {
      const int64_t rest = k - p;
      for (int64_t i0 = 0; i0 < width; i0 += side) {
        RawVector<w> square[side];
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          const float* row = x + (i0 + i) * stride + p / Panels::per_float;
          square[i] = RawVector<w>{};
          if (i0 + i < count) {
            for (int64_t line = 0; line < step; line += floats_per_line)
              __builtin_prefetch(row + ahead + line);
            to_raw(rest >= side * per_word ? Panels::along(row) : along_first(row, rest), square[i]);
          }
        }
        transpose<w, word_floats>(square);
        store_square(square, rest, width - i0, y + i0 * word_floats, width, end);
      }
    }
  }

  // From a weight in panels, which are whole vectors wide.
  static void pack_panels(const GemmOperand& x, int64_t n, int64_t k, int64_t width, float* y) {
    using Line = typename Panels::Line;
    for (int64_t i = 0; i < n; i += width, y += k * width)
      for (int64_t v = 0; v < width; v += w) {
        const float* from = panel_place<Line>(x, i + v);
        float* to = y + v;
        for (int64_t p = 0; p < k; p += Line::words, from += panel_rows, to += Line::words * width)
          for (int j = 0; j < Line::words; ++j) store<Isa>(to + j * width, Line::word(from, j));
      }
  }

 private:
  static constexpr int64_t floats(int64_t k) { return words(k) * word_floats; }

  static GLADIUS_INLINE void to_raw(V v, RawVector<w>& raw) { store<Isa>(reinterpret_cast<float*>(&raw), v); }

  static V along_first(const float* x, int64_t n) {
    alignas(64) float buffer[side * per_word] = {};
    for (int64_t i = 0; i < n / Panels::per_float; ++i) buffer[i] = x[i];
    return Panels::along(buffer);
  }

  // Stores the first n words of the lines that `rest` elements take. Where a panel is narrower than a vector,
  // whole vectors may be stored, because the next line overwrites what is too much, but not past the panel's
  // end.
  static GLADIUS_INLINE void store_square(const RawVector<w>* square, int64_t rest, int64_t n, float* y,
                                          int64_t width, const float* end) {
    const bool whole = n >= side || width < side;
#pragma GCC unroll 16
    for (int64_t i = 0; i < side; ++i, y += width * word_floats) {
      if (i * per_word >= rest) break;
      if (whole && y + w <= end) {
        __builtin_memcpy(y, &square[i], sizeof(square[i]));
      } else {
        float lanes_of[w];
        __builtin_memcpy(lanes_of, &square[i], sizeof(lanes_of));
        for (int64_t j = 0; j < n * word_floats && j < w; ++j) y[j] = lanes_of[j];
      }
    }
  }

  // All panels from lines that are contiguous along i, a few lines at a time: lines far apart fall into few
  // sets of the caches, which would not keep more from panel to panel.
  static void pack_lines(int64_t n, int64_t readable, int64_t k, const float* x, int64_t stride,
                         int64_t width, float* y) {
    const int64_t vectors = ceil_div(width, side), panels = ceil_div(n, width);
    const int64_t line_floats = width * word_floats, panel_floats = floats(k) * width;
    // Whole vectors are stored where the panel's next line overwrites what is too much (less than a line),
    // and read where the next line follows: what a panel holds beyond n is never used.
    const int64_t stored = width % side == 0 ? k / per_word : (larger(k, 1) - 1) / per_word;
    const int64_t read = whole_lines(stride, width, readable - (panels - 1) * width, k) / per_word;
    const int64_t whole = smaller(stored, read);
    constexpr int64_t at_once = 8;
    for (int64_t begin = 0; begin < whole; begin += at_once) {
      const int64_t end = smaller(begin + at_once, whole);
      for (int64_t panel = 0; panel < panels; ++panel) {
        const float* from = x + begin * per_word * stride + panel * width;
        float* to = y + begin * line_floats + panel * panel_floats;
        for (int64_t line = begin; line < end; ++line, from += per_word * stride, to += line_floats)
          for (int64_t v = 0; v < vectors; ++v)
            store<Isa>(to + v * w, Panels::across(from + v * side, stride));
      }
    }
    for (int64_t line = whole; line * per_word < k; ++line)
      for (int64_t panel = 0; panel < panels; ++panel)
        pack_line_exactly(smaller(n - panel * width, width), smaller(k - line * per_word, per_word),
                          x + line * per_word * stride + panel * width, stride, width,
                          y + line * line_floats + panel * panel_floats);
  }

  // Line of a panel from `count` values of `lines` lines, with zeros in place of what is missing.
  static void pack_line_exactly(int64_t count, int64_t lines, const float* x, int64_t stride, int64_t width,
                                float* y) {
    for (int64_t i0 = 0; i0 < width; i0 += side) {
      alignas(64) float padded[per_word * side] = {}, packed[w];
      for (int64_t line = 0; line < lines; ++line)
        for (int64_t i = 0; i < side && i0 + i < count; ++i)
          padded[line * side + i] = x[line * stride + i0 + i];
      store<Isa>(packed, Panels::across(padded, side));
      for (int64_t i = 0; i < w && i0 * word_floats + i < width * word_floats; ++i)
        y[i0 * word_floats + i] = packed[i];
    }
  }
};

}  // namespace gladius::cpu
