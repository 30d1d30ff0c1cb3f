// Products with 16-bit and quantised weights on every instruction set that this CPU runs. With quantised
// weights all of them must give the bits of reference::dot_row; with F16 and BF16 weights, where the order of
// summation is free, they must be within the rounding error of float32 sums.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/cpu/isas.h"
#include "kernels/cpu/quant_backend.h"
#include "kernels/half.h"
#include "kernels/reference/quant_dot.h"
#include "kernels/reference/quantize.h"

using namespace gladius;

namespace {

constexpr DType kQuantisedWeights[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
                                       DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K};

bool small() { return std::getenv("GLADIUS_TEST_SMALL") != nullptr; }

std::vector<const cpu::Isa*> runnable_isas() {
  std::vector<const cpu::Isa*> all;
  for (const cpu::Isa& isa : cpu::cpu_isas()) {
    if (isa.runnable)
      all.push_back(&isa);
    else
      MESSAGE("not run: " << isa.name << ": " << isa.reason);
  }
  return all;
}

std::vector<float> normal_floats(std::mt19937& random, int64_t n) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(random);
  return x;
}

// A weight matrix stored one byte past an aligned address, so that every block is misaligned.
class Weight {
 public:
  Weight(DType dtype, int64_t N, int64_t K)
      : dtype_(dtype), bytes_(static_cast<size_t>(N * row_bytes(dtype, K) + 1)) {}
  std::byte* data() { return bytes_.data() + 1; }
  const std::byte* data() const { return bytes_.data() + 1; }
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
  cpu::matmul_quantized(isa.table().q, threads, d, a.data() + 1, W.view(), c.data() + 1,
                        {.accumulate = start != nullptr, .residual = residual}, scratch.span);
  CHECK(c.front() == kGuard);
  CHECK(c.back() == kGuard);
  return {c.begin() + 1, c.end() - 1};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Numbers of activation rows and of weight rows around every border: of vectors, of panels, of tiles.
std::vector<int64_t> row_counts() {
  if (small()) return {1, 3, 4, 5, 17};
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
          for (const cpu::Isa* isa : runnable_isas()) {
            CAPTURE(isa->name);
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
