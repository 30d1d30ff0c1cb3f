// Operations on single numbers, the optimiser and the gradient's norm.
#include <algorithm>
#include <cmath>

#include "bench/bench_support.h"
#include "kernels/reference/optimizer.h"
#include "tests/kernels_oracle.h"

namespace gladius::bench {
namespace {

using test::Array;

// ---- tables ----

struct Length {
  const char* label;
  int64_t n;
};
constexpr Length feed_forward[] = {{"256x2048", 256 * 2048},
                                   {"1024x2048", 1024 * 2048},
                                   {"4096x2048", 4096 * 2048},
                                   {"tiny_256x768", 256 * 768},
                                   {"odd_100003", 100003}};
constexpr Length residual[] = {{"256x768", 256 * 768},
                               {"1024x768", 1024 * 768},
                               {"4096x768", 4096 * 768},
                               {"tiny_256x256", 256 * 256},
                               {"odd_100003", 100003}};
constexpr Length parameters[] = {{"32000x768", 32000 * 768},
                                 {"2048x768", 2048 * 768},
                                 {"tiny_768x256", 768 * 256},
                                 {"odd_100003", 100003}};

// Some numbers, in order, of each array alike.
struct Sampled {
  std::vector<int64_t> at;
  explicit Sampled(int64_t n) : at(sample(n, 4096)) {}
  Array operator()(const Floats& x) const {
    Array y(static_cast<int64_t>(at.size()));
    for (size_t i = 0; i < at.size(); ++i) y[static_cast<int64_t>(i)] = x[at[i]];
    return y;
  }
  void compare(Findings& findings, const char* what, const Floats& got,
               const test::Expected& expected) const {
    for (size_t i = 0; i < at.size(); ++i)
      findings.near(what, at[i], got[at[i]], expected.value[i], expected.bound[i]);
  }
};

// ---- operands ----

struct Swiglu {
  int64_t n;
  Floats g, u, y;

  explicit Swiglu(int64_t length)
      : n(length), g(random_floats(1, n, -8.0f, 8.0f)), u(random_floats(2, n)), y(zeros(n)) {}
  int64_t bytes() const { return bytes_of(g, u, y); }
  void run(Backend& backend) { backend.swiglu(n, g.data(), u.data(), y.data()); }
  void check(const Swiglu&, Findings& findings) const {
    const Sampled some(n);
    some.compare(findings, "y", y, test::swiglu_oracle(some(g), some(u)));
  }
};

struct SwigluBack {
  int64_t n;
  Floats g, u, dy, dg, du;

  explicit SwigluBack(int64_t length)
      : n(length),
        g(random_floats(1, n, -8.0f, 8.0f)),
        u(random_floats(2, n)),
        dy(random_floats(3, n)),
        dg(zeros(n)),
        du(zeros(n)) {}
  int64_t bytes() const { return bytes_of(g, u, dy, dg, du); }
  void run(Backend& backend) {
    backend.swiglu_backward(n, g.data(), u.data(), dy.data(), dg.data(), du.data());
  }
  void check(const SwigluBack&, Findings& findings) const {
    const Sampled some(n);
    const test::SwigluGradients expected = test::swiglu_backward_oracle(some(g), some(u), some(dy));
    some.compare(findings, "dg", dg, expected.dg);
    some.compare(findings, "du", du, expected.du);
  }
};

struct AdamW {
  static constexpr AdamWStep step{.lr = 1e-4f,
                                  .beta1 = 0.9f,
                                  .beta2 = 0.95f,
                                  .eps = 1e-8f,
                                  .weight_decay = 0.1f,
                                  .correction1 = 0.1f,
                                  .correction2 = 0.05f,
                                  .grad_scale = 0.5f};
  int64_t n;
  Floats grad, p, m, v;

  explicit AdamW(int64_t length)
      : n(length),
        grad(random_floats(1, n)),
        p(random_floats(2, n)),
        m(random_floats(3, n)),
        v(random_floats(4, n, 0.01f, 1.0f)) {}
  int64_t bytes() const { return bytes_of(grad, p, m, v); }
  void run(Backend& backend) { backend.adamw(n, step, grad.data(), p.data(), m.data(), v.data()); }
  void check(const AdamW& before, Findings& findings) const {
    const Sampled some(n);
    const test::AdamWOracle expected =
        test::adamw_oracle(step, some(grad), some(before.p), some(before.m), some(before.v));
    some.compare(findings, "p", p, expected.p);
    some.compare(findings, "m", m, expected.m);
    some.compare(findings, "v", v, expected.v);
  }
};

struct SumOfSquares {
  Floats x;
  double sum = 0;

  explicit SumOfSquares(int64_t n) : x(random_floats(1, n)) {}
  int64_t bytes() const { return bytes_of(x); }
  int64_t n() const { return static_cast<int64_t>(x.size()); }
  void run(Backend& backend) { sum = backend.sum_of_squares(n(), x.data()); }
  void check(const SumOfSquares&, Findings& findings) const {  // n additions in double, on both sides
    const double expected = reference::sum_of_squares(n(), x.data());
    findings.near("sum", 0, sum, expected, double(n()) * 0x1p-52 * expected);
  }
};

enum class Simple { add, copy, fill };

// Exact.
struct Elements {
  Simple kind;
  int64_t n;
  Floats a, b, y;

  Elements(Simple what, int64_t length)
      : kind(what),
        n(length),
        a(random_floats(1, kind == Simple::fill ? 0 : n)),
        b(random_floats(2, kind == Simple::add ? n : 0)),
        y(zeros(n)) {}
  int64_t bytes() const { return bytes_of(a, b, y); }
  void run(Backend& backend) {
    if (kind == Simple::add) backend.add(n, a.data(), b.data(), y.data());
    if (kind == Simple::copy) backend.copy(n, a.data(), y.data());
    if (kind == Simple::fill) backend.fill(n, 2.5f, y.data());
  }
  void check(const Elements&, Findings& findings) const {
    for (int64_t i = 0; i < n; ++i) {
      const float expected = kind == Simple::fill ? 2.5f : kind == Simple::copy ? a[i] : a[i] + b[i];
      findings.near("y", i, y[i], expected, 0);
    }
  }
};

template <class Operands>
void add_lengths(Suite& suite, const char* operation, Cost (*cost_of)(int64_t), const Length& s) {
  for (const bool cold : {false, true}) {
    const Case c{.operation = operation, .detail = s.label, .cost = cost_of(s.n), .cold = cold};
    suite.add<Operands>(c, [n = s.n](Backend&) { return Operands(n); });
  }
}

}  // namespace

void add_elementwise(Suite& suite) {
  for (const Length& s : feed_forward) {
    add_lengths<Swiglu>(suite, "swiglu", cost::swiglu, s);
    add_lengths<SwigluBack>(suite, "swiglu_backward", cost::swiglu_backward, s);
  }
  for (const Length& s : parameters) {
    add_lengths<AdamW>(suite, "adamw", cost::adamw, s);
    add_lengths<SumOfSquares>(suite, "sum_of_squares", cost::sum_of_squares, s);
  }
  struct Row {
    Simple kind;
    const char* name;
    Cost (*cost_of)(int64_t);
  };
  for (const Row& row : {Row{Simple::add, "add", cost::add}, Row{Simple::copy, "copy", cost::copy},
                         Row{Simple::fill, "fill", cost::fill}}) {
    for (const Length& s : residual) {
      for (const bool cold : {false, true}) {
        const Case c{.operation = row.name, .detail = s.label, .cost = row.cost_of(s.n), .cold = cold};
        suite.add<Elements>(c, [kind = row.kind, n = s.n](Backend&) { return Elements(kind, n); });
      }
    }
  }
}

}  // namespace gladius::bench
