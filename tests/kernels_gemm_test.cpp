// Matrix products of every form against the definition in double.
#include <algorithm>

#include "kernels/half.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

enum class Form { nt, nn, tn };

void run(Backend& backend, Form form, MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  if (form == Form::nt) backend.matmul_nt(d, A, B, C, e);
  if (form == Form::nn) backend.matmul_nn(d, A, B, C, e);
  if (form == Form::tn) backend.matmul_tn(d, A, B, C, e);
}

void reference_run(Form form, MatmulDims d, const double* A, const double* B, double* C, bool accumulate,
                   const double* residual) {
  if (form == Form::nt) reference::matmul_nt(d, A, B, C, accumulate, residual);
  if (form == Form::nn) reference::matmul_nn(d, A, B, C, accumulate, residual);
  if (form == Form::tn) reference::matmul_tn(d, A, B, C, accumulate, residual);
}

struct Case {
  MatmulDims d;
  Form form;
  bool accumulate, residual;
  int64_t misalign;
};

// |error| <= (K + 3) u (|A| |B| + |C| + |residual|): K products, then two additions. BF16 factors are rounded
// exactly as the definition says, so that the same bound holds. Also with Arm's bfmmla, which rounds to odd,
// by up to 2 u, but only once for each two products: their exact sum counts for one, adding it for the other,
// and the first addition, to zero, is exact. 2 ceil(K / 2) <= K + 1 is left.
void check_matmul(Backend& backend, const Case& c, Random& random) {
  const MatmulDims d = c.d;
  CAPTURE(d.M);
  CAPTURE(d.N);
  CAPTURE(d.K);
  CAPTURE(static_cast<int>(c.form));
  CAPTURE(precision_name(d.precision));
  const Array A(random, d.M * d.K, c.misalign), B(random, d.N * d.K, c.misalign),
      R(random, d.M * d.N, c.misalign);
  Array C(random, d.M * d.N, c.misalign);
  Expected expected(d.M * d.N);
  expected.value = C.wide();
  expected.bound = C.magnitudes();
  reference_run(c.form, d, A.wide().data(), B.wide().data(), expected.value.data(), c.accumulate,
                c.residual ? R.wide().data() : nullptr);
  reference_run(c.form, d, A.magnitudes().data(), B.magnitudes().data(), expected.bound.data(), c.accumulate,
                c.residual ? R.magnitudes().data() : nullptr);
  for (double& b : expected.bound) b *= roundings(static_cast<double>(d.K + 3));
  run(backend, c.form, d, A, B, C, {c.accumulate, c.residual ? R.data() : nullptr});
  check_close(C, expected);
}

constexpr Form forms[] = {Form::nt, Form::nn, Form::tn};
constexpr Precision precisions[] = {Precision::fp32, Precision::bf16};

TEST_CASE("matrix products: every number of rows and columns up to two register tiles") {
  for_each_gemm([](Backend& backend) {
    Random random(1);
    const int64_t rows = small_tests() ? 17 : 30, step = small_tests() ? 5 : 3;
    for (int64_t M = 1; M <= rows; ++M)
      for (int64_t N = 1; N <= 66; N += step)
        for (const Form form : forms)
          check_matmul(backend,
                       {{M, N, 1 + random.below(40), precisions[random.below(2)]},
                        form,
                        random.below(2) == 1,
                        random.below(2) == 1,
                        random.below(4)},
                       random);
  });
}

TEST_CASE("matrix products: every tail of the summed dimension, aligned and not") {
  for_each_gemm([](Backend& backend) {
    Random random(2);
    for (int64_t K = 0; K <= 33; ++K)
      for (const Form form : forms)
        for (const int64_t M : {1, 2, 5, 8, 9})
          for (const Precision precision : precisions)
            for (const int64_t N : {19, 45})  // two tiles or a wide one, the last of its vectors not full
              check_matmul(backend, {{M, N, K, precision}, form, K % 2 == 1, K % 3 == 0, K % 4}, random);
  });
}

TEST_CASE("matrix products of few rows: every number of them") {
  for_each_gemm([](Backend& backend) {
    Random random(7);
    for (int64_t M = 1; M <= 10; ++M)
      for (const Form form : forms)
        for (const int64_t K : {7, 24, 100})
          for (const int64_t N : {3, 67})
            check_matmul(backend, {{M, N, K}, form, M % 2 == 1, N > 3, K % 4}, random);
  });
}

TEST_CASE("matrix products: around the borders of blocks") {
  for_each_gemm([](Backend& backend) {
    Random random(3);
    for (const int64_t K : {255, 256, 257, 383, 384, 385, 511, 513, 575, 577, 641, 767, 769, 1025, 1153})
      for (const Form form : forms)
        for (const Precision precision : precisions)
          for (const int64_t N : {33, 45})
            check_matmul(backend, {{15, N, K, precision}, form, K % 2 == 1, true, 1}, random);
    // Rows and lines so long that A is packed.
    for (const Form form : {Form::nt, Form::nn})
      check_matmul(backend, {{15, 33, 8200}, form, true, true, 1}, random);
    if (!small_tests()) check_matmul(backend, {{500, 33, 8200}, Form::nn, true, true, 1}, random);
    check_matmul(backend, {{4096, 33, 300}, Form::tn, true, true, 1}, random);  // lines that share cache sets
    check_matmul(backend, {{1030, 33, 300}, Form::tn, true, true, 1}, random);
    // As many rows as a group may have, and around: the last tile is packed as high as the others.
    for (const int64_t M : {505, 511, 512, 513}) {
      check_matmul(backend, {{M, 33, 256, Precision::bf16}, Form::nn, true, true, 1}, random);
      if (!small_tests()) check_matmul(backend, {{M, 33, 8448}, Form::nt, true, true, 1}, random);
    }
    for (const int64_t K : {384, 768})  // the longest blocks, of F32 and of pairs
      for (const int64_t M : {337, 341, 342})
        check_matmul(backend, {{M, 33, K, Precision::bf16}, Form::nn, true, true, 1}, random);
    // Several groups of rows and panels; below, several blocks of the summed dimension, too.
    for (const Form form : forms) check_matmul(backend, {{530, 50, 20}, form, true, true, 2}, random);
    for (const Form form : forms) check_matmul(backend, {{300, 20, 800}, form, true, true, 2}, random);
    // Up to half a vector of columns after whole panels, or alone, and one more.
    for (const int64_t N : {1, 33, 34, 35, 36, 37, 40, 41, 66})
      check_matmul(backend, {{85, N, 300 + N}, Form::tn, N % 2 == 0, N % 3 == 0, 1}, random);
    for (const int64_t N : {2, 34}) check_matmul(backend, {{530, N, 600}, Form::tn, true, true, 2}, random);
    for (const Form form : {Form::nn, Form::tn})  // one row: lines cut into rectangles
      check_matmul(backend, {{1, 2500, 300}, form, true, true, 1}, random);
    if (small_tests()) return;
    for (const int64_t M : {83, 84, 85, 1023, 1025})
      for (const Form form : forms) check_matmul(backend, {{M, 35, 9}, form, true, false, 0}, random);
    for (const int64_t N : {255, 257, 2047, 2048, 2050})
      for (const Form form : forms) check_matmul(backend, {{11, N, 9}, form, false, true, 0}, random);
    for (const int64_t N : {110, 140})
      for (const Form form : forms) check_matmul(backend, {{530, N, 810}, form, true, true, 2}, random);
    for (const Precision precision : precisions) {
      check_matmul(backend, {{100, 2100, 300, precision}, Form::nt, true, true, 3}, random);
      check_matmul(backend, {{1030, 90, 300, precision}, Form::tn, true, false, 3}, random);
      check_matmul(backend, {{30, 90, 2400, precision}, Form::nn, false, true, 3}, random);
      check_matmul(backend, {{20, 1500, 384, precision}, Form::nn, false, true, 3}, random);
    }
  });
}

TEST_CASE("matrix products of nothing") {
  for_each_gemm([](Backend& backend) {
    Random random(4);
    for (const Form form : forms) {
      check_matmul(backend, {{3, 5, 0}, form, false, false, 0}, random);
      check_matmul(backend, {{5, 19, 0, Precision::bf16}, form, true, true, 0}, random);
      check_matmul(backend, {{20, 5, 0}, form, true, true, 0}, random);
      check_matmul(backend, {{20, 45, 0}, form, true, true, 0}, random);
      check_matmul(backend, {{0, 5, 7}, form, false, false, 0}, random);
      check_matmul(backend, {{5, 0, 7}, form, false, false, 0}, random);
    }
  });
}

TEST_CASE("a row's product does not depend on how many rows are multiplied with it in one path") {
  for_each_isa([](Backend& backend) {
    Random random(5);
    const int64_t N = 45, K = 300;
    const Array A(random, 40 * K), B(random, N * K);
    for (const Precision precision : precisions) {
      CAPTURE(precision_name(precision));
      Array few(8 * N), one(N), many(40 * N), some(11 * N);
      backend.matmul_nt({8, N, K, precision}, A, B, few, {});
      backend.matmul_nt({40, N, K, precision}, A, B, many, {});
      backend.matmul_nt({11, N, K, precision}, A, B, some, {});
      for (int64_t m = 0; m < 8; ++m) {
        backend.matmul_nt({1, N, K, precision}, A + m * K, B, one, {});
        CHECK(std::memcmp(one.data(), few.data() + m * N, N * sizeof(float)) == 0);
      }
      CHECK(std::memcmp(some.data(), many.data(), 11 * N * sizeof(float)) == 0);
    }
  });
}

TEST_CASE("a column's product does not depend on how many columns are multiplied with it") {
  for_each_isa([](Backend& backend) {
    Random random(6);
    const int64_t M = 85, N = 48, K = 600;
    const Array A(random, M * K), wide(random, K * N), C(random, M * N);
    const auto first_columns = [](const Array& x, int64_t rows, int64_t few) {
      Array y(rows * few);
      for (int64_t i = 0; i < rows; ++i) std::copy_n(x.data() + i * N, few, y.data() + i * few);
      return y;
    };
    for (const int64_t few : {1, 2, 4, 8, 33, 34, 36, 40}) {
      CAPTURE(few);
      const Array narrow = first_columns(wide, K, few);
      Array all = C, some = first_columns(C, M, few);
      backend.matmul_tn({M, N, K}, A, wide, all, {.accumulate = true});
      backend.matmul_tn({M, few, K}, A, narrow, some, {.accumulate = true});
      CHECK(some.same_bits(first_columns(all, M, few)));
    }
  });
}

TEST_CASE("factors are rounded to BF16 to nearest, ties to even") {
  for_each_gemm([](Backend& backend) {
    // Halfway between neighbours (2^-8 at 1), just beside, and so large that it rounds to infinity.
    const float values[] = {1.0f + 0x1p-8f,     1.0f + 3 * 0x1p-8f, 1.0f + 0x1.02p-8f,
                            -1.0f - 0x1.fep-9f, 0x1.ffp127f,        0.1f};
    for (const float value : values) {
      Array A(1, 0, value), B(33, 0, 1.0f), C(33);
      backend.matmul_nt({1, 33, 1, Precision::bf16}, A, B, C, {});
      for (int64_t i = 0; i < 33; ++i) CHECK(C[i] == bf16_to_f32(f32_to_bf16(value)));
    }
  });
}

TEST_CASE("matrix products keep infinities and NaN") {
  for_each_gemm([](Backend& backend) {
    for (const Precision precision : precisions) {
      for (const int64_t M : {1, 20}) {
        Array A(M * 9, 0, 1.0f), B(33 * 9, 0, 1.0f), C(M * 33);
        A[0] = INFINITY;
        B[9] = NAN;
        backend.matmul_nt({M, 33, 9, precision}, A, B, C, {});
        CHECK(C[0] == INFINITY);
        CHECK(std::isnan(C[1]));
        CHECK(C[2] == INFINITY);
        if (M > 1) CHECK(C[33 * 1] == 9.0f);
      }
    }
  });
}

}  // namespace
