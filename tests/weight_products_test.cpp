// Backend::matmul_weight and matmul_weights as the model calls them: several weights at once, and F32 and
// 16-bit weights, as rows and in panels, by few and by many rows, which are made floats or pairs of BF16.
#include <algorithm>
#include <random>
#include <span>

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
  std::unique_ptr<cpu::Scratch<std::byte>> panels{};
  WeightView view() const { return {dtype, rows.data()}; }

  // In the backend's own form; false if it has none.
  bool relay(Backend& backend) {
    const int64_t bytes = backend.panels_bytes(dtype, N, K);
    if (bytes == 0) return false;
    panels = std::make_unique<cpu::Scratch<std::byte>>(bytes);
    backend.make_panels(dtype, N, K, rows.data(), panels->data());
    return true;
  }
  WeightView relaid() const { return {dtype, panels->data(), true}; }
};

Weight random_weight(Random& random, DType dtype, int64_t N, int64_t K) {
  const Array x(random, N * K);
  Weight w{dtype, N, K, std::vector<std::byte>(static_cast<size_t>(N * row_bytes(dtype, K)))};
  if (dtype == DType::F32) {
    const auto bytes = std::as_bytes(std::span(x.data(), static_cast<size_t>(N * K)));
    std::copy(bytes.begin(), bytes.end(), w.rows.begin());
    return w;
  }
  reference::quantize_rows(dtype, N, K, x, nullptr, w.rows.data());
  return w;
}

// C = A·Wᵀ with A rounded where W is BF16, and the bound of float32 sums.
Expected expected_product(const Weight& w, int64_t M, const Array& A, const float* added) {
  std::vector<float> weight(static_cast<size_t>(w.N * w.K)), a(static_cast<size_t>(M * w.K));
  if (w.dtype == DType::F32)
    std::copy(w.rows.begin(), w.rows.end(), std::as_writable_bytes(std::span(weight)).begin());
  else
    reference::dequantize_rows(w.dtype, w.N, w.K, w.rows.data(), weight.data());
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = A[static_cast<int64_t>(i)];
    a[i] = w.dtype == DType::BF16 ? bf16_to_f32(f32_to_bf16(x)) : x;
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

// By the weight's rows and by its panels, overwriting with a residual and adding to what is there. By many
// rows both give the same bits.
void check_products(Backend& backend, Random& random, int64_t M, Weight& w) {
  const int64_t N = w.N, K = w.K;
  const Array A(random, M * K, 1), residual(random, M * N, 3), start(random, M * N);
  const auto multiply = [&](WeightView view, Array& C) {
    backend.matmul_weight({M, N, K}, A, view, C, {.residual = residual});
    check_close(C, expected_product(w, M, A, residual));
    Array sum(M * N, 1);
    std::copy_n(start.data(), M * N, sum.data());
    backend.matmul_weight({M, N, K}, A, view, sum, {.accumulate = true});
    check_close(sum, expected_product(w, M, A, start));
  };
  Array by_rows(M * N, 1), by_panels(M * N, 1);
  multiply(w.view(), by_rows);
  if (!w.relay(backend)) return;
  multiply(w.relaid(), by_panels);
  if (M > cpu::few_rows) CHECK(by_panels.same_bits(by_rows));
}

TEST_CASE("plain weights: rows around few ones, even and odd K, blocks and passes, what is added") {
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
                                 {18, 49, 62},  // several tiles as high as tiles can be
                                 {1, 9, 300},
                                 {9, 5, 0},
                                 {2, 5, 0}};
    for (int64_t M = 1; M <= cpu::few_rows; ++M) shapes.push_back({M, 16 + M, 30 + M});
    if (!small_tests()) {
      const int64_t K = 2500;
      shapes.push_back({12, 150, K});                                 // several blocks of the sum
      shapes.push_back({cpu::converted_bytes / (4 * K) + 12, 5, K});  // rows of A in two passes
      shapes.push_back({520, 100, 800});                              // several groups of register tiles
    }
    for (const auto [M, N, K] : shapes)
      for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
        CAPTURE(dtype_info(dtype).name);
        CAPTURE(M);
        CAPTURE(N);
        CAPTURE(K);
        Weight w = random_weight(random, dtype, N, K);
        check_products(backend, random, M, w);
      }
  });
}

TEST_CASE("several weights at once give the bits of each alone, at any number of threads") {
  constexpr int64_t K = 256;
  Random random(2);
  const std::vector<std::vector<DType>> groups = {{DType::Q4_K, DType::Q4_K, DType::Q6_K},
                                                  {DType::Q8_0, DType::Q4_0},
                                                  {DType::Q4_K, DType::F32, DType::F32, DType::Q8_0},
                                                  {DType::F16, DType::F32, DType::F16, DType::BF16},
                                                  {DType::F32}};
  std::vector<std::pair<int64_t, bool>> cases;  // rows, and whether the weights are in panels
  for (const int64_t M : {1, 2, 5, 9, 40, 45})
    for (const bool panels : {false, true}) cases.emplace_back(M, panels);
  for (const std::string& isa : runnable_isas()) {
    CAPTURE(isa);
    const auto one = make_cpu_backend(1, isa), three = make_cpu_backend(3, isa);
    for (const std::vector<DType>& types : groups)
      for (const auto& [M, panels] : cases) {
        CAPTURE(M);
        CAPTURE(panels);
        const Array A(random, M * K, 1);
        std::vector<Weight> weights;
        std::vector<WeightView> views;
        std::vector<Array> alone, together, threaded;
        for (const DType dtype : types) {
          const int64_t N = 1 + random.below(200);
          weights.push_back(random_weight(random, dtype, N, K));
          views.push_back(panels && weights.back().relay(*one) ? weights.back().relaid()
                                                               : weights.back().view());
          for (auto* results : {&alone, &together, &threaded}) results->emplace_back(M * N, 1);
          one->matmul_weight({M, N, K}, A, views.back(), alone.back(), {});
        }
        const auto multiply = [&](Backend& backend, std::vector<Array>& results) {
          std::vector<WeightProduct> products;
          for (size_t i = 0; i < weights.size(); ++i)
            products.push_back({views[i], weights[i].N, results[i]});
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
