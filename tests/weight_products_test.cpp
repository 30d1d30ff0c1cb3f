// Backend::matmul_weight and matmul_weights as the model calls them: several weights at once, and 16-bit
// weights by many rows, which are made floats or pairs of BF16.
#include <algorithm>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/half.h"
#include "kernels/reference/quantize.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

struct Weight {
  DType dtype;
  int64_t N, K;
  std::vector<std::byte> rows;
  WeightView view() const { return {dtype, rows.data()}; }
};

Weight random_weight(Random& random, DType dtype, int64_t N, int64_t K) {
  const Array x(random, N * K);
  Weight w{dtype, N, K, std::vector<std::byte>(static_cast<size_t>(N * row_bytes(dtype, K)))};
  reference::quantize_rows(dtype, N, K, x, nullptr, w.rows.data());
  return w;
}

// C = A·Wᵀ with A rounded to W's type, and the bound of float32 sums.
Expected expected_halves(const Weight& w, int64_t M, const Array& A, const float* added) {
  std::vector<float> weight(static_cast<size_t>(w.N * w.K)), a(static_cast<size_t>(M * w.K));
  reference::dequantize_rows(w.dtype, w.N, w.K, w.rows.data(), weight.data());
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = A[static_cast<int64_t>(i)];
    a[i] = w.dtype == DType::F16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
  }
  Expected out(M * w.N);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < w.N; ++n) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < w.K; ++k) {
        const double term = double(a[size_t(m * w.K + k)]) * double(weight[size_t(n * w.K + k)]);
        sum += term;
        size += std::fabs(term);
      }
      const double more = added ? double(added[m * w.N + n]) : 0;
      out.value[size_t(m * w.N + n)] = sum + more;
      out.bound[size_t(m * w.N + n)] = roundings(double(w.K) + 2) * (size + std::fabs(more));
    }
  return out;
}

// Each instruction set, and each with products of pairs of BF16 also as on a CPU where these pay or do not.
template <class F>
void for_each_isa_and_way(F f) {
  for_each_isa(f);
  for (cpu::Isa isa : cpu::cpu_isas()) {
    if (!isa.runnable || !isa.table().q.pairs.gemm.run) continue;
    CAPTURE(isa.name);
    isa.quick_bf16 = !isa.quick_bf16;
    cpu::CpuBackend backend(3, isa);
    f(backend);
  }
}

TEST_CASE("16-bit weights: rows around few ones, even and odd K, blocks and passes, what is added") {
  for_each_isa_and_way([](Backend& backend) {
    Random random(1);
    struct Shape {
      int64_t M, N, K;
    };
    std::vector<Shape> shapes = {{cpu::few_rows, 70, 34},
                                 {cpu::few_rows + 1, 70, 33},
                                 {cpu::few_rows + 1, 70, 34},
                                 {20, 33, 64},
                                 {10, 49, 62},
                                 {1, 9, 300},
                                 {9, 5, 0}};
    if (!small_tests()) {
      const int64_t K = 2500;
      shapes.push_back({12, 150, K});                                 // several blocks of the sum
      shapes.push_back({cpu::converted_bytes / (4 * K) + 12, 5, K});  // rows of A in two passes
      shapes.push_back({520, 100, 800});                              // several groups of register tiles
    }
    for (const auto [M, N, K] : shapes)
      for (const DType dtype : {DType::F16, DType::BF16}) {
        CAPTURE(M);
        CAPTURE(N);
        CAPTURE(K);
        const Weight w = random_weight(random, dtype, N, K);
        const Array A(random, M * K, 1), residual(random, M * N, 3);
        Array C(M * N, 1);
        backend.matmul_weight({M, N, K}, A, w.view(), C, {.residual = residual});
        check_close(C, expected_halves(w, M, A, residual));
        const Array start(random, M * N);
        std::copy_n(start.data(), M * N, C.data());
        backend.matmul_weight({M, N, K}, A, w.view(), C, {.accumulate = true});
        check_close(C, expected_halves(w, M, A, start));
      }
  });
}

TEST_CASE("several weights at once give the bits of each alone, at any number of threads") {
  constexpr int64_t K = 256;
  Random random(2);
  const std::vector<std::vector<DType>> groups = {{DType::Q4_K, DType::Q4_K, DType::Q6_K},
                                                  {DType::Q8_0, DType::Q4_0},
                                                  {DType::Q4_K, DType::F32, DType::F32, DType::Q8_0},
                                                  {DType::F16, DType::F16, DType::BF16},
                                                  {DType::F32}};
  for (const std::string& isa : runnable_isas()) {
    CAPTURE(isa);
    const auto one = make_cpu_backend(1, isa), three = make_cpu_backend(3, isa);
    for (const std::vector<DType>& types : groups)
      for (const int64_t M : {1, 2, 5, 9, 40}) {
        CAPTURE(M);
        const Array A(random, M * K, 1);
        std::vector<Weight> weights;
        std::vector<Array> alone, together, threaded;
        for (const DType dtype : types) {
          const int64_t N = 1 + random.below(200);
          weights.push_back(random_weight(random, dtype, N, K));
          for (auto* results : {&alone, &together, &threaded}) results->emplace_back(M * N, 1);
          one->matmul_weight({M, N, K}, A, weights.back().view(), alone.back(), {});
        }
        const auto multiply = [&](Backend& backend, std::vector<Array>& results) {
          std::vector<WeightProduct> products;
          for (size_t i = 0; i < weights.size(); ++i)
            products.push_back({weights[i].view(), weights[i].N, results[i]});
          backend.matmul_weights({M, 0, K}, A, products);
        };
        multiply(*one, together);
        multiply(*three, threaded);
        for (size_t i = 0; i < weights.size(); ++i) {
          CHECK(together[i].same_bits(alone[i]));
          CHECK(threaded[i].same_bits(alone[i]));
          CHECK(threaded[i].guards_intact());
        }
      }
  }
}

}  // namespace
