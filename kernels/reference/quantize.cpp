#include "kernels/reference/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/half.h"
#include "kernels/reference/quantize_codes.h"
#include "kernels/reference/quantize_search.h"

namespace gladius::reference {
namespace {

// ---- packing of codes ----

// Low nibbles of 32 codes: code j in the low half of byte j, code j + 16 in the high half.
void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

void pack_fifth_bits(const uint8_t* codes, uint8_t* qh) {
  std::fill_n(qh, 4, uint8_t{0});
  for (int j = 0; j < 32; ++j) qh[j / 8] = static_cast<uint8_t>(qh[j / 8] | (codes[j] >> 4) << (j % 8));
}

void pack(const uint8_t* codes, BlockQ4_0& b) { pack_nibbles(codes, b.qs); }
void pack(const uint8_t* codes, BlockQ4_1& b) { pack_nibbles(codes, b.qs); }
void pack(const uint8_t* codes, BlockQ5_0& b) {
  pack_nibbles(codes, b.qs);
  pack_fifth_bits(codes, b.qh);
}
void pack(const uint8_t* codes, BlockQ5_1& b) {
  pack_nibbles(codes, b.qs);
  pack_fifth_bits(codes, b.qh);
}
void pack(const uint8_t* codes, BlockQ4_K& b) {
  for (int i = 0; i < 128; ++i) {
    const uint8_t* c = codes + i / 32 * 64 + i % 32;
    b.qs[i] = static_cast<uint8_t>(c[0] | c[32] << 4);
  }
}
void pack(const uint8_t* codes, BlockQ5_K& b) {
  for (int i = 0; i < 128; ++i) {
    const uint8_t* c = codes + i / 32 * 64 + i % 32;
    b.qs[i] = static_cast<uint8_t>((c[0] & 15) | (c[32] & 15) << 4);
  }
  for (int l = 0; l < 32; ++l) {
    b.qh[l] = 0;
    for (int j = 0; j < 8; ++j) b.qh[l] = static_cast<uint8_t>(b.qh[l] | (codes[32 * j + l] >> 4) << j);
  }
}
void pack(const uint8_t* codes, BlockQ6_K& b) {
  for (int half = 0; half < 2; ++half)
    for (int l = 0; l < 32; ++l) {
      const uint8_t* c = codes + 128 * half + l;
      b.ql[64 * half + l] = static_cast<uint8_t>((c[0] & 15) | (c[64] & 15) << 4);
      b.ql[64 * half + 32 + l] = static_cast<uint8_t>((c[32] & 15) | (c[96] & 15) << 4);
      b.qh[32 * half + l] =
          static_cast<uint8_t>(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
    }
}

// ---- simple types ----

// Weights of the search with an importance: importance * sqrt(sigma2 + x²), where sigma2 is a mean of
// squares.
void error_weights(int n, float sigma2, const float* x, const float* importance, float* w) {
  for (int i = 0; i < n; ++i) w[i] = importance[i] * std::sqrt(sigma2 + x[i] * x[i]);
}

float sum_of_squares(int64_t n, const float* x) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// The element of largest magnitude with its sign, the first one on ties. The magnitude has its own variable
// because clang 19 at -O3 mistranslates `if (fabs(x) > fabs(largest)) largest = x` in an unrolled loop.
float largest_in_magnitude(int n, const float* x) {
  float largest = 0, magnitude = 0;
  for (int i = 0; i < n; ++i)
    if (magnitude < std::fabs(x[i])) magnitude = std::fabs(x[i]), largest = x[i];
  return largest;
}

// d = m / -limit for the element m of largest magnitude; q = x / d + limit, rounded by truncating after
// adding a half.
template <class Block, int limit>
void quantize_symmetric(const float* x, Block& b) {
  const float d = largest_in_magnitude(kBlock, x) / static_cast<float>(-limit);
  const float inverse = inverse_scale(d);
  uint8_t codes[kBlock];
  for (int i = 0; i < kBlock; ++i)
    codes[i] = static_cast<uint8_t>(
        std::min(2 * limit - 1, static_cast<int>(x[i] * inverse + (static_cast<float>(limit) + 0.5f))));
  b.d = f32_to_f16(d);
  pack(codes, b);
}

// d = (max - min) / limit, m = min; q = (x - min) / d.
template <class Block, int limit>
void quantize_affine(const float* x, Block& b) {
  const float low = *std::min_element(x, x + kBlock), high = *std::max_element(x, x + kBlock);
  const float d = (high - low) / static_cast<float>(limit);
  const float inverse = inverse_scale(d);
  uint8_t codes[kBlock];
  for (int i = 0; i < kBlock; ++i)
    codes[i] = static_cast<uint8_t>(std::min(limit, static_cast<int>((x[i] - low) * inverse + 0.5f)));
  b.d = f32_to_f16(d);
  b.m = f32_to_f16(low);
  pack(codes, b);
}

template <class Block, int limit>
void row_symmetric(int64_t n, const float* x, const float* importance, Block* y) {
  const float sigma2 = importance ? sum_of_squares(n, x) / static_cast<float>(n) : 0.0f;
  for (int64_t i = 0; i < n; i += kBlock, ++y) {
    if (!importance) {
      quantize_symmetric<Block, limit>(x + i, *y);
      continue;
    }
    float w[kBlock];
    uint8_t codes[kBlock];
    error_weights(kBlock, sigma2, x + i, importance + i, w);
    y->d = f32_to_f16(fit_symmetric(kBlock, limit, x + i, w, codes));
    pack(codes, *y);
  }
}

template <class Block, int limit>
void row_affine(int64_t n, const float* x, const float* importance, Block* y) {
  const float sigma2 = importance ? sum_of_squares(n, x) / static_cast<float>(n) : 0.0f;
  for (int64_t i = 0; i < n; i += kBlock, ++y) {
    if (!importance) {
      quantize_affine<Block, limit>(x + i, *y);
      continue;
    }
    float w[kBlock];
    uint8_t codes[kBlock];
    error_weights(kBlock, sigma2, x + i, importance + i, w);
    const AffineFit fit = fit_affine(kBlock, limit, x + i, w, {-0.9f, 0.05f, 36}, codes);
    y->d = f32_to_f16(fit.scale);
    y->m = f32_to_f16(-fit.min);
    pack(codes, *y);
  }
}

// d = max |x| / 127, q = x / d rounded half away from zero. Returns the unrounded d.
float eight_bits(const float* x, int8_t* qs) {
  float magnitude = 0;
  for (int i = 0; i < kBlock; ++i) magnitude = std::max(magnitude, std::fabs(x[i]));
  const float d = magnitude / 127.0f;
  const float inverse = inverse_scale(d);
  for (int i = 0; i < kBlock; ++i) qs[i] = static_cast<int8_t>(std::round(x[i] * inverse));
  return d;
}

void row_q8_0(int64_t n, const float* x, BlockQ8_0* y) {
  for (int64_t i = 0; i < n; i += kBlock, ++y) y->d = f32_to_f16(eight_bits(x + i, y->qs));
}

void row_q8_1(int64_t n, const float* x, BlockQ8_1* y) {
  for (int64_t i = 0; i < n; i += kBlock, ++y) {
    const float d = eight_bits(x + i, y->qs);
    int sum = 0;
    for (int8_t q : y->qs) sum += q;
    y->d = f32_to_f16(d);
    y->s = f32_to_f16(static_cast<float>(sum) * d);
  }
}

// ---- super-blocks ----

// The searches' parameters of Q4_K and Q5_K: without an importance, and with one.
struct SuperGrids {
  int limit;
  AffineGrid plain, weighted;
};
constexpr SuperGrids kGridsQ4_K = {15, {-1.0f, 0.1f, 20}, {-0.9f, 0.05f, 36}};
constexpr SuperGrids kGridsQ5_K = {31, {-0.5f, 0.1f, 15}, {-0.9f, 0.05f, 36}};

// Eight values >= 0 as 6-bit codes times one scale, which is returned: by the largest value, or by a weighted
// search.
float six_bits(const float* values, const float* w, uint8_t* codes) {
  if (w) return fit_positive(8, 63, values, w, codes);
  const float high = std::max(0.0f, *std::max_element(values, values + 8));
  const float inverse = high > 0 ? 63.0f / high : 0.0f;
  for (int j = 0; j < 8; ++j)
    codes[j] = std::min<uint8_t>(63, static_cast<uint8_t>(nearest_int(inverse * values[j])));
  return high / 63.0f;
}

// One super-block of Q4_K or Q5_K.
template <class Block>
void quantize_super(const SuperGrids& grids, const float* x, const float* importance, Block& b) {
  uint8_t codes[kSuperBlock], sc[8], m[8];
  float scales[8], mins[8], totals[8], w[32];
  const float sigma2 = importance ? 2 * sum_of_squares(kSuperBlock, x) / 256.0f : 0.0f;
  for (int j = 0; j < 8; ++j) {
    const float* xs = x + 32 * j;
    if (importance) {
      error_weights(32, sigma2, xs, importance + 32 * j, w);
    } else {
      const float average = std::sqrt(sum_of_squares(32, xs) / 32.0f);
      for (int i = 0; i < 32; ++i) w[i] = average + std::fabs(xs[i]);
    }
    totals[j] = 0;
    for (float weight : w) totals[j] += weight;
    const AffineFit fit =
        fit_affine(32, grids.limit, xs, w, importance ? grids.weighted : grids.plain, codes + 32 * j);
    scales[j] = fit.scale;
    mins[j] = fit.min;
  }
  b.d = f32_to_f16(six_bits(scales, importance ? totals : nullptr, sc));
  b.dmin = f32_to_f16(six_bits(mins, importance ? totals : nullptr, m));
  pack_scales(sc, m, b.scales);
  // Final codes for the rounded scales; where the scale came out as zero, the search's codes stay.
  for (int j = 0; j < 8; ++j) {
    const float d = f16_to_f32(b.d) * static_cast<float>(sc[j]);
    const float offset = f16_to_f32(b.dmin) * static_cast<float>(m[j]);
    if (d == 0) continue;
    for (int i = 32 * j; i < 32 * j + 32; ++i)
      codes[i] = static_cast<uint8_t>(std::clamp(nearest_int((x[i] + offset) / d), 0, grids.limit));
  }
  pack(codes, b);
}

void quantize_q6_K(const float* x, const float* importance, BlockQ6_K& b) {
  uint8_t codes[kSuperBlock];
  float scales[16];
  for (int j = 0; j < 16; ++j)
    scales[j] = fit_symmetric(16, 32, x + 16 * j, importance ? importance + 16 * j : nullptr, codes + 16 * j);
  const float largest = largest_in_magnitude(16, scales);
  if (std::fabs(largest) < 1e-15f) {
    b = {};
    return;
  }
  const float inverse = -128.0f / largest;
  b.d = f32_to_f16(1 / inverse);
  for (int j = 0; j < 16; ++j) {
    b.scales[j] = static_cast<int8_t>(std::min(127, nearest_int(inverse * scales[j])));
    const float d = f16_to_f32(b.d) * static_cast<float>(b.scales[j]);
    if (d == 0) continue;
    for (int i = 16 * j; i < 16 * j + 16; ++i)
      codes[i] = static_cast<uint8_t>(std::clamp(nearest_int(x[i] / d), -32, 31) + 32);
  }
  pack(codes, b);
}

// The element of largest magnitude becomes -127.
void quantize_q8_K(const float* x, BlockQ8_K& b) {
  const float largest = largest_in_magnitude(kSuperBlock, x);
  b = {};
  if (largest == 0) return;
  const float inverse = -127.0f / largest;
  for (int i = 0; i < kSuperBlock; ++i) {
    b.qs[i] = static_cast<int8_t>(std::min(127, nearest_int(inverse * x[i])));
    b.bsums[i / 16] = static_cast<int16_t>(b.bsums[i / 16] + b.qs[i]);
  }
  b.d = 1 / inverse;
}

void quantize_row(DType dtype, int64_t n, const float* x, const float* importance, void* y) {
  const auto blocks = [&](auto* b, auto&& quantize_block) {
    for (int64_t i = 0; i < n; i += kSuperBlock, ++b)
      quantize_block(x + i, importance ? importance + i : nullptr, *b);
  };
  switch (dtype) {
    case DType::F32:
      std::memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
      break;
    case DType::F16:
      std::transform(x, x + n, static_cast<uint16_t*>(y), [](float v) { return f32_to_f16(v); });
      break;
    case DType::BF16:
      std::transform(x, x + n, static_cast<uint16_t*>(y), [](float v) { return f32_to_bf16(v); });
      break;
    case DType::Q4_0:
      row_symmetric<BlockQ4_0, 8>(n, x, importance, static_cast<BlockQ4_0*>(y));
      break;
    case DType::Q5_0:
      row_symmetric<BlockQ5_0, 16>(n, x, importance, static_cast<BlockQ5_0*>(y));
      break;
    case DType::Q4_1:
      row_affine<BlockQ4_1, 15>(n, x, importance, static_cast<BlockQ4_1*>(y));
      break;
    case DType::Q5_1:
      row_affine<BlockQ5_1, 31>(n, x, importance, static_cast<BlockQ5_1*>(y));
      break;
    case DType::Q8_0:
      row_q8_0(n, x, static_cast<BlockQ8_0*>(y));
      break;
    case DType::Q8_1:
      row_q8_1(n, x, static_cast<BlockQ8_1*>(y));
      break;
    case DType::Q4_K:
      blocks(static_cast<BlockQ4_K*>(y),
             [](const float* xb, const float* w, BlockQ4_K& b) { quantize_super(kGridsQ4_K, xb, w, b); });
      break;
    case DType::Q5_K:
      blocks(static_cast<BlockQ5_K*>(y),
             [](const float* xb, const float* w, BlockQ5_K& b) { quantize_super(kGridsQ5_K, xb, w, b); });
      break;
    case DType::Q6_K:
      blocks(static_cast<BlockQ6_K*>(y), quantize_q6_K);
      break;
    case DType::Q8_K:
      blocks(static_cast<BlockQ8_K*>(y),
             [](const float* xb, const float*, BlockQ8_K& b) { quantize_q8_K(xb, b); });
      break;
    case DType::I32:
      break;
  }
}

// ---- values ----

float value(const BlockQ4_0& b, int j) { return static_cast<float>(code(b, j)) * f16_to_f32(b.d); }
float value(const BlockQ5_0& b, int j) { return static_cast<float>(code(b, j)) * f16_to_f32(b.d); }
float value(const BlockQ8_0& b, int j) { return static_cast<float>(code(b, j)) * f16_to_f32(b.d); }
float value(const BlockQ8_1& b, int j) { return static_cast<float>(code(b, j)) * f16_to_f32(b.d); }
float value(const BlockQ4_1& b, int j) {
  return static_cast<float>(code(b, j)) * f16_to_f32(b.d) + f16_to_f32(b.m);
}
float value(const BlockQ5_1& b, int j) {
  return static_cast<float>(code(b, j)) * f16_to_f32(b.d) + f16_to_f32(b.m);
}
template <class Block>
float affine_value(const Block& b, int i) {
  const ScaleMin s = unpack_scales(b.scales, i / 32);
  return f16_to_f32(b.d) * static_cast<float>(s.sc) * static_cast<float>(code(b, i)) -
         f16_to_f32(b.dmin) * static_cast<float>(s.m);
}
float value(const BlockQ4_K& b, int i) { return affine_value(b, i); }
float value(const BlockQ5_K& b, int i) { return affine_value(b, i); }
float value(const BlockQ6_K& b, int i) {
  return f16_to_f32(b.d) * static_cast<float>(b.scales[i / 16]) * static_cast<float>(code(b, i));
}
float value(const BlockQ8_K& b, int i) { return b.d * static_cast<float>(code(b, i)); }

template <class Block, int size>
void values(int64_t n, const void* x, float* y) {
  const Block* b = static_cast<const Block*>(x);
  for (int64_t i = 0; i < n; ++i) y[i] = value(b[i / size], static_cast<int>(i % size));
}

void dequantize_row(DType dtype, int64_t n, const void* x, float* y) {
  const auto* halves = static_cast<const uint16_t*>(x);
  switch (dtype) {
    case DType::F32:
      std::memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
      break;
    case DType::F16:
      std::transform(halves, halves + n, y, [](uint16_t h) { return f16_to_f32(h); });
      break;
    case DType::BF16:
      std::transform(halves, halves + n, y, [](uint16_t h) { return bf16_to_f32(h); });
      break;
    case DType::Q4_0:
      values<BlockQ4_0, kBlock>(n, x, y);
      break;
    case DType::Q4_1:
      values<BlockQ4_1, kBlock>(n, x, y);
      break;
    case DType::Q5_0:
      values<BlockQ5_0, kBlock>(n, x, y);
      break;
    case DType::Q5_1:
      values<BlockQ5_1, kBlock>(n, x, y);
      break;
    case DType::Q8_0:
      values<BlockQ8_0, kBlock>(n, x, y);
      break;
    case DType::Q8_1:
      values<BlockQ8_1, kBlock>(n, x, y);
      break;
    case DType::Q4_K:
      values<BlockQ4_K, kSuperBlock>(n, x, y);
      break;
    case DType::Q5_K:
      values<BlockQ5_K, kSuperBlock>(n, x, y);
      break;
    case DType::Q6_K:
      values<BlockQ6_K, kSuperBlock>(n, x, y);
      break;
    case DType::Q8_K:
      values<BlockQ8_K, kSuperBlock>(n, x, y);
      break;
    case DType::I32:
      break;
  }
}

}  // namespace

void quantize_rows(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance,
                   void* y) {
  const int64_t bytes = row_bytes(dtype, cols);
  for (int64_t r = 0; r < rows; ++r)
    quantize_row(dtype, cols, x + r * cols, importance, static_cast<std::byte*>(y) + r * bytes);
}

void dequantize_rows(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) {
  const int64_t bytes = row_bytes(dtype, cols);
  for (int64_t r = 0; r < rows; ++r)
    dequantize_row(dtype, cols, static_cast<const std::byte*>(x) + r * bytes, y + r * cols);
}

}  // namespace gladius::reference
