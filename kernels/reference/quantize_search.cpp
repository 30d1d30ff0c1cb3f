#include "kernels/reference/quantize_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace gladius::reference {
namespace {

constexpr float kAllZero = 1e-15f;  // groups below are taken for zero
constexpr int kMaxGroup = 32;

struct Sums {
  float xl = 0, l2 = 0;  // sum w x l, sum w l²
};

}  // namespace

int nearest_int(float x) {
  return static_cast<int>(std::bit_cast<uint32_t>(x + 12582912.0f) & 0x7fffff) - 0x400000;
}

float fit_symmetric(int n, int limit, const float* x, const float* w, uint8_t* codes) {
  float largest = 0, magnitude = 0;  // the signed value that is largest in magnitude, the first one on ties
  for (int i = 0; i < n; ++i)
    if (std::fabs(x[i]) > magnitude) magnitude = std::fabs(x[i]), largest = x[i];
  if (magnitude < kAllZero) {
    std::fill_n(codes, n, uint8_t{0});
    return 0;
  }
  const auto code = [&](float inverse, int i) {
    return std::clamp(nearest_int(inverse * x[i]), -limit, limit - 1);
  };
  const auto sums = [&](float inverse) {
    Sums s;
    for (int i = 0; i < n; ++i) {
      const float l = static_cast<float>(code(inverse, i));
      const float weight = w ? w[i] : x[i] * x[i];
      s.xl += weight * x[i] * l;
      s.l2 += weight * l * l;
    }
    return s;
  };
  float inverse = -static_cast<float>(limit) / largest;
  float chosen = inverse;
  Sums s = sums(inverse);
  float scale = s.l2 != 0 ? s.xl / s.l2 : 0.0f;
  float best = scale * s.xl;
  for (int k = -9; k <= 9; ++k) {
    if (k == 0) continue;
    inverse = -(static_cast<float>(limit) + 0.1f * static_cast<float>(k)) / largest;
    s = sums(inverse);
    if (s.l2 > 0 && s.xl * s.xl > best * s.l2) {
      chosen = inverse;
      scale = s.xl / s.l2;
      best = scale * s.xl;
    }
  }
  for (int i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(code(chosen, i) + limit);
  return scale;
}

AffineFit fit_affine(int n, int limit, const float* x, const float* w, AffineGrid grid, uint8_t* codes) {
  float low = x[0], high = x[0];
  float sum_w = w[0], sum_x = w[0] * x[0];
  for (int i = 1; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  low = std::min(low, 0.0f);
  if (high <= low) {
    std::fill_n(codes, n, uint8_t{0});
    return {0, -low};
  }
  uint8_t candidate[kMaxGroup];
  const auto encode = [&](float inverse) {
    for (int i = 0; i < n; ++i)
      candidate[i] = static_cast<uint8_t>(std::clamp(nearest_int(inverse * (x[i] - low)), 0, limit));
  };
  const auto squared_error = [&](float scale, float offset) {
    float sum = 0;
    for (int i = 0; i < n; ++i) {
      const float difference = scale * static_cast<float>(candidate[i]) + offset - x[i];
      sum += w[i] * (difference * difference);
    }
    return sum;
  };
  float inverse = static_cast<float>(limit) / (high - low);
  AffineFit fit{1 / inverse, low};
  encode(inverse);
  std::copy_n(candidate, n, codes);
  float best = squared_error(fit.scale, low);
  for (int k = 0; k <= grid.last; ++k) {
    // `low` moves with every accepted candidate, and the later grid points with it: ggml does so, and bytes
    // depend on it.
    inverse = (grid.first + grid.step * static_cast<float>(k) + static_cast<float>(limit)) / (high - low);
    encode(inverse);
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < n; ++i) {
      const float l = static_cast<float>(candidate[i]);
      sum_l += w[i] * l;
      sum_l2 += w[i] * l * l;
      sum_xl += w[i] * l * x[i];
    }
    const float determinant = sum_w * sum_l2 - sum_l * sum_l;
    if (!(determinant > 0)) continue;
    float scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float offset = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    if (offset > 0) {
      offset = 0;
      scale = sum_xl / sum_l2;
    }
    const float error = squared_error(scale, offset);
    if (error < best) {
      std::copy_n(candidate, n, codes);
      best = error;
      fit.scale = scale;
      low = offset;
    }
  }
  fit.min = -low;
  return fit;
}

float fit_positive(int n, int limit, const float* x, const float* w, uint8_t* codes) {
  float high = 0;
  for (int i = 0; i < n; ++i) high = std::max(high, x[i]);
  if (high < kAllZero) {
    std::fill_n(codes, n, uint8_t{0});
    return 0;
  }
  const auto code = [&](float inverse, int i) { return std::min(limit, nearest_int(inverse * x[i])); };
  const auto squared_error = [&](float inverse) {
    const float scale = 1 / inverse;
    float sum = 0;
    for (int i = 0; i < n; ++i) {
      const float difference = x[i] - scale * static_cast<float>(code(inverse, i));
      sum += w[i] * difference * difference;
    }
    return sum;
  };
  float inverse = static_cast<float>(limit) / high;
  float best = squared_error(inverse);
  for (int k = -4; k <= 4; ++k) {
    if (k == 0) continue;
    const float candidate = (0.1f * static_cast<float>(k) + static_cast<float>(limit)) / high;
    const float error = squared_error(candidate);
    if (error < best) best = error, inverse = candidate;
  }
  Sums s;
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(code(inverse, i));
    const float l = codes[i];
    s.xl += w[i] * x[i] * l;
    s.l2 += w[i] * l * l;
  }
  bool changed = true;
  for (int sweep = 0; sweep < 5 && changed; ++sweep) {
    changed = false;
    for (int i = 0; i < n; ++i) {
      const float old = codes[i];
      Sums rest{s.xl - w[i] * x[i] * old, s.l2 - w[i] * old * old};
      if (!(rest.xl > 0 && rest.l2 > 0)) continue;
      const int next = std::min(limit, nearest_int(x[i] * rest.l2 / rest.xl));
      if (next == codes[i]) continue;
      const float l = static_cast<float>(next);
      rest.xl += w[i] * x[i] * l;
      rest.l2 += w[i] * l * l;
      if (rest.xl * rest.xl * s.l2 > s.xl * s.xl * rest.l2) {
        codes[i] = static_cast<uint8_t>(next);
        s = rest;
        changed = true;
      }
    }
  }
  return s.l2 > 0 ? s.xl / s.l2 : 0.0f;
}

}  // namespace gladius::reference
