// oneDNN's backend: that it is there or says why not, and what the tests of every backend do not see: several
// threads, its memory of earlier products, and what it leaves behind.
#include <omp.h>

#include <stdexcept>

#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

TEST_CASE("without oneDNN the error says how to get it") {
  if (!onednn_version().empty()) return;
  CHECK_THROWS_WITH_AS(make_onednn_backend(1),
                       "this build has no oneDNN: configure it with -DGLADIUS_ONEDNN=ON",
                       std::invalid_argument);
}

TEST_CASE("the oneDNN backend says what it is") {
  if (onednn_version().empty()) return;
  for (const std::string& isa : runnable_isas()) {
    const std::unique_ptr<Backend> backend = make_onednn_backend(3, isa);
    CHECK(backend->name().starts_with("onednn " + onednn_version()));
    CHECK(backend->panels_bytes(DType::F32, 32, 32) == 0);  // it has to multiply them itself
    CHECK(backend->name().ends_with(make_cpu_backend(1, isa)->name()));
    CHECK(backend->threads() == 3);
  }
  CHECK_THROWS_AS(make_onednn_backend(1, "avx3"), std::invalid_argument);
}

// Small whole numbers: products and sums are exact in any order, in BF16 too.
Array whole_numbers(Random& random, int64_t n) {
  Array x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(random.below(7) - 3);
  return x;
}

void check_exact(Backend& backend, MatmulDims d, Random& random) {
  CAPTURE(d.M);
  CAPTURE(precision_name(d.precision));
  const Array A = whole_numbers(random, d.M * d.K), B = whole_numbers(random, d.N * d.K);
  Array C(d.M * d.N), expected(d.M * d.N);
  backend.matmul_nt(d, A, B, C, {});
  make_reference_backend()->matmul_nt(d, A, B, expected, {});
  CHECK(C.guards_intact());
  for (int64_t i = 0; i < C.size(); ++i) {
    CAPTURE(i);
    REQUIRE(C[i] == expected[i]);
  }
}

TEST_CASE(
    "oneDNN's products on several threads, of more shapes than are remembered, and of the first again") {
  if (onednn_version().empty()) return;
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    const std::unique_ptr<Backend> backend = make_onednn_backend(threads);
    const int setting = omp_get_max_threads();
    Random random(1);
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      check_exact(*backend, {130, 200, 150, precision}, random);
      for (int64_t M = 1; M <= 150; ++M) check_exact(*backend, {M, 20, 12, precision}, random);
      for (int64_t M = 1; M <= 3; ++M) check_exact(*backend, {M, 20, 12, precision}, random);
    }
    CHECK(omp_get_max_threads() == setting);
  }
}

}  // namespace
