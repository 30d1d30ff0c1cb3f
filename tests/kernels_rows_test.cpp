// Operations on rows: RMSNorm, RoPE, softmax, embedding.
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/reference/embedding.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/rope.h"
#include "kernels/reference/softmax.h"
#include "tests/kernels_oracle.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// f(backend, rows, columns, misalign, random): every tail of a row, and shapes of several tasks.
template <class F>
void sweep(uint64_t seed, F f) {
  for_each_isa([&](Backend& backend) {
    Random random(seed);
    const auto run = [&](int64_t M, int64_t N, int64_t misalign) {
      CAPTURE(M);
      CAPTURE(N);
      CAPTURE(misalign);
      f(backend, M, N, misalign, random);
    };
    for (int64_t N = 1; N <= 70; N += N < 34 ? 1 : 5) run(3, N, N % 4);
    run(0, 5, 0);
    run(150, 65, 1);
    run(small_tests() ? 5 : 70, 768, 0);
    run(2, 1500, 3);
  });
}

TEST_CASE("RMSNorm") {
  sweep(1, [](Backend& backend, int64_t M, int64_t C, int64_t misalign, Random& random) {
    const float eps = 1e-6f;
    const Array x(random, M * C, misalign), w(random, C, misalign);
    Array y(M * C, misalign), r(M, misalign), without_r(M * C, misalign);
    const RmsNormOracle oracle = rms_norm_oracle(M, C, eps, x, w);
    backend.rms_norm(M, C, eps, x, w, y, r);
    check_close(y, oracle.y);
    check_close(r, oracle.r);
    backend.rms_norm(M, C, eps, x, w, without_r, nullptr);
    CHECK(without_r.same_bits(y));
  });
}

TEST_CASE("RMSNorm of zeros is zero") {
  for_each_isa([](Backend& backend) {
    const Array x(40), w(40, 0, 2.0f);
    Array y(40, 0, 1.0f), r(1);
    backend.rms_norm(1, 40, 1e-6f, x, w, y, r);
    check_close(y, std::vector<double>(40), std::vector<double>(40));
    CHECK(std::fabs(r[0] - 1000.0f) <= 1000.0f * roundings(4));
  });
}

TEST_CASE("RMSNorm of rows whose squares overflow a float, or that hold infinities") {
  for_each_isa([](Backend& backend) {
    Random random(7);
    const int64_t M = 3, C = 37;
    const Array w(random, C, 0, 0.5f, 2.0f);
    for (const float size : {1e15f, 1.5e19f, 2e19f, 1e30f, 1e38f}) {
      CAPTURE(size);
      Array x(random, M * C), y(M * C), r(M);
      for (int64_t i = 0; i < M * C; ++i) x[i] *= size;
      const RmsNormOracle oracle = rms_norm_oracle(M, C, 1e-6f, x, w);
      backend.rms_norm(M, C, 1e-6f, x, w, y, r);
      check_close(y, oracle.y);
      check_close(r, oracle.r);
    }
    for (const float broken : {INFINITY, -INFINITY, NAN}) {
      Array x(random, C);
      x[5] = broken;
      Array y(C);
      backend.rms_norm(1, C, 1e-6f, x, w, y, nullptr);
      CHECK(std::isnan(y[5]));
    }
  });
}

void check_rms_norm_backward(Backend& backend, int64_t M, int64_t C, int64_t misalign, Random& random,
                             bool accumulate) {
  const Array x(random, M * C, misalign), w(random, C, misalign), dy(random, M * C, misalign);
  const Array r(random, M, misalign, 0.5f, 2.0f);
  Array dx(random, M * C, misalign), dw(random, C, misalign);
  Array dx_alone = dx, dw_alone = dw;
  const RmsNormGradients expected = rms_norm_backward_oracle(M, C, x, w, r, dy, dx, dw, accumulate);
  backend.rms_norm_backward(M, C, {x, w, r}, dy, {dx, accumulate}, {dw, accumulate});
  check_close(dx, expected.dx);
  check_close(dw, expected.dw);
  backend.rms_norm_backward(M, C, {x, w, r}, dy, {dx_alone, accumulate}, {});
  backend.rms_norm_backward(M, C, {x, w, r}, dy, {}, {dw_alone, accumulate});
  CHECK(dx_alone.same_bits(dx));
  CHECK(dw_alone.same_bits(dw));
}

TEST_CASE("RMSNorm backward, overwriting and accumulating") {
  sweep(2, [](Backend& backend, int64_t M, int64_t C, int64_t misalign, Random& random) {
    for (const bool accumulate : {false, true})
      check_rms_norm_backward(backend, M, C, misalign, random, accumulate);
  });
}

// More rows than are summed apart as a rule, and rows too long to sum any apart.
TEST_CASE("RMSNorm backward where scratch memory is short of partial sums") {
  const int64_t most = cpu::norm_partial_floats;
  for_each_isa([&](Backend& backend) {
    Random random(12);
    check_rms_norm_backward(backend, 163, most / 32, 0, random, true);  // 33 chunks: all of the memory
    check_rms_norm_backward(backend, 2, most + 1, 0, random, false);
  });
}

TEST_CASE("RoPE rotates pairs, leaves gaps alone, and turns back") {
  for_each_isa([](Backend& backend) {
    Random random(3);
    for (int64_t D = 2; D <= 70; D += 2) {
      CAPTURE(D);
      const int64_t M = 5, heads = 3, gap = D % 3, P = 9, misalign = D % 4;
      const RopeDims d{M, heads, D, heads * D + gap};
      const Array x(random, M * d.stride, misalign);
      Array cos(P * D / 2, misalign), sin(P * D / 2, misalign);
      for (int64_t i = 0; i < P * D / 2; ++i) {
        cos[i] = std::cos(0.3f * static_cast<float>(i));
        sin[i] = std::sin(0.3f * static_cast<float>(i));
      }
      const int32_t positions[M] = {0, 8, 3, 3, 1};
      for (const RopeDirection direction : {RopeDirection::forward, RopeDirection::backward}) {
        Array y(M * d.stride, misalign, 7.0f), in_place(M * d.stride, misalign);
        const Expected expected = rope_oracle(d, positions, cos, sin, direction, x, y);
        backend.rope(d, positions, cos, sin, direction, x, y);
        check_close(y, expected);
        for (int64_t i = 0; i < M * d.stride; ++i) in_place[i] = x[i];
        backend.rope(d, positions, cos, sin, direction, in_place, in_place);
        for (int64_t m = 0; m < M; ++m)
          CHECK(std::memcmp(in_place + m * d.stride, y + m * d.stride, heads * D * sizeof(float)) == 0);
      }
    }
  });
}

TEST_CASE("softmax, also in place, for small and large arguments") {
  sweep(4, [](Backend& backend, int64_t M, int64_t N, int64_t misalign, Random& random) {
    for (const float range : {1.0f, 30.0f, 10000.0f}) {
      const Array x(random, M * N, misalign, -range, range);
      Array y(M * N, misalign), in_place(M * N, misalign);
      backend.softmax(M, N, x, y);
      check_close(y, softmax_oracle(M, N, x));
      backend.copy(M * N, x, in_place);
      backend.softmax(M, N, in_place, in_place);
      CHECK(in_place.same_bits(y));
    }
  });
}

TEST_CASE("softmax backward, also in place") {
  sweep(5, [](Backend& backend, int64_t M, int64_t N, int64_t misalign, Random& random) {
    const Array y(random, M * N, misalign, 0.0f, 1.0f), dy(random, M * N, misalign);
    Array dx(M * N, misalign), in_place(M * N, misalign);
    const Expected expected = softmax_backward_oracle(M, N, y, dy);
    backend.softmax_backward(M, N, y, dy, dx);
    check_close(dx, expected);
    backend.copy(M * N, dy, in_place);
    backend.softmax_backward(M, N, y, in_place, in_place);
    CHECK(in_place.same_bits(dx));
  });
}

TEST_CASE("embedding copies rows; its gradient adds up repeated tokens") {
  sweep(6, [](Backend& backend, int64_t M, int64_t C, int64_t misalign, Random& random) {
    const int64_t V = 7;
    const LossDims d{M, C, V};
    const Array W(random, V * C, misalign), dy(random, M * C, misalign);
    std::vector<int32_t> tokens;
    for (int64_t m = 0; m < M; ++m)
      tokens.push_back(static_cast<int32_t>(random.below(V - 1)));  // the last is never seen
    Array y(M * C, misalign);
    backend.embedding(d, tokens.data(), {DType::F32, W.data()}, y);
    std::vector<double> rows(static_cast<size_t>(M * C));
    reference::embedding(M, C, tokens.data(), W.wide().data(), rows.data());
    check_close(y, rows, std::vector<double>(rows.size()));
    for (const bool accumulate : {false, true}) {
      Array dW(random, V * C, misalign);
      Expected expected(V * C);
      expected.value = dW.wide();
      expected.bound = dW.magnitudes();
      reference::embedding_backward(M, C, V, tokens.data(), dy.wide().data(), expected.value.data(),
                                    accumulate);
      reference::embedding_backward(M, C, V, tokens.data(), dy.magnitudes().data(), expected.bound.data(),
                                    accumulate);
      for (double& b : expected.bound) b *= roundings(double(M + 1));
      backend.embedding_backward(d, tokens.data(), dy, dW, accumulate);
      check_close(dW, expected);
    }
  });
}

}  // namespace
