// Products with 16-bit and quantised weights on every instruction set that this CPU runs. With quantised
// weights all of them must give the bits of reference::dot_row; with F16 and BF16 weights, where the order of
// summation is free, they must be within the rounding error of float32 sums.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/cpu/isas.h"
#include "kernels/cpu/quant_backend.h"
#include "kernels/cpu/weight_panels.h"
#include "kernels/half.h"
#include "kernels/reference/quant_dot.h"
#include "kernels/reference/quantize.h"
#include "tests/kernels_support.h"

using namespace gladius;

namespace {

constexpr DType kQuantisedWeights[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
                                       DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K};

std::vector<const cpu::Isa*> isas_to_test() {
  std::vector<const cpu::Isa*> all;
  for (const cpu::Isa& isa : cpu::cpu_isas())
    if (isa.runnable) all.push_back(&isa);
  return all;
}

std::vector<float> normal_floats(std::mt19937& random, int64_t n) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(random);
  return x;
}

// A weight matrix stored two bytes past an aligned address: blocks need no more than the alignment of their
// 16-bit fields.
class Weight {
 public:
  Weight(DType dtype, int64_t N, int64_t K)
      : dtype_(dtype), bytes_(static_cast<size_t>(N * row_bytes(dtype, K) + 2)) {}
  std::byte* data() { return bytes_.data() + 2; }
  const std::byte* data() const { return bytes_.data() + 2; }
  std::byte* row(int64_t n, int64_t K) { return data() + n * row_bytes(dtype_, K); }
  WeightView view() const { return {dtype_, data()}; }
  DType dtype() const { return dtype_; }

 private:
  DType dtype_;
  std::vector<std::byte> bytes_;
};

Weight random_weight(std::mt19937& random, DType dtype, int64_t N, int64_t K) {
  Weight w(dtype, N, K);
  const std::vector<float> x = normal_floats(random, N * K);
  reference::quantize_rows(dtype, N, K, x.data(), nullptr, w.data());
  return w;
}

// Every code, scale and minimum arbitrary, also those that a quantiser never writes; only the 16-bit factors
// are tame.
Weight arbitrary_weight(std::mt19937& random, DType dtype, int64_t N, int64_t K) {
  Weight w(dtype, N, K);
  const DTypeInfo& info = dtype_info(dtype);
  const int64_t blocks = N * K / info.block_size;
  std::uniform_int_distribution<int> byte(0, 255);
  for (int64_t i = 0; i < blocks * info.block_bytes; ++i) w.data()[i] = static_cast<std::byte>(byte(random));
  std::uniform_real_distribution<float> factor(-2.0f, 2.0f);
  for (int64_t b = 0; b < blocks; ++b) {
    std::byte* block = w.data() + b * info.block_bytes;
    const uint16_t d[2] = {f32_to_f16(factor(random)), f32_to_f16(factor(random))};
    const bool two =
        dtype == DType::Q4_1 || dtype == DType::Q5_1 || dtype == DType::Q4_K || dtype == DType::Q5_K;
    const size_t at = dtype == DType::Q6_K ? offsetof(BlockQ6_K, d) : 0;
    std::memcpy(block + at, d, two ? 4 : 2);
  }
  return w;
}

// What C should be, by dot_row.
std::vector<float> expected_product(MatmulDims d, const float* A, Weight& W) {
  const DType activation = dtype_info(W.dtype()).dot_with;
  std::vector<std::byte> a(static_cast<size_t>(row_bytes(activation, d.K)));
  std::vector<float> C;
  for (int64_t m = 0; m < d.M; ++m) {
    reference::quantize_rows(activation, 1, d.K, A + m * d.K, nullptr, a.data());
    for (int64_t n = 0; n < d.N; ++n)
      C.push_back(reference::dot_row(W.dtype(), d.K, W.row(n, d.K), a.data()));
  }
  return C;
}

struct Aligned {
  explicit Aligned(size_t size) : bytes(size + 64) {
    void* p = bytes.data();
    size_t space = bytes.size();
    span = {static_cast<std::byte*>(std::align(64, size, p, space)), size};
  }
  std::vector<std::byte> bytes;
  std::span<std::byte> span;
};

constexpr float kGuard = -12345.0f;

// C by an instruction set, with A and C one float past an aligned address and guards around C.
std::vector<float> product(const cpu::Isa& isa, int threads, MatmulDims d, const std::vector<float>& A,
                           const Weight& W, int64_t scratch_rows, const float* start = nullptr,
                           const float* residual = nullptr) {
  std::vector<float> a(A.size() + 1), c(static_cast<size_t>(d.M * d.N + 2), kGuard);
  std::copy(A.begin(), A.end(), a.begin() + 1);
  if (start) std::copy_n(start, d.M * d.N, c.begin() + 1);
  const Aligned scratch(cpu::quantized_scratch_bytes(W.dtype(), scratch_rows, d.K));
  const auto multiply = [&](WeightView view) {
    const WeightProduct one{view, d.N, c.data() + 1};
    cpu::matmul_quantized(isa.table().q, threads, d, a.data() + 1, {&one, 1},
                          {.accumulate = start != nullptr, .residual = residual}, scratch.span);
    CHECK(c.front() == kGuard);
    CHECK(c.back() == kGuard);
  };
  multiply(W.view());
  const std::vector<float> result(c.begin() + 1, c.end() - 1);
  if (dtype_info(W.dtype()).quantised) {  // the same from panels
    const int64_t bytes = (d.N + cpu::panel_rows - 1) / cpu::panel_rows * cpu::panel_bytes(W.dtype(), d.K);
    const Aligned panels(static_cast<size_t>(bytes));
    cpu::make_panels(isa.table().q, threads, W.dtype(), d.N, d.K, W.data(), panels.span.data());
    std::fill(c.begin(), c.end(), kGuard);
    if (start) std::copy_n(start, d.M * d.N, c.begin() + 1);
    multiply({W.dtype(), panels.span.data(), true});
    CHECK(std::memcmp(result.data(), c.data() + 1, result.size() * sizeof(float)) == 0);
  }
  return result;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Numbers of activation rows and of weight rows around every border: of vectors, of panels, of tiles.
std::vector<int64_t> row_counts() {
  if (test::small_tests()) return {1, 3, 4, 5, 17};
  std::vector<int64_t> counts;
  for (int64_t n = 1; n <= 34; ++n) counts.push_back(n);
  for (int64_t n : {63, 64, 65, 127, 128}) counts.push_back(n);
  return counts;
}

}  // namespace

TEST_CASE("quantised products have the reference's bits on every instruction set") {
  std::mt19937 random(1);
  for (DType dtype : kQuantisedWeights) {
    CAPTURE(dtype_info(dtype).name);
    const int64_t block = dtype_info(dtype).block_size;
    for (int64_t blocks : {1, 2, 3, 8, 9, 17}) {
      if (block == kSuperBlock && blocks > 3) continue;
      const MatmulDims d{5, 19, blocks * block};
      const std::vector<float> A = normal_floats(random, d.M * d.K);
      for (bool arbitrary : {false, true}) {
        Weight W =
            arbitrary ? arbitrary_weight(random, dtype, d.N, d.K) : random_weight(random, dtype, d.N, d.K);
        for (int64_t M : {int64_t{1}, int64_t{3}, d.M}) {
          const MatmulDims some{M, d.N, d.K};
          const std::vector<float> expected = expected_product(some, A.data(), W);
          for (const cpu::Isa* isa : isas_to_test()) {
            CAPTURE(std::string(isa->name));
            CAPTURE(d.K);
            CAPTURE(M);
            const std::vector<float> a(A.begin(), A.begin() + M * d.K);
            CHECK(same_bits(product(*isa, 1, some, a, W, M), expected));
          }
        }
      }
    }
  }
}

TEST_CASE("every number of rows gives the same bits") {
  std::mt19937 random(2);
  const std::vector<int64_t> counts = row_counts();
  for (DType dtype : kQuantisedWeights) {
    CAPTURE(dtype_info(dtype).name);
    const MatmulDims all{counts.back(), counts.back(),
                         dtype_info(dtype).block_size == kSuperBlock ? 256 : 96};
    const std::vector<float> A = normal_floats(random, all.M * all.K);
    Weight W = random_weight(random, dtype, all.N, all.K);
    const std::vector<float> expected = expected_product(all, A.data(), W);
    const auto check = [&](const cpu::Isa& isa, int64_t M, int64_t N) {
      CAPTURE(std::string(isa.name));
      CAPTURE(M);
      CAPTURE(N);
      const std::vector<float> a(A.begin(), A.begin() + M * all.K);
      const std::vector<float> C = product(isa, 1, {M, N, all.K}, a, W, M);
      bool equal = true;
      for (int64_t m = 0; m < M; ++m)
        equal = equal && std::equal(C.begin() + m * N, C.begin() + (m + 1) * N, expected.begin() + m * all.N);
      CHECK(equal);
    };
    for (const cpu::Isa* isa : isas_to_test()) {
      for (int64_t M : counts) check(*isa, M, 9);
      for (int64_t N : counts)
        for (int64_t M : {1, 2, 4}) check(*isa, M, N);
      for (int64_t N : counts) check(*isa, 6, N);
    }
  }
}

TEST_CASE("sums of codes are exact integers") {
  // Scales of 1 and activations whose blocks hold one -127 (so that their scale is 1) and otherwise -1, 0 and
  // 1: every intermediate is an integer below 2^24, and the result must be the integer product of the stored
  // values.
  std::mt19937 random(3);
  std::uniform_int_distribution<int> sign(-1, 1);
  for (DType dtype : kQuantisedWeights) {
    CAPTURE(dtype_info(dtype).name);
    const DTypeInfo& info = dtype_info(dtype);
    const MatmulDims d{6, 37, 512};
    Weight W = arbitrary_weight(random, dtype, d.N, d.K);
    for (int64_t b = 0; b < d.N * d.K / info.block_size; ++b) {
      const uint16_t one[2] = {f32_to_f16(1.0f), f32_to_f16(1.0f)};
      const bool two =
          dtype == DType::Q4_1 || dtype == DType::Q5_1 || dtype == DType::Q4_K || dtype == DType::Q5_K;
      std::memcpy(W.data() + b * info.block_bytes + (dtype == DType::Q6_K ? offsetof(BlockQ6_K, d) : 0), one,
                  two ? 4 : 2);
    }
    std::vector<float> A(static_cast<size_t>(d.M * d.K)), w(static_cast<size_t>(d.N * d.K));
    for (size_t i = 0; i < A.size(); ++i)
      A[i] = i % static_cast<size_t>(info.block_size) == 7 ? -127.0f : static_cast<float>(sign(random));
    reference::dequantize_rows(dtype, d.N, d.K, W.data(), w.data());
    std::vector<float> expected;
    for (int64_t m = 0; m < d.M; ++m)
      for (int64_t n = 0; n < d.N; ++n) {
        int64_t sum = 0;
        for (int64_t k = 0; k < d.K; ++k)
          sum += static_cast<int64_t>(w[static_cast<size_t>(n * d.K + k)]) *
                 static_cast<int64_t>(A[static_cast<size_t>(m * d.K + k)]);
        REQUIRE(std::abs(sum) < 1 << 24);
        expected.push_back(static_cast<float>(sum));
      }
    CHECK(same_bits(expected_product(d, A.data(), W), expected));
    for (const cpu::Isa* isa : isas_to_test()) {
      CAPTURE(std::string(isa->name));
      CHECK(same_bits(product(*isa, 1, d, A, W, d.M), expected));
      const std::vector<float> first(A.begin(), A.begin() + d.K);
      CHECK(same_bits(product(*isa, 1, {1, d.N, d.K}, first, W, 1),
                      {expected.begin(), expected.begin() + d.N}));
    }
  }
}

TEST_CASE("the largest sums stay exact") {
  // Weights of nothing but ones in binary, or of nothing but the largest code of either sign, and activations
  // whose codes are all 127 but for a few, of both signs: every sum is as large as it can be, or nearly.
  std::mt19937 random(7);
  std::uniform_int_distribution<int> small(0, 3);
  for (DType dtype : kQuantisedWeights) {
    CAPTURE(dtype_info(dtype).name);
    const DTypeInfo& info = dtype_info(dtype);
    for (const int byte : {0xff, 0x80, 0x7f}) {
      const MatmulDims d{6, 17, 512};
      Weight W(dtype, d.N, d.K);
      std::memset(W.data(), byte, static_cast<size_t>(d.N * row_bytes(dtype, d.K)));
      for (int64_t b = 0; b < d.N * d.K / info.block_size; ++b) {
        const uint16_t one[2] = {f32_to_f16(1.0f), f32_to_f16(0.0f)};
        const bool two =
            dtype == DType::Q4_1 || dtype == DType::Q5_1 || dtype == DType::Q4_K || dtype == DType::Q5_K;
        std::memcpy(W.data() + b * info.block_bytes + (dtype == DType::Q6_K ? offsetof(BlockQ6_K, d) : 0),
                    one, two ? 4 : 2);
        // Bytes of ones are Q6_K's largest codes, but not its largest scales.
        if (dtype == DType::Q6_K && byte == 0xff)
          std::memset(W.data() + b * info.block_bytes + offsetof(BlockQ6_K, scales), b % 4 < 2 ? 0x7f : 0x80,
                      sizeof(BlockQ6_K::scales));
      }
      std::vector<float> A(static_cast<size_t>(d.M * d.K));
      for (size_t i = 0; i < A.size(); ++i) {
        const bool row_sign = i / static_cast<size_t>(d.K) % 2 == 0;
        const float x = small(random) == 0 ? 126.0f : 127.0f;
        A[i] = i % static_cast<size_t>(info.block_size) == 0 ? (row_sign ? 127.0f : -127.0f)
               : row_sign                                    ? x
                                                             : -x;
      }
      const std::vector<float> expected = expected_product(d, A.data(), W);
      for (const cpu::Isa* isa : isas_to_test()) {
        CAPTURE(std::string(isa->name));
        CHECK(same_bits(product(*isa, 1, d, A, W, d.M), expected));
        for (int64_t M : {1, 2, 4}) {
          const std::vector<float> a(A.begin(), A.begin() + M * d.K);
          CHECK(same_bits(product(*isa, 1, {M, d.N, d.K}, a, W, M),
                          {expected.begin(), expected.begin() + M * d.N}));
        }
      }
    }
  }
}

TEST_CASE("more activations than a tile takes") {
  std::mt19937 random(8);
  for (DType dtype : {DType::Q4_K, DType::Q8_0}) {
    const MatmulDims d{1030, 19, 256};
    const std::vector<float> A = normal_floats(random, d.M * d.K);
    Weight W = random_weight(random, dtype, d.N, d.K);
    const std::vector<float> expected = expected_product(d, A.data(), W);
    for (const cpu::Isa* isa : isas_to_test()) {
      CAPTURE(std::string(isa->name));
      for (int64_t scratch_rows : {int64_t{600}, d.M})
        CHECK(same_bits(product(*isa, 2, d, A, W, scratch_rows), expected));
      for (int64_t M : {511, 512, 513}) {
        const std::vector<float> a(A.begin(), A.begin() + M * d.K);
        CHECK(same_bits(product(*isa, 1, {M, d.N, d.K}, a, W, M),
                        {expected.begin(), expected.begin() + M * d.N}));
      }
    }
  }
}

TEST_CASE("the reference's product is that of the stored values") {
  // dot_row against the product in double of the values that both rows store: integer sums add no error, each
  // block two roundings for its factors, two for its terms and one for the sum, of terms bounded by the sums
  // of magnitudes.
  std::mt19937 random(4);
  for (DType dtype : kQuantisedWeights) {
    CAPTURE(dtype_info(dtype).name);
    const DType activation = dtype_info(dtype).dot_with;
    const int64_t K = 1024;
    for (int i = 0; i < 20; ++i) {
      Weight W = random_weight(random, dtype, 1, K);
      const std::vector<float> x = normal_floats(random, K);
      std::vector<std::byte> a(static_cast<size_t>(row_bytes(activation, K)));
      reference::quantize_rows(activation, 1, K, x.data(), nullptr, a.data());
      std::vector<float> w(x.size()), y(x.size());
      reference::dequantize_rows(dtype, 1, K, W.data(), w.data());
      reference::dequantize_rows(activation, 1, K, a.data(), y.data());
      double sum = 0, magnitude = 0, offsets = 0;
      for (size_t k = 0; k < x.size(); ++k) {
        sum += static_cast<double>(w[k]) * y[k];
        // A block's scale and offset parts can each be larger than their difference: three times the largest
        // |w| bounds them.
        magnitude += 3 * std::fabs(static_cast<double>(y[k]));
      }
      double largest = 0;
      for (float v : w) largest = std::max(largest, std::fabs(static_cast<double>(v)));
      magnitude *= largest;
      const double blocks = static_cast<double>(K / dtype_info(dtype).block_size);
      // Q8_1 keeps the sum of a block as F16: m * s is off by 2^-11 of it, at most m * 32 * max |y| a block.
      if (activation == DType::Q8_1) offsets = magnitude * 0x1p-11;
      CHECK(std::fabs(reference::dot_row(dtype, K, W.data(), a.data()) - sum) <=
            test::roundings(blocks + 4) * magnitude + offsets);
    }
  }
}

// (K + 1) u |A| |B|, also with Arm's bfdot: it rounds to odd, by up to 2 u, but only twice for each two
// products of a lane, the first time exactly to zero (kernels_gemm_test.cpp), and two roundings add the four
// lanes.
TEST_CASE("F16 and BF16 products are within the error of float sums") {
  std::mt19937 random(5);
  for (DType dtype : {DType::F16, DType::BF16}) {
    CAPTURE(dtype_info(dtype).name);
    for (int64_t K : {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 700}) {
      for (int64_t M : {1, 2, 3, 4, 5, 9}) {
        const MatmulDims d{M, 7, K};
        const std::vector<float> A = normal_floats(random, M * K);
        Weight W = random_weight(random, dtype, d.N, K);
        std::vector<float> w(static_cast<size_t>(d.N * K)), a(A.size());
        reference::dequantize_rows(dtype, d.N, K, W.data(), w.data());
        const DType with = dtype_info(dtype).dot_with;
        std::vector<std::byte> rounded(static_cast<size_t>(row_bytes(with, M * K)));
        reference::quantize_rows(with, 1, M * K, A.data(), nullptr, rounded.data());
        reference::dequantize_rows(with, 1, M * K, rounded.data(), a.data());
        for (const cpu::Isa* isa : isas_to_test()) {
          CAPTURE(std::string(isa->name));
          CAPTURE(K);
          CAPTURE(M);
          const std::vector<float> C = product(*isa, 1, d, A, W, M);
          bool within = true;
          for (int64_t m = 0; m < M; ++m)
            for (int64_t n = 0; n < d.N; ++n) {
              double sum = 0, magnitude = 0;
              for (int64_t k = 0; k < K; ++k) {
                const double p = static_cast<double>(a[static_cast<size_t>(m * K + k)]) *
                                 w[static_cast<size_t>(n * K + k)];
                sum += p;
                magnitude += std::fabs(p);
              }
              const double error = std::fabs(C[static_cast<size_t>(m * d.N + n)] - sum);
              within = within && error <= test::roundings(static_cast<double>(K) + 1) * magnitude;
            }
          CHECK(within);
        }
      }
    }
  }
}

TEST_CASE("threads and scratch do not change a bit, and the epilogue adds in order") {
  std::mt19937 random(6);
  for (DType dtype : {DType::F16, DType::BF16, DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q6_K}) {
    CAPTURE(dtype_info(dtype).name);
    const MatmulDims d{75, 150, 256};
    const std::vector<float> A = normal_floats(random, d.M * d.K);
    const std::vector<float> start = normal_floats(random, d.M * d.N),
                             residual = normal_floats(random, d.M * d.N);
    const Weight W = random_weight(random, dtype, d.N, d.K);
    for (const cpu::Isa* isa : isas_to_test()) {
      CAPTURE(std::string(isa->name));
      const std::vector<float> plain = product(*isa, 1, d, A, W, d.M);
      for (int threads : {2, 3, 4}) CHECK(same_bits(product(*isa, threads, d, A, W, d.M), plain));
      for (int64_t rows : {1, 7, 70}) CHECK(same_bits(product(*isa, 1, d, A, W, rows), plain));
      std::vector<float> added, both, only;
      for (size_t i = 0; i < plain.size(); ++i) {
        added.push_back(plain[i] + start[i]);
        both.push_back(plain[i] + start[i] + residual[i]);
        only.push_back(plain[i] + residual[i]);
      }
      CHECK(same_bits(product(*isa, 1, d, A, W, d.M, start.data()), added));
      CHECK(same_bits(product(*isa, 1, d, A, W, d.M, start.data(), residual.data()), both));
      CHECK(same_bits(product(*isa, 1, d, A, W, d.M, nullptr, residual.data()), only));
    }
  }
}

TEST_CASE("rows of the largest width fit a backend's scratch memory when they are converted") {
  for (DType dtype : {DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q6_K}) {
    CAPTURE(dtype_info(dtype).name);
    const int64_t block = dtype_info(dtype).block_size;
    bool bounded = true;
    for (int64_t K = 0; K <= 3000; K += block)
      bounded = bounded && cpu::activation_row_bytes(dtype, K) <= cpu::max_activation_row_bytes(K);
    CHECK(bounded);
    CHECK(cpu::activation_row_bytes(dtype, max_weight_columns) <=
          cpu::max_activation_row_bytes(max_weight_columns));
  }
  std::mt19937 random(7);
  const MatmulDims d{3, 2, max_weight_columns};
  const std::vector<float> A = normal_floats(random, d.M * d.K);
  Weight quantised = random_weight(random, DType::Q4_1, d.N, d.K);
  const std::vector<float> expected = expected_product(d, A.data(), quantised);
  Weight ones(DType::F16, d.N, d.K);  // sums of small integers are exact in any order
  std::vector<float> integers(A.size());
  std::vector<float> sums(static_cast<size_t>(d.M * d.N));
  for (int64_t n = 0; n < d.N * d.K; ++n) {
    const uint16_t one = f32_to_f16(1.0f);
    std::memcpy(ones.data() + 2 * n, &one, 2);
  }
  for (size_t i = 0; i < integers.size(); ++i) {
    integers[i] = std::clamp(std::round(A[i]), -2.0f, 2.0f);
    for (int64_t n = 0; n < d.N; ++n)
      sums[i / static_cast<size_t>(d.K) * 2 + static_cast<size_t>(n)] += integers[i];
  }
  for (const cpu::Isa* isa : isas_to_test()) {
    CAPTURE(isa->name);
    const std::unique_ptr<Backend> backend = make_cpu_backend(2, isa->name);
    std::vector<float> C(static_cast<size_t>(d.M * d.N));
    backend->matmul_weight(d, A.data(), quantised.view(), C.data(), {});
    CHECK(C == expected);
    backend->matmul_weight(d, integers.data(), ones.view(), C.data(), {});
    CHECK(C == sums);
  }
}
