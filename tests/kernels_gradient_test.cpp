// Every backward operation against finite differences of the forward operation in double, on every
// instruction set.
//
// For a loss L = sum_i c[i] y[i] the backward operation with dy = c gives dL/dx. A central difference with
// step h is off by h² L'''/6 + …; the steps h and h/2 together cancel that term (Richardson 1911), and their
// disagreement bounds what is left. To this comes the rounding of L in double, and the bound of the operation
// in float, as in the other kernel tests.
#include <functional>

#include "kernels/reference/rope.h"
#include "kernels/reference/softmax.h"
#include "kernels/reference/swiglu.h"
#include "tests/kernels_oracle.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

using Function = std::function<double(const std::vector<double>&)>;

double central_difference(const Function& loss, std::vector<double>& x, size_t i, double h) {
  const double middle = x[i];
  x[i] = middle + h;
  const double above = loss(x);
  x[i] = middle - h;
  const double below = loss(x);
  x[i] = middle;
  return (above - below) / (2 * h);
}

// dL/dx[i] of every i, and how far off each may be. `magnitude` bounds the sum of |terms| of L, for its
// rounding.
Expected numeric_gradient(const Function& loss, std::vector<double> x, double magnitude) {
  Expected gradient(static_cast<int64_t>(x.size()));
  const double h = 1e-3;
  for (size_t i = 0; i < x.size(); ++i) {
    const double whole = central_difference(loss, x, i, h), half = central_difference(loss, x, i, h / 2);
    gradient.value[i] = (4 * half - whole) / 3;
    gradient.bound[i] = std::fabs(half - whole) + 1000 * 0x1p-53 * magnitude / h;
  }
  return gradient;
}

// got = gradient, within its own uncertainty and the operation's bound in float.
void check_gradient(const Array& got, const Expected& gradient, const std::vector<double>& float_bound) {
  std::vector<double> bound = gradient.bound;
  for (size_t i = 0; i < bound.size(); ++i) bound[i] += float_bound[i];
  check_close(got, gradient.value, bound);
}

double weighted_sum(const std::vector<double>& c, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < y.size(); ++i) sum += c[i] * y[i];
  return sum;
}

double norm1(const std::vector<double>& c) {
  double sum = 0;
  for (const double x : c) sum += std::fabs(x);
  return sum;
}

TEST_CASE("gradients of a linear layer: y = x W^T") {
  for_each_gemm([](Backend& backend) {
    Random random(1);
    const int64_t M = 11, N = 18, K = 7;
    const Array x(random, M * K), W(random, N * K), dy(random, M * N);
    const std::vector<double> wide_x = x.wide(), wide_W = W.wide(), c = dy.wide();
    std::vector<double> y(static_cast<size_t>(M * N)), bound_x(x.wide().size()), bound_W(W.wide().size());
    Array dx(M * K), dW(N * K);
    backend.matmul_nn({M, K, N}, dy, W, dx, {});
    backend.matmul_tn({N, K, M}, dy, x, dW, {});
    reference::matmul_nn({M, K, N}, dy.magnitudes().data(), W.magnitudes().data(), bound_x.data());
    reference::matmul_tn({N, K, M}, dy.magnitudes().data(), x.magnitudes().data(), bound_W.data());
    for (double& b : bound_x) b *= roundings(double(N + 1));
    for (double& b : bound_W) b *= roundings(double(M + 1));
    const auto loss = [&](const std::vector<double>& input, const std::vector<double>& weight) {
      reference::matmul_nt({M, N, K}, input.data(), weight.data(), y.data());
      return weighted_sum(c, y);
    };
    const double magnitude = norm1(c) * double(K);
    check_gradient(dx, numeric_gradient([&](const auto& v) { return loss(v, wide_W); }, wide_x, magnitude),
                   bound_x);
    check_gradient(dW, numeric_gradient([&](const auto& v) { return loss(wide_x, v); }, wide_W, magnitude),
                   bound_W);
  });
}

TEST_CASE("gradients of RMSNorm") {
  for_each_isa([](Backend& backend) {
    Random random(2);
    const int64_t M = 4, C = 21;
    const float eps = 1e-5f;
    const Array x(random, M * C), w(random, C), dy(random, M * C);
    Array y(M * C), r(M), dx(M * C), dw(C);
    backend.rms_norm(M, C, eps, x, w, y, r);
    backend.rms_norm_backward(M, C, {x, w, r}, dy, {dx, false}, {dw, false});
    RmsNormGradients bound = rms_norm_backward_oracle(M, C, x, w, r, dy, dx, dw, false);
    // r is the forward pass's own, off by (C + 7) / 2 roundings; it enters dx up to the third power, dw once.
    for (int64_t m = 0; m < M; ++m) {
      double magnitude = 0;
      for (int64_t i = m * C; i < (m + 1) * C; ++i)
        magnitude += std::fabs(double(dy[i] * w[i % C] * x[i])) / double(C);
      for (int64_t i = m * C; i < (m + 1) * C; ++i) {
        const double r_m = double(r[m]), error = roundings(double(C + 7) / 2);
        bound.dx.bound[i] += error * (3 * r_m * r_m * r_m * std::fabs(double(x[i])) * magnitude +
                                      r_m * std::fabs(double(dy[i] * w[i % C])));
        bound.dw.bound[i % C] += error * std::fabs(double(dy[i] * x[i])) * r_m;
      }
    }
    const std::vector<double> wide_x = x.wide(), wide_w = w.wide(), c = dy.wide();
    std::vector<double> out(wide_x.size());
    const auto loss = [&](const std::vector<double>& input, const std::vector<double>& weight) {
      reference::rms_norm<double>(M, C, double(eps), input.data(), weight.data(), out.data(), nullptr);
      return weighted_sum(c, out);
    };
    const double magnitude = 10 * norm1(c);
    check_gradient(dx, numeric_gradient([&](const auto& v) { return loss(v, wide_w); }, wide_x, magnitude),
                   bound.dx.bound);
    check_gradient(dw, numeric_gradient([&](const auto& v) { return loss(wide_x, v); }, wide_w, magnitude),
                   bound.dw.bound);
  });
}

TEST_CASE("gradient of RoPE") {
  for_each_isa([](Backend& backend) {
    Random random(3);
    const RopeDims d{3, 2, 10, 20};
    const int32_t positions[] = {4, 0, 2};
    Array cos(25), sin(25);
    for (int64_t i = 0; i < 25; ++i) {
      cos[i] = std::cos(0.7f * static_cast<float>(i));
      sin[i] = std::sin(0.7f * static_cast<float>(i));
    }
    const Array x(random, 60), dy(random, 60);
    Array dx(60);
    backend.rope(d, positions, cos, sin, RopeDirection::backward, dy, dx);
    const std::vector<double> c = dy.wide(), wide_cos = cos.wide(), wide_sin = sin.wide();
    std::vector<double> y(60), bound(60);
    for (size_t i = 0; i < 60; ++i) bound[i] = roundings(3) * (std::fabs(c[i]) + std::fabs(c[i ^ 1]));
    const auto loss = [&](const std::vector<double>& v) {
      reference::rope(d, positions, wide_cos.data(), wide_sin.data(), RopeDirection::forward, v.data(),
                      y.data());
      return weighted_sum(c, y);
    };
    check_gradient(dx, numeric_gradient(loss, x.wide(), 2 * norm1(c)), bound);
  });
}

TEST_CASE("gradients of attention") {
  for_each_isa([](Backend& backend) {
    Random random(4);
    const int64_t T = small_tests() ? 6 : 9;
    const AttentionDims d{2, T, T, 4, 2, 6, 24, 12, T * 12, 0.6f};
    const int64_t queries = 2 * T * 24, keys = 2 * T * 12;
    const Array q(random, queries), k(random, keys), v(random, keys), dO(random, queries);
    Array o(queries), lse(2 * 4 * T), dq(queries), dk(keys), dv(keys);
    backend.attention(d, q, k, v, o, lse);
    backend.attention_backward(d, {q, k, v, o, lse}, dO, {dq, dk, dv});
    AttentionBackwardOracle bound = attention_backward_oracle(d, q, k, v, o, lse, dO, 0.0);
    // o and lse are the forward pass's own. Their errors, at most those of its oracle, shift every p and
    // delta.
    const AttentionOracle forward = attention_oracle(d, q, k, v, o);
    const double p_error = 1.01 * *std::max_element(forward.lse.bound.begin(), forward.lse.bound.end());
    const double o_error = *std::max_element(forward.o.bound.begin(), forward.o.bound.end());
    // |p| <= 1, |x| <= 1, |dO| <= 1: |dp|, |delta| <= D; at most T H/G terms.
    const double terms = double(T * 2), ds_error = p_error * 2 * double(d.D) + double(d.D) * o_error;
    for (double& b : bound.dv.bound) b += terms * p_error;
    for (double& b : bound.dk.bound) b += terms * double(d.scale) * ds_error;
    for (double& b : bound.dq.bound) b += double(T) * double(d.scale) * ds_error;
    const std::vector<double> Q = q.wide(), K = k.wide(), V = v.wide(), c = dO.wide();
    std::vector<double> out(Q.size());
    const auto loss = [&](const auto& a, const auto& b, const auto& e) {
      reference::attention<double>(d, a.data(), b.data(), e.data(), out.data(), nullptr);
      return weighted_sum(c, out);
    };
    const double magnitude = norm1(c);
    check_gradient(dq, numeric_gradient([&](const auto& x) { return loss(x, K, V); }, Q, magnitude),
                   bound.dq.bound);
    check_gradient(dk, numeric_gradient([&](const auto& x) { return loss(Q, x, V); }, K, magnitude),
                   bound.dk.bound);
    check_gradient(dv, numeric_gradient([&](const auto& x) { return loss(Q, K, x); }, V, magnitude),
                   bound.dv.bound);
  });
}

TEST_CASE("gradients of SwiGLU and softmax") {
  for_each_isa([](Backend& backend) {
    Random random(5);
    const int64_t n = 37;
    const Array g(random, n, 1, -4.0f, 4.0f), up(random, n, 1), dy(random, n, 1),
        x(random, n, 1, -2.0f, 2.0f);
    const std::vector<double> c = dy.wide(), wide_g = g.wide(), wide_up = up.wide();
    std::vector<double> y(static_cast<size_t>(n)), bound_g(y), bound_u(y), bound_x(y);
    Array dg(n), du(n), p(n), dx(n);
    backend.swiglu_backward(n, g, up, dy, dg, du);
    backend.softmax(1, n, x, p);
    backend.softmax_backward(1, n, p, dy, dx);
    for (size_t i = 0; i < y.size(); ++i) {
      // sigma is off by 2 roundings and the exponential; the bracket 1 + g (1 - sigma) by |g| times that and
      // 3 more.
      const double error = roundings(8) + exp_error;
      bound_g[i] = std::fabs(c[i] * wide_up[i]) * error * (2 + 2 * std::fabs(wide_g[i]));
      bound_u[i] = std::fabs(c[i] * wide_g[i]) * error;
      // p is off by its exponential, by the subtraction of up to 4, and by a sum of n; it enters twice.
      bound_x[i] =
          2 * double(p[static_cast<int64_t>(i)]) * (2 * exp_error + roundings(2 * double(n) + 20)) * 2;
    }
    const auto swiglu = [&](const auto& a, const auto& b) {
      reference::swiglu(n, a.data(), b.data(), y.data());
      return weighted_sum(c, y);
    };
    const auto softmax = [&](const auto& a) {
      reference::softmax(1, n, a.data(), y.data());
      return weighted_sum(c, y);
    };
    const double magnitude = 4 * norm1(c);
    check_gradient(dg, numeric_gradient([&](const auto& v) { return swiglu(v, wide_up); }, wide_g, magnitude),
                   bound_g);
    check_gradient(du, numeric_gradient([&](const auto& v) { return swiglu(wide_g, v); }, wide_up, magnitude),
                   bound_u);
    check_gradient(dx, numeric_gradient(softmax, x.wide(), magnitude), bound_x);
  });
}

TEST_CASE("gradients of the linear cross entropy") {
  for_each_gemm([](Backend& backend) {
    Random random(6);
    const LossDims d{5, 6, 19};
    const Array h(random, 30), W(random, 19 * 6);
    const int32_t targets[] = {3, 18, -1, 0, 7};
    Array logits(2 * 19), losses(5), dh(30), dW(19 * 6);
    backend.linear_cross_entropy(d, h, W, targets, {logits, 2}, losses, {0.25f, dh, {dW, false}});
    const LossOracle bound = loss_oracle(d, h, W, targets, 0.25f, dW, false);
    const std::vector<double> wide_h = h.wide(), wide_W = W.wide();
    std::vector<double> room(5 * 19), each(5);
    const auto loss = [&](const std::vector<double>& hidden, const std::vector<double>& weight) {
      reference::linear_cross_entropy<double>(d, hidden.data(), weight.data(), targets, 0.25, room.data(), 5,
                                              each.data(), nullptr, nullptr, false);
      return weighted_sum(std::vector<double>(5, 0.25), each);
    };
    check_gradient(dh, numeric_gradient([&](const auto& v) { return loss(v, wide_W); }, wide_h, 20.0),
                   bound.dh.bound);
    check_gradient(dW, numeric_gradient([&](const auto& v) { return loss(wide_h, v); }, wide_W, 20.0),
                   bound.dW.bound);
  });
}

}  // namespace
