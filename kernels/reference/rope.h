// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) on adjacent pairs.
#pragma once

#include "kernels/backend.h"

namespace gladius::reference {

// (y[2i], y[2i+1]) = (x[2i] c - x[2i+1] s, x[2i] s + x[2i+1] c) with c, s = cos, sin[positions[m], i];
// backward: s -> -s.
template <class T>
void rope(const RopeDims& d, const int32_t* positions, const T* cos, const T* sin, RopeDirection direction,
          const T* x, T* y) {
  const int64_t pairs = d.D / 2;
  for (int64_t m = 0; m < d.M; ++m) {
    for (int64_t h = 0; h < d.heads; ++h) {
      for (int64_t i = 0; i < pairs; ++i) {
        const int64_t at = m * d.stride + h * d.D + 2 * i, angle = positions[m] * pairs + i;
        const double c = double(cos[angle]);
        const double s = direction == RopeDirection::forward ? double(sin[angle]) : -double(sin[angle]);
        const double even = double(x[at]), odd = double(x[at + 1]);
        y[at] = T(even * c - odd * s);
        y[at + 1] = T(even * s + odd * c);
      }
    }
  }
}

}  // namespace gladius::reference
