// Operations on single elements, AdamW and the sum of squares, at every length below two vectors, aligned and
// not.
#include <algorithm>

#include "kernels/reference/optimizer.h"
#include "kernels/reference/swiglu.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

constexpr double u = unit_roundoff;

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

// y = g / (1 + exp(-g)) * u: three roundings and the exponential. Where exp(-g) overflows early, 88.37
// e^-88.37 < 4e-37.
Expected swiglu_oracle(const Array& g, const Array& up) {
  Expected e(g.size());
  reference::swiglu(g.size(), g.wide().data(), up.wide().data(), e.value.data());
  for (int64_t i = 0; i < g.size(); ++i)
    e.bound[i] = (roundings(4) + exp_error) * std::fabs(e.value[i]) + 4e-37 * std::fabs(double(up[i]));
  return e;
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
    Expected expected_dg(n), expected_du(n);
    reference::swiglu_backward(n, g.wide().data(), up.wide().data(), dy.wide().data(),
                               expected_dg.value.data(), expected_du.value.data());
    for (int64_t i = 0; i < n; ++i) {
      const double sigma = 1 / (1 + std::exp(-double(g[i]))), sigma_error = roundings(2) + exp_error;
      // 1 - sigma is off by sigma's error and a rounding; then g times it, plus 1, and three factors.
      const double bracket = std::fabs(double(g[i])) * (sigma * sigma_error + 3 * u) + 3 * u;
      const double factors = std::fabs(double(dy[i]) * double(up[i])) * sigma;
      expected_dg.bound[i] =
          1.01 * factors * bracket + (sigma_error + roundings(4)) * std::fabs(expected_dg.value[i]);
      expected_du.bound[i] = 1.01 * (sigma_error + roundings(3)) * std::fabs(expected_du.value[i]);
    }
    backend.swiglu_backward(n, g, up, dy, dg, du);
    check_close(dg, expected_dg);
    check_close(du, expected_du);
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
    Expected ep(n), em(n), ev(n);
    ep.value = p.wide();
    em.value = m.wide();
    ev.value = v.wide();
    for (int64_t i = 0; i < n; ++i) {
      const double g = std::fabs(double(step.grad_scale) * double(grad[i]));
      em.bound[i] = roundings(4) * (0.9 * std::fabs(double(m[i])) + 0.11 * g);
      ev.bound[i] = roundings(5) * (0.95 * double(v[i]) + 0.06 * g * g);
    }
    reference::adamw(n, step, grad.wide().data(), ep.value.data(), em.value.data(), ev.value.data());
    for (int64_t i = 0; i < n; ++i) {
      const double root = std::sqrt(ev.value[i] / double(step.correction2));
      const double change = double(step.lr) * std::fabs(em.value[i]) / double(step.correction1) / root;
      // Errors of m and v carry over; dividing twice, a root (half of its argument's error), adding eps, lr.
      const double carried = double(step.lr) * em.bound[i] / double(step.correction1) / root;
      ep.bound[i] = 1.01 * (carried + change * (ev.bound[i] / (2 * ev.value[i]) + roundings(6))) +
                    roundings(4) * (std::fabs(double(p[i])) + change);
    }
    backend.adamw(n, step, grad, p, m, v);
    check_close(p, ep);
    check_close(m, em);
    check_close(v, ev);
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
