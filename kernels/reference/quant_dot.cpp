#include "kernels/reference/quant_dot.h"

#include "kernels/blocks.h"
#include "kernels/half.h"
#include "kernels/reference/quantize_codes.h"

namespace gladius::reference {
namespace {

template <class Weight, class Activation>
int sum_codes(const Weight& w, const Activation& a, int begin, int end) {
  int sum = 0;
  for (int i = begin; i < end; ++i) sum += code(w, i) * code(a, i);
  return sum;
}

template <class Weight>
float block_product(const Weight& w, const BlockQ8_0& a) {
  return f16_to_f32(w.d) * f16_to_f32(a.d) * static_cast<float>(sum_codes(w, a, 0, kBlock));
}

template <class Weight>
float block_product(const Weight& w, const BlockQ8_1& a) {
  return f16_to_f32(w.d) * f16_to_f32(a.d) * static_cast<float>(sum_codes(w, a, 0, kBlock)) +
         f16_to_f32(w.m) * f16_to_f32(a.s);
}

template <class Weight>
float block_product(const Weight& w, const BlockQ8_K& a) {
  int sum = 0, offset = 0;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = unpack_scales(w.scales, j);
    sum += s.sc * sum_codes(w, a, 32 * j, 32 * j + 32);
    offset += s.m * (a.bsums[2 * j] + a.bsums[2 * j + 1]);
  }
  return f16_to_f32(w.d) * a.d * static_cast<float>(sum) -
         f16_to_f32(w.dmin) * a.d * static_cast<float>(offset);
}

float block_product(const BlockQ6_K& w, const BlockQ8_K& a) {
  int sum = 0;
  for (int j = 0; j < 16; ++j) sum += w.scales[j] * sum_codes(w, a, 16 * j, 16 * j + 16);
  return f16_to_f32(w.d) * a.d * static_cast<float>(sum);
}

template <class Weight, class Activation>
float sum_blocks(int64_t blocks, const void* w, const void* a) {
  const auto* wb = static_cast<const Weight*>(w);
  const auto* ab = static_cast<const Activation*>(a);
  float sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += block_product(wb[b], ab[b]);
  return sum;
}

// Elements that to_float makes floats, W of the weight and A of the activations.
template <class W, class A, class ToFloat>
float sum_elements(int64_t n, const void* w, const void* a, ToFloat to_float) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += static_cast<double>(to_float(static_cast<const W*>(w)[i])) * to_float(static_cast<const A*>(a)[i]);
  return static_cast<float>(sum);
}

struct Halves {
  float operator()(uint16_t x) const { return f16_to_f32(x); }
  float operator()(float x) const { return x; }
};

}  // namespace

float dot_row(DType weight, int64_t n, const void* w, const void* a) {
  const int64_t blocks = n / dtype_info(weight).block_size;
  switch (weight) {
    case DType::F32:
      return sum_elements<float, float>(n, w, a, [](float x) { return x; });
    case DType::F16:
      return sum_elements<uint16_t, float>(n, w, a, Halves());
    case DType::BF16:
      return sum_elements<uint16_t, uint16_t>(n, w, a, [](uint16_t h) { return bf16_to_f32(h); });
    case DType::Q4_0:
      return sum_blocks<BlockQ4_0, BlockQ8_0>(blocks, w, a);
    case DType::Q5_0:
      return sum_blocks<BlockQ5_0, BlockQ8_0>(blocks, w, a);
    case DType::Q8_0:
      return sum_blocks<BlockQ8_0, BlockQ8_0>(blocks, w, a);
    case DType::Q4_1:
      return sum_blocks<BlockQ4_1, BlockQ8_1>(blocks, w, a);
    case DType::Q5_1:
      return sum_blocks<BlockQ5_1, BlockQ8_1>(blocks, w, a);
    case DType::Q4_K:
      return sum_blocks<BlockQ4_K, BlockQ8_K>(blocks, w, a);
    case DType::Q5_K:
      return sum_blocks<BlockQ5_K, BlockQ8_K>(blocks, w, a);
    case DType::Q6_K:
      return sum_blocks<BlockQ6_K, BlockQ8_K>(blocks, w, a);
    case DType::Q8_1:
    case DType::Q8_K:
    case DType::I32:
      break;
  }
  return 0;  // not a weight type
}

}  // namespace gladius::reference
