// Operations on single elements, AdamW and the sum of squares, at every length below two vectors, aligned and
// not.
#include <algorithm>

#include "tests/kernels_oracle.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// f(backend, n, misalign, random) for every tail and a length of several tasks.
template <class F>
void sweep(uint64_t seed, F f) {
  for_each_isa([&](Backend& backend) {
    Random random(seed);
    for (int64_t n = 0; n <= 33; ++n)
      for (int64_t misalign = 0; misalign < 4; ++misalign) {
        CAPTURE(n);
        CAPTURE(misalign);
        f(backend, n, misalign, random);
      }
    f(backend, small_tests() ? 9000 : 200003, 1, random);
  });
}

TEST_CASE("add, copy and fill are exact, also in place") {
  sweep(1, [](Backend& backend, int64_t n, int64_t misalign, Random& random) {
    const Array a(random, n, misalign), b(random, n, misalign);
    Array sum(n, misalign), copied(n, misalign), filled(n, misalign), in_place(n, misalign);
    backend.add(n, a, b, sum);
    backend.copy(n, a, copied);
    backend.fill(n, 2.5f, filled);
    bool equal = true;
    for (int64_t i = 0; i < n; ++i)
      equal = equal && sum[i] == a[i] + b[i] && copied[i] == a[i] && filled[i] == 2.5f;
    CHECK(equal);
    backend.copy(n, a, in_place);
    backend.add(n, in_place, b, in_place);
    CHECK(in_place.same_bits(sum));
    for (const Array* array : {&sum, &copied, &filled, &in_place}) CHECK(array->guards_intact());
  });
}

TEST_CASE("SwiGLU") {
  sweep(2, [](Backend& backend, int64_t n, int64_t misalign, Random& random) {
    const Array g(random, n, misalign, -12.0f, 12.0f), up(random, n, misalign);
    Array y(n, misalign);
    backend.swiglu(n, g, up, y);
    check_close(y, swiglu_oracle(g, up));
  });
}

TEST_CASE("SwiGLU of extreme gates") {
  for_each_isa([](Backend& backend) {
    Array g(12), up(12, 0, 1.5f), y(12);
    const float values[] = {0.0f,  -0.0f,  1e-30f,  -1e-30f,  80.0f, -80.0f,
                            88.5f, -88.5f, 1000.0f, -1000.0f, 2e38f, -2e38f};
    std::copy_n(values, 12, g.data());
    backend.swiglu(12, g, up, y);
    check_close(y, swiglu_oracle(g, up));
  });
}

TEST_CASE("SwiGLU backward, also in place") {
  sweep(3, [](Backend& backend, int64_t n, int64_t misalign, Random& random) {
    const Array g(random, n, misalign, -12.0f, 12.0f), up(random, n, misalign), dy(random, n, misalign);
    Array dg(n, misalign), du(n, misalign);
    const SwigluGradients expected = swiglu_backward_oracle(g, up, dy);
    backend.swiglu_backward(n, g, up, dy, dg, du);
    check_close(dg, expected.dg);
    check_close(du, expected.du);
    Array g_in_place(n, misalign), u_in_place(n, misalign);
    backend.copy(n, g, g_in_place);
    backend.copy(n, up, u_in_place);
    backend.swiglu_backward(n, g_in_place, u_in_place, dy, g_in_place, u_in_place);
    CHECK(g_in_place.same_bits(dg));
    CHECK(u_in_place.same_bits(du));
  });
}

TEST_CASE("AdamW") {
  sweep(4, [](Backend& backend, int64_t n, int64_t misalign, Random& random) {
    const AdamWStep step{3e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1 - 0.9f * 0.9f, 1 - 0.95f * 0.95f, 0.7f};
    const Array grad(random, n, misalign);
    Array p(random, n, misalign), m(random, n, misalign), v(random, n, misalign, 0.01f, 1.0f);
    const AdamWOracle expected = adamw_oracle(step, grad, p, m, v);
    backend.adamw(n, step, grad, p, m, v);
    check_close(p, expected.p);
    check_close(m, expected.m);
    check_close(v, expected.v);
  });
}

TEST_CASE("sum of squares in double") {
  for_each_isa([](Backend& backend) {
    Random random(5);
    for (const int64_t n : {0, 1, 15, 16, 17, 33, 16383, 16384, 16385, 50000}) {
      const Array x(random, n, n % 4, -1e20f, 1e20f);  // squares overflow in float
      const double expected = reference::sum_of_squares(n, x.data());
      CHECK(std::fabs(backend.sum_of_squares(n, x) - expected) <= double(n) * 0x1p-52 * expected);
    }
    Array x(40000, 0, 1.0f);
    x[39999] = INFINITY;
    CHECK(!std::isfinite(backend.sum_of_squares(40000, x)));
    x[39999] = NAN;
    CHECK(!std::isfinite(backend.sum_of_squares(40000, x)));
  });
}

TEST_CASE("SwiGLU's exponential over its whole range") {
  for_each_isa([](Backend& backend) {
    const int64_t n = small_tests() ? 500 : 5000;
    Array g(n), up(n, 0, 1.0f), y(n);
    for (int64_t i = 0; i < n; ++i) g[i] = -100.0f + 200.0f * static_cast<float>(i) / static_cast<float>(n);
    backend.swiglu(n, g, up, y);
    check_close(y, swiglu_oracle(g, up));
  });
}

}  // namespace
