// Quantisers: bytes equal to llama.cpp's, errors bounded by the blocks' scales, 16-bit conversions exact.
#define XXH_INLINE_ALL
#include <doctest/doctest.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/cpu/isas.h"
#include "kernels/cpu/quant_backend.h"
#include "kernels/half.h"
#include "kernels/reference/quantize.h"
#include "kernels/reference/quantize_codes.h"
#include "tests/kernels_support.h"
#include "tests/quant_vectors.h"

using namespace gladius;
using test::Gguf;
using test::Matrix;

namespace {

const std::string kData = GLADIUS_TEST_DATA "/quant/";

constexpr DType kQuantised[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0,
                                DType::Q8_1, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_K};

struct Implementation {
  std::string name;
  const cpu::QuantKernels* kernels;  // null: the reference
  void quantize(DType dtype, const Matrix& m, const float* importance, void* y, int threads = 1) const {
    if (kernels)
      cpu::quantize(*kernels, threads, dtype, m.rows, m.cols, m.x.data(), importance, y);
    else
      reference::quantize_rows(dtype, m.rows, m.cols, m.x.data(), importance, y);
  }
  void dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) const {
    if (kernels)
      cpu::dequantize(*kernels, 1, dtype, rows, cols, x, y);
    else
      reference::dequantize_rows(dtype, rows, cols, x, y);
  }
};

// The reference and every instruction set that this CPU runs.
std::vector<Implementation> implementations() {
  std::vector<Implementation> all = {{"reference", nullptr}};
  for (const cpu::Isa& isa : cpu::cpu_isas())
    if (isa.runnable) all.push_back({isa.name, &isa.table().q});
  return all;
}

std::string hex(XXH128_hash_t h) {
  std::ostringstream out;
  out << std::hex;
  for (uint64_t part : {h.high64, h.low64}) {
    out.width(16);
    out.fill('0');
    out << part;
  }
  return out.str();
}

struct Expected {
  std::string file, tensor, type, hash;
};

std::vector<Expected> expected_tensors() {
  std::ifstream in(kData + "expected.txt");
  std::vector<Expected> all;
  for (Expected e; in >> e.file >> e.tensor >> e.type >> e.hash;) all.push_back(e);
  REQUIRE(all.size() == 251);
  if (test::small_tests()) {  // one of each type of a file
    const auto same_kind = [](const Expected& a, const Expected& b) {
      return a.file == b.file && a.type == b.type;
    };
    all.erase(std::unique(all.begin(), all.end(), same_kind), all.end());
  }
  return all;
}

bool starts_with(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }

Matrix random_matrix(std::mt19937& random, int64_t rows, int64_t cols, float spread) {
  Matrix m{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
  std::normal_distribution<float> normal(0.0f, spread);
  for (float& v : m.x) v = normal(random);
  return m;
}

}  // namespace

TEST_CASE("every tensor that llama-quantize made is reproduced byte for byte") {
  const Gguf source(kData + "source.gguf"), odd(kData + "odd-source.gguf"), imatrix(kData + "imatrix.gguf");
  const std::vector<Expected> all = expected_tensors();
  for (const Implementation& implementation : implementations()) {
    CAPTURE(implementation.name);
    for (const Expected& e : all) {
      CAPTURE(e.file);
      CAPTURE(e.tensor);
      CAPTURE(e.type);
      const Matrix& m = (starts_with(e.file, "odd-") ? odd : source).matrices.at(e.tensor);
      std::vector<float> importance;
      if (starts_with(e.file, "imatrix-")) {
        const auto sums = imatrix.matrices.find(e.tensor + ".in_sum2");
        if (sums != imatrix.matrices.end()) {
          const float count = imatrix.matrices.at(e.tensor + ".counts").x[0];
          for (float sum : sums->second.x) importance.push_back(sum / count);
        }
      }
      const DType dtype = dtype_from_name(e.type).value();
      std::vector<std::byte> y(static_cast<size_t>(m.rows * row_bytes(dtype, m.cols)));
      implementation.quantize(dtype, m, importance.empty() ? nullptr : importance.data(), y.data());
      CHECK(hex(XXH3_128bits(y.data(), y.size())) == e.hash);
    }
  }
}

TEST_CASE("every instruction set quantises and restores as the reference does") {
  std::mt19937 random(1);
  for (int64_t cols : {256, 512, 768, 1280}) {
    Matrix m = random_matrix(random, 6, cols, 0.05f);
    // Rows that are zero, constant, tiny, large, of one sign.
    const auto row = [&](int64_t r) { return m.x.begin() + r * cols; };
    std::fill(row(0), row(1), 0.0f);
    std::fill(row(1), row(2), -0.37f);
    std::transform(row(2), row(3), row(2), [](float v) { return v * 1e-7f; });
    std::transform(row(3), row(4), row(3), [](float v) { return v * 1e5f; });
    std::transform(row(4), row(5), row(4), [](float v) { return std::fabs(v) + 1; });
    std::vector<float> importance(static_cast<size_t>(cols));
    for (float& v : importance) v = std::exp(std::normal_distribution<float>(0.0f, 2.0f)(random));
    importance[3] = 0;
    for (DType dtype : kQuantised) {
      for (const float* weights :
           {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
        std::vector<std::byte> expected(static_cast<size_t>(m.rows * row_bytes(dtype, cols))), y = expected;
        std::vector<float> values(m.x.size()), restored = values;
        reference::quantize_rows(dtype, m.rows, cols, m.x.data(), weights, expected.data());
        reference::dequantize_rows(dtype, m.rows, cols, expected.data(), values.data());
        for (const Implementation& implementation : implementations()) {
          CAPTURE(implementation.name);
          CAPTURE(dtype_info(dtype).name);
          CAPTURE(cols);
          CAPTURE(static_cast<bool>(weights));
          implementation.quantize(dtype, m, weights, y.data());
          CHECK(y == expected);
          implementation.dequantize(dtype, m.rows, cols, expected.data(), restored.data());
          CHECK(std::memcmp(restored.data(), values.data(), values.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST_CASE("blocks too small for a finite inverse of their scale are blocks of zeros, the same everywhere") {
  std::mt19937 random(9);
  const float sizes[] = {1e-44f, 3e-41f, 1e-39f, 2e-38f, 1e-37f, 4e-37f, 1e-36f, 1e-30f};
  Matrix m{0, 512, {}};
  for (const float size : sizes) {
    for (const bool offset :
         {false, true}) {  // a difference of 0 to everything, for the types with a minimum
      Matrix row = random_matrix(random, 1, m.cols, 1.0f);
      for (float& v : row.x) v = std::clamp(v, -1.0f, 1.0f) * size;
      for (size_t i = 0; i < row.x.size(); i += 3) row.x[i] = offset ? size : 0.0f;
      for (size_t i = 0; i < row.x.size(); i += kBlock) row.x[i + 5] = size;
      m.x.insert(m.x.end(), row.x.begin(), row.x.end());
      ++m.rows;
    }
  }
  for (DType dtype : kQuantised) {
    CAPTURE(dtype_info(dtype).name);
    std::vector<std::byte> expected(static_cast<size_t>(m.rows * row_bytes(dtype, m.cols))), y = expected;
    std::vector<float> restored(m.x.size());
    reference::quantize_rows(dtype, m.rows, m.cols, m.x.data(), nullptr, expected.data());
    reference::dequantize_rows(dtype, m.rows, m.cols, expected.data(), restored.data());
    bool close = true;  // F16 scales below 2^-25 are 0; those of Q8_K are floats
    for (size_t i = 0; i < restored.size(); ++i) close = close && std::fabs(restored[i]) <= 1.1e-30f;
    CHECK(close);
    for (const Implementation& implementation : implementations()) {
      CAPTURE(implementation.name);
      implementation.quantize(dtype, m, nullptr, y.data());
      CHECK(y == expected);
    }
  }
  // The codes are those of zeros.
  for (DType dtype : {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q8_1}) {
    CAPTURE(dtype_info(dtype).name);
    const std::vector<float> zeros(kBlock, 0.0f);
    std::vector<std::byte> tiny(static_cast<size_t>(row_bytes(dtype, kBlock))), none = tiny;
    reference::quantize_rows(dtype, 1, kBlock, m.x.data(), nullptr, tiny.data());
    reference::quantize_rows(dtype, 1, kBlock, zeros.data(), nullptr, none.data());
    for (size_t i = 0; i < tiny.size(); ++i) {
      // but for the sign of a scale that is rounded to 0
      CHECK(((tiny[i] ^ none[i]) & (i < 4 ? std::byte{0x7f} : std::byte{0xff})) == std::byte{0});
    }
  }
}

TEST_CASE("threads do not change a byte") {
  std::mt19937 random(8);
  const Matrix m = random_matrix(random, 300, 256, 1.0f);
  for (DType dtype : {DType::Q8_0, DType::Q4_1, DType::Q4_K, DType::Q6_K}) {
    std::vector<std::byte> expected(static_cast<size_t>(m.rows * row_bytes(dtype, m.cols))), y = expected;
    for (const Implementation& implementation : implementations()) {
      implementation.quantize(dtype, m, nullptr, expected.data());
      for (int threads : {2, 3, 4}) {
        implementation.quantize(dtype, m, nullptr, y.data(), threads);
        CHECK(y == expected);
      }
    }
  }
}

TEST_CASE("rounding errors of the simple types are bounded by their scales") {
  // The code is off by half a step, or by a whole one where the range has no code for the far end (Q4_0,
  // Q5_0: the largest magnitude maps to -limit, its negative would need +limit). F16 rounds the scale by
  // 2^-11 of itself, and so the value by that of code * d; the offset likewise. 2^-20 covers the float
  // arithmetic.
  std::mt19937 random(2);
  struct Bound {
    DType dtype;
    double steps, largest_code;
  };
  for (const Bound& b :
       {Bound{DType::Q8_0, 0.5, 127}, Bound{DType::Q8_1, 0.5, 127}, Bound{DType::Q4_0, 1, 8},
        Bound{DType::Q5_0, 1, 16}, Bound{DType::Q4_1, 0.5, 15}, Bound{DType::Q5_1, 0.5, 31}}) {
    CAPTURE(dtype_info(b.dtype).name);
    const Matrix m = random_matrix(random, 40, 96, 3.0f);
    std::vector<std::byte> y(static_cast<size_t>(m.rows * row_bytes(b.dtype, m.cols)));
    std::vector<float> restored(m.x.size());
    reference::quantize_rows(b.dtype, m.rows, m.cols, m.x.data(), nullptr, y.data());
    reference::dequantize_rows(b.dtype, m.rows, m.cols, y.data(), restored.data());
    const bool offset = b.dtype == DType::Q4_1 || b.dtype == DType::Q5_1;
    double worst = 0;
    for (size_t begin = 0; begin < m.x.size(); begin += kBlock) {
      const auto first = m.x.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto [low, high] = std::minmax_element(first, first + kBlock);
      const double magnitude = std::max(std::fabs(*low), std::fabs(*high));
      const double d =
          offset ? (static_cast<double>(*high) - *low) / b.largest_code : magnitude / b.largest_code;
      const double bound =
          d * (b.steps + b.largest_code * 0x1p-11) + (offset ? magnitude * 0x1p-11 : 0) + magnitude * 0x1p-20;
      for (size_t i = begin; i < begin + kBlock; ++i)
        worst = std::max(worst, std::fabs(static_cast<double>(m.x[i]) - restored[i]) / bound);
    }
    CHECK(worst <= 1.0);
  }
}

TEST_CASE("codes of super-blocks are the nearest ones to the stored scales") {
  // For the scales that a block holds no other code comes closer to an element, but for the rounding of the
  // division that finds it: (x + offset) / d is off by two units in the last place of at most 63 steps.
  std::mt19937 random(3);
  const Matrix m = random_matrix(random, 24, 512, 0.7f);
  std::vector<float> importance(512);
  for (float& v : importance) v = std::exp(std::normal_distribution<float>(0.0f, 1.0f)(random));
  const auto check = [&](DType dtype, const float* weights, auto block, int low, int high, auto step_of,
                         auto offset_of) {
    using Block = decltype(block);
    CAPTURE(dtype_info(dtype).name);
    std::vector<Block> y(m.x.size() / kSuperBlock);
    reference::quantize_rows(dtype, m.rows, m.cols, m.x.data(), weights, y.data());
    bool nearest = true;
    for (size_t i = 0; i < m.x.size(); ++i) {
      const Block& b = y[i / kSuperBlock];
      const int at = static_cast<int>(i % kSuperBlock);
      const double d = step_of(b, at), offset = offset_of(b, at);
      if (d == 0) continue;
      const double best =
          std::clamp((m.x[i] + offset) / d, static_cast<double>(low), static_cast<double>(high));
      const int code = reference::code(b, at);
      nearest = nearest && code >= low && code <= high && std::fabs(code - best) <= 0.5 + 64 * 0x1p-22;
    }
    CHECK(nearest);
  };
  const auto step = [](const auto& b, int i) {
    return static_cast<double>(f16_to_f32(b.d)) * unpack_scales(b.scales, i / 32).sc;
  };
  const auto offset = [](const auto& b, int i) {
    return static_cast<double>(f16_to_f32(b.dmin)) * unpack_scales(b.scales, i / 32).m;
  };
  for (const float* weights :
       {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
    check(DType::Q4_K, weights, BlockQ4_K{}, 0, 15, step, offset);
    check(DType::Q5_K, weights, BlockQ5_K{}, 0, 31, step, offset);
    check(
        DType::Q6_K, weights, BlockQ6_K{}, -32, 31,
        [](const BlockQ6_K& b, int i) { return static_cast<double>(f16_to_f32(b.d)) * b.scales[i / 16]; },
        [](const BlockQ6_K&, int) { return 0.0; });
  }
}

TEST_CASE("an importance matrix lowers the weighted error") {
  std::mt19937 random(4);
  const Matrix m = random_matrix(random, 32, 256, 1.0f);
  std::vector<float> importance(256);
  for (float& v : importance) v = std::exp(std::normal_distribution<float>(0.0f, 2.0f)(random));
  for (DType dtype : {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q4_K, DType::Q5_K}) {
    CAPTURE(dtype_info(dtype).name);
    double error[2] = {0, 0};
    for (int weighted : {0, 1}) {
      std::vector<std::byte> y(static_cast<size_t>(m.rows * row_bytes(dtype, m.cols)));
      std::vector<float> restored(m.x.size());
      reference::quantize_rows(dtype, m.rows, m.cols, m.x.data(), weighted ? importance.data() : nullptr,
                               y.data());
      reference::dequantize_rows(dtype, m.rows, m.cols, y.data(), restored.data());
      for (size_t i = 0; i < m.x.size(); ++i) {
        const double difference = static_cast<double>(m.x[i]) - restored[i];
        error[weighted] += static_cast<double>(importance[i % 256]) * difference * difference;
      }
    }
    CHECK(error[1] < error[0]);
  }
}

TEST_CASE("activation blocks carry the sums of their codes") {
  std::mt19937 random(5);
  const Matrix m = random_matrix(random, 4, 512, 2.0f);
  std::vector<BlockQ8_1> simple(m.x.size() / kBlock);
  reference::quantize_rows(DType::Q8_1, m.rows, m.cols, m.x.data(), nullptr, simple.data());
  for (size_t i = 0; i < simple.size(); ++i) {
    const BlockQ8_1& b = simple[i];
    int sum = 0;
    float largest = 0;
    for (int j = 0; j < kBlock; ++j) {
      sum += b.qs[j];
      largest = std::max(largest, std::fabs(m.x[i * kBlock + static_cast<size_t>(j)]));
    }
    CHECK(b.s == f32_to_f16(static_cast<float>(sum) * (largest / 127.0f)));
  }
  std::vector<BlockQ8_K> super(m.x.size() / kSuperBlock);
  reference::quantize_rows(DType::Q8_K, m.rows, m.cols, m.x.data(), nullptr, super.data());
  for (const BlockQ8_K& b : super) {
    CHECK(*std::min_element(b.qs, b.qs + kSuperBlock) == -127);
    for (int k = 0; k < 16; ++k) {
      int sum = 0;
      for (int j = 0; j < 16; ++j) sum += b.qs[16 * k + j];
      CHECK(b.bsums[k] == sum);
    }
  }
}

TEST_CASE("the packing of 6-bit scales is invertible") {
  std::mt19937 random(6);
  std::uniform_int_distribution<int> six(0, 63);
  for (int i = 0; i < 1000; ++i) {
    uint8_t sc[8], m[8], packed[12];
    for (int j = 0; j < 8; ++j)
      sc[j] = static_cast<uint8_t>(six(random)), m[j] = static_cast<uint8_t>(six(random));
    pack_scales(sc, m, packed);
    bool same = true;
    for (int j = 0; j < 8; ++j) {
      const ScaleMin s = unpack_scales(packed, j);
      same = same && s.sc == sc[j] && s.m == m[j];
    }
    CHECK(same);
  }
}

// The value of a 16-bit pattern from the definition of the formats, in double.
double half_value(int exponent_bits, uint16_t h) {
  const int mantissa_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (h & 0x7fff) >> mantissa_bits;
  const int mantissa = h & ((1 << mantissa_bits) - 1);
  double v;
  if (exponent == (1 << exponent_bits) - 1)
    v = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    v = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  else
    v = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return h & 0x8000 ? -v : v;
}

TEST_CASE("16-bit floats: all values, and rounding to the nearest") {
  struct Half {
    DType dtype;
    int exponent_bits;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
  };
  const Half f16{DType::F16, 5, [](uint16_t h) { return f16_to_f32(h); },
                 [](float x) { return f32_to_f16(x); }};
  const Half bf16{DType::BF16, 8, [](uint16_t h) { return bf16_to_f32(h); },
                  [](float x) { return f32_to_bf16(x); }};
  for (const Half& half : {f16, bf16}) {
    CAPTURE(dtype_info(half.dtype).name);
    std::vector<uint16_t> patterns;
    for (int h = 0; h < 0x10000; ++h) {
      const auto pattern = static_cast<uint16_t>(h);
      const double v = half_value(half.exponent_bits, pattern);
      const float widened = half.widen(pattern);
      if (std::isnan(v)) {
        if (!std::isnan(widened) || !std::isnan(half_value(half.exponent_bits, half.narrow(widened))))
          CHECK(h == -1);
        continue;
      }
      patterns.push_back(pattern);
      if (widened != v || std::signbit(widened) != std::signbit(v) || half.narrow(widened) != pattern)
        CHECK(h == -1);
    }
    // Between two neighbours: halfway goes to the even one, anything else to the nearer one. Beyond the
    // largest value the neighbour is infinity, at the place of the next power of two.
    const int infinity = ((1 << half.exponent_bits) - 1) << (15 - half.exponent_bits);
    for (int h = 0; h < infinity; ++h) {
      const double low = half_value(half.exponent_bits, static_cast<uint16_t>(h));
      const double step = h + 1 < infinity
                              ? half_value(half.exponent_bits, static_cast<uint16_t>(h + 1)) - low
                              : low - half_value(half.exponent_bits, static_cast<uint16_t>(h - 1));
      const auto middle = static_cast<float>(low + step / 2);
      const int even = h % 2 == 0 ? h : h + 1;
      const bool right = half.narrow(middle) == even && half.narrow(std::nextafter(middle, 0.0f)) == h &&
                         half.narrow(std::nextafter(middle, INFINITY)) == h + 1 &&
                         half.narrow(-middle) == (even | 0x8000);
      if (!right && middle != 0) CHECK(h == -1);
    }
    // The instruction sets, on all patterns at once and on random floats of every magnitude.
    std::mt19937 random(7);
    Matrix m{1, 1 << 16, {}};
    for (int64_t i = 0; i < m.cols; ++i) {
      const float x = std::bit_cast<float>(static_cast<uint32_t>(random()));
      m.x.push_back(std::isnan(x) ? 1.0f : x);
    }
    std::vector<float> values(patterns.size()), restored(patterns.size());
    reference::dequantize_rows(half.dtype, 1, static_cast<int64_t>(patterns.size()), patterns.data(),
                               values.data());
    std::vector<uint16_t> expected(m.x.size()), y(m.x.size());
    reference::quantize_rows(half.dtype, 1, m.cols, m.x.data(), nullptr, expected.data());
    for (const Implementation& implementation : implementations()) {
      CAPTURE(implementation.name);
      implementation.dequantize(half.dtype, 1, static_cast<int64_t>(patterns.size()), patterns.data(),
                                restored.data());
      CHECK(std::memcmp(values.data(), restored.data(), values.size() * sizeof(float)) == 0);
      implementation.quantize(half.dtype, m, nullptr, y.data());
      CHECK(y == expected);
    }
  }
}
