// Expected values of operations in double, each with the error that float arithmetic may make (see
// kernels_bounds.h).
#pragma once

#include <algorithm>

#include "kernels/cpu/float_kernels.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/loss.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/optimizer.h"
#include "kernels/reference/rope.h"
#include "kernels/reference/softmax.h"
#include "kernels/reference/swiglu.h"
#include "tests/kernels_bounds.h"

namespace gladius::test {

// ---- attention ----

struct AttentionOracle {
  Expected o, lse;
};

// What one query's scores are and how far off they may be.
struct Scores {
  std::vector<double> s, bound;  // of each visible key
  double largest = -INFINITY;
};

inline Scores score_row(const AttentionDims& d, int64_t b, int64_t i, int64_t h, const float* q,
                        const float* k) {
  Scores scores;
  const float* q_row = q + reference::query_offset(d, b, i, h);
  for (int64_t j = 0; j <= d.Tk - d.Tq + i; ++j) {
    const float* k_row = k + reference::key_offset(d, b, j, h / (d.H / d.G));
    double sum = 0, magnitude = 0;
    for (int64_t c = 0; c < d.D; ++c) {
      const double term = double(d.scale) * double(q_row[c]) * double(k_row[c]);
      sum += term;
      magnitude += std::fabs(term);
    }
    scores.s.push_back(sum);
    scores.bound.push_back(roundings(double(d.D + 2)) * magnitude);  // scaling, D products
    scores.largest = std::max(scores.largest, sum);
  }
  return scores;
}

// Relative error of exp(s - shift): that of the score, of the subtraction, of the exponential.
inline double weight_error(double s_bound, double difference) {
  return 1.01 * (s_bound + unit_roundoff * std::fabs(difference) + exp_error);
}

// A row that is not written keeps `o`'s value (gaps between rows).
inline AttentionOracle attention_oracle(const AttentionDims& d, const Array& q, const Array& k,
                                        const Array& v, const Array& o) {
  AttentionOracle out{Expected(o.size()), Expected(d.B * d.H * d.Tq)};
  out.o.value = o.wide();
  for (int64_t b = 0; b < d.B; ++b) {
    for (int64_t i = 0; i < d.Tq; ++i) {
      for (int64_t h = 0; h < d.H; ++h) {
        const Scores scores = score_row(d, b, i, h, q, k);
        const int64_t n = static_cast<int64_t>(scores.s.size()), g = h / (d.H / d.G);
        const double tiles = double(n) / double(cpu::attention_keys) + 1;
        // A weight is off by its score's error and by one rescaling a tile whose factor may be off likewise;
        // sums of n.
        double sum = 0, worst = 0;
        for (int64_t j = 0; j < n; ++j) {
          sum += std::exp(scores.s[j] - scores.largest);
          worst = std::max(worst, scores.bound[j]);
        }
        const auto error = [&](double difference) {
          return weight_error(2 * worst, 2 * difference) + roundings(double(n) + 3 * tiles + 4) +
                 tiles * exp_error;
        };
        double sum_error = 0;
        for (int64_t j = 0; j < n; ++j)
          sum_error += std::exp(scores.s[j] - scores.largest) / sum * error(scores.s[j] - scores.largest);
        const int64_t row = reference::query_offset(d, b, i, h);
        for (int64_t c = 0; c < d.D; ++c) {
          double value = 0, bound = 0;
          for (int64_t j = 0; j < n; ++j) {
            const double p = std::exp(scores.s[j] - scores.largest) / sum;
            const double x = double(v[reference::key_offset(d, b, j, g) + c]);
            value += p * x;
            // Weights below e^-87 may be flushed to 0.
            bound += (p * (error(scores.s[j] - scores.largest) + sum_error) + 1e-37) * std::fabs(x);
          }
          out.o.value[row + c] = value;
          out.o.bound[row + c] = bound;
        }
        const int64_t at = reference::lse_offset(d, b, i, h);
        out.lse.value[at] = scores.largest + std::log(sum);
        out.lse.bound[at] =
            worst + sum_error + roundings(3) * (std::fabs(scores.largest) + std::log(sum)) + roundings(1);
      }
    }
  }
  return out;
}

struct AttentionBackwardOracle {
  Expected dq, dk, dv;
};

// The errors that enter a score's gradient ds = p (dp - delta), for one query and key.
struct ScoreGradient {
  double p, p_bound, ds, ds_bound;
};

inline ScoreGradient score_gradient(const AttentionDims& d, double s, double s_bound, double lse,
                                    const float* dO, const float* o, const float* v) {
  double dp = 0, dp_magnitude = 0, delta = 0, delta_magnitude = 0;
  for (int64_t c = 0; c < d.D; ++c) {
    const double a = double(dO[c]) * double(v[c]), e = double(dO[c]) * double(o[c]);
    dp += a;
    dp_magnitude += std::fabs(a);
    delta += e;
    delta_magnitude += std::fabs(e);
  }
  ScoreGradient g{};
  g.p = std::exp(s - lse);
  g.p_bound = g.p * weight_error(s_bound, s - lse) + 1e-37;
  g.ds = g.p * (dp - delta);
  g.ds_bound = g.p_bound * (std::fabs(dp) + std::fabs(delta)) +
               g.p * roundings(double(d.D + 3)) * (dp_magnitude + delta_magnitude);
  return g;
}

// Elements between rows keep `untouched`.
inline AttentionBackwardOracle attention_backward_oracle(const AttentionDims& d, const Array& q,
                                                         const Array& k, const Array& v, const Array& o,
                                                         const Array& lse, const Array& dO,
                                                         double untouched) {
  AttentionBackwardOracle out{Expected(q.size()), Expected(k.size()), Expected(v.size())};
  for (Expected* e : {&out.dq, &out.dk, &out.dv}) std::fill(e->value.begin(), e->value.end(), untouched);
  const auto clear = [&d](Expected& e, int64_t at) { std::fill_n(e.value.begin() + at, d.D, 0.0); };
  for (int64_t b = 0; b < d.B; ++b) {
    for (int64_t i = 0; i < d.Tq; ++i)
      for (int64_t h = 0; h < d.H; ++h) clear(out.dq, reference::query_offset(d, b, i, h));
    for (int64_t j = 0; j < d.Tk; ++j)
      for (int64_t g = 0; g < d.G; ++g)
        for (Expected* e : {&out.dk, &out.dv}) clear(*e, reference::key_offset(d, b, j, g));
  }
  const double scale = double(d.scale), n = double(d.Tq * (d.H / d.G));  // terms of a key's sum
  const auto add = [](Expected& e, int64_t at, double factor, double factor_bound, double x, double terms) {
    e.value[at] += factor * x;
    e.bound[at] += (factor_bound + roundings(terms) * std::fabs(factor)) * std::fabs(x);
  };
  for (int64_t b = 0; b < d.B; ++b) {
    for (int64_t i = 0; i < d.Tq; ++i) {
      for (int64_t h = 0; h < d.H; ++h) {
        const Scores scores = score_row(d, b, i, h, q, k);
        const int64_t row = reference::query_offset(d, b, i, h);
        for (int64_t j = 0; j < static_cast<int64_t>(scores.s.size()); ++j) {
          const int64_t key = reference::key_offset(d, b, j, h / (d.H / d.G));
          const ScoreGradient g =
              score_gradient(d, scores.s[j], scores.bound[j], double(lse[reference::lse_offset(d, b, i, h)]),
                             dO + row, o + row, v + key);
          for (int64_t c = 0; c < d.D; ++c) {
            add(out.dv, key + c, g.p, g.p_bound, double(dO[row + c]), n + 3);
            add(out.dk, key + c, scale * g.ds, scale * g.ds_bound, double(q[row + c]), n + 4);
            add(out.dq, row + c, scale * g.ds, scale * g.ds_bound, double(k[key + c]), double(d.Tk + 4));
          }
        }
      }
    }
  }
  return out;
}

// ---- elementwise ----

// y = g / (1 + exp(-g)) * u: three roundings and the exponential. Where exp(-g) overflows early, 88.37
// e^-88.37 < 4e-37.
inline Expected swiglu_oracle(const Array& g, const Array& up) {
  Expected e(g.size());
  reference::swiglu(g.size(), g.wide().data(), up.wide().data(), e.value.data());
  for (int64_t i = 0; i < g.size(); ++i)
    e.bound[i] = (roundings(4) + exp_error) * std::fabs(e.value[i]) + 4e-37 * std::fabs(double(up[i]));
  return e;
}

struct SwigluGradients {
  Expected dg, du;
};

inline SwigluGradients swiglu_backward_oracle(const Array& g, const Array& up, const Array& dy) {
  SwigluGradients out{Expected(g.size()), Expected(g.size())};
  reference::swiglu_backward(g.size(), g.wide().data(), up.wide().data(), dy.wide().data(),
                             out.dg.value.data(), out.du.value.data());
  constexpr double u = unit_roundoff;
  for (int64_t i = 0; i < g.size(); ++i) {
    const double sigma = 1 / (1 + std::exp(-double(g[i]))), sigma_error = roundings(2) + exp_error;
    // 1 - sigma is off by sigma's error and a rounding; then g times it, plus 1, and three factors.
    const double bracket = std::fabs(double(g[i])) * (sigma * sigma_error + 3 * u) + 3 * u;
    const double factors = std::fabs(double(dy[i]) * double(up[i])) * sigma;
    out.dg.bound[i] = 1.01 * factors * bracket + (sigma_error + roundings(4)) * std::fabs(out.dg.value[i]);
    out.du.bound[i] = 1.01 * (sigma_error + roundings(3)) * std::fabs(out.du.value[i]);
  }
  return out;
}

struct AdamWOracle {
  Expected p, m, v;
};

// After one step from p, m and v > 0.
inline AdamWOracle adamw_oracle(const AdamWStep& step, const Array& grad, const Array& p, const Array& m,
                                const Array& v) {
  const int64_t n = grad.size();
  AdamWOracle out{Expected(n), Expected(n), Expected(n)};
  out.p.value = p.wide();
  out.m.value = m.wide();
  out.v.value = v.wide();
  const double beta1 = double(step.beta1), beta2 = double(step.beta2), lr = double(step.lr);
  for (int64_t i = 0; i < n; ++i) {
    const double g = std::fabs(double(step.grad_scale) * double(grad[i]));
    out.m.bound[i] = roundings(4) * (beta1 * std::fabs(double(m[i])) + 1.1 * (1 - beta1) * g);
    out.v.bound[i] = roundings(5) * (beta2 * double(v[i]) + 1.2 * (1 - beta2) * g * g);
  }
  reference::adamw(n, step, grad.wide().data(), out.p.value.data(), out.m.value.data(), out.v.value.data());
  for (int64_t i = 0; i < n; ++i) {
    const double root = std::sqrt(out.v.value[i] / double(step.correction2));
    const double change = lr * std::fabs(out.m.value[i]) / double(step.correction1) / root;
    // Errors of m and v carry over; dividing twice, a root (half of its argument's error), adding eps, lr.
    const double carried = lr * out.m.bound[i] / double(step.correction1) / root;
    out.p.bound[i] = 1.01 * (carried + change * (out.v.bound[i] / (2 * out.v.value[i]) + roundings(6))) +
                     roundings(4) * (std::fabs(double(p[i])) + change);
  }
  return out;
}

// ---- RoPE and softmax ----

// |error| <= 3 u (|even| + |odd|): two products of rounded factors and a sum; the factors come in as floats.
// Gaps between rows keep y's values.
inline Expected rope_oracle(const RopeDims& d, const int32_t* positions, const Array& cos, const Array& sin,
                            RopeDirection direction, const Array& x, const Array& y) {
  Expected e(d.M * d.stride);
  e.value = y.wide();
  reference::rope(d, positions, cos.wide().data(), sin.wide().data(), direction, x.wide().data(),
                  e.value.data());
  for (int64_t m = 0; m < d.M; ++m)
    for (int64_t i = 0; i < d.heads * d.D; ++i)
      e.bound[m * d.stride + i] =
          roundings(3) * (std::fabs(double(x[m * d.stride + i])) +
                          std::fabs(double(x[(m * d.stride + i / 2 * 2) + 1 - i % 2])));
  return e;
}

// exp(x - max) is off by the subtraction and the exponential; the sum of N by N roundings.
inline Expected softmax_oracle(int64_t M, int64_t N, const Array& x) {
  Expected e(M * N);
  reference::softmax(M, N, x.wide().data(), e.value.data());
  for (int64_t m = 0; m < M; ++m) {
    const double largest = *std::max_element(x + m * N, x + (m + 1) * N);
    double sum_error = roundings(double(N + 3));
    for (int64_t n = 0; n < N; ++n)
      sum_error += e.value[m * N + n] * weight_error(0, double(x[m * N + n]) - largest);
    for (int64_t n = 0; n < N; ++n)
      e.bound[m * N + n] =
          1.01 * e.value[m * N + n] * (weight_error(0, double(x[m * N + n]) - largest) + sum_error) + 1e-37;
  }
  return e;
}

inline Expected softmax_backward_oracle(int64_t M, int64_t N, const Array& y, const Array& dy) {
  Expected e(M * N);
  reference::softmax_backward(M, N, y.wide().data(), dy.wide().data(), e.value.data());
  for (int64_t m = 0; m < M; ++m) {
    double magnitude = 0;
    for (int64_t i = m * N; i < (m + 1) * N; ++i) magnitude += std::fabs(double(dy[i]) * double(y[i]));
    for (int64_t i = m * N; i < (m + 1) * N; ++i)
      e.bound[i] =
          double(y[i]) * (roundings(double(N + 3)) * magnitude + roundings(2) * std::fabs(double(dy[i])));
  }
  return e;
}

// ---- RMSNorm ----

struct RmsNormOracle {
  Expected y, r;
};

// r: C squares and their mean, half of whose error remains under the root, the root and the division. y: two
// factors more.
inline RmsNormOracle rms_norm_oracle(int64_t M, int64_t C, float eps, const Array& x, const Array& w) {
  RmsNormOracle out{Expected(M * C), Expected(M)};
  reference::rms_norm(M, C, double(eps), x.wide().data(), w.wide().data(), out.y.value.data(),
                      out.r.value.data());
  const double r_error = roundings(double(C + 3) / 2 + 2);
  for (int64_t m = 0; m < M; ++m) out.r.bound[m] = r_error * out.r.value[m];
  for (int64_t i = 0; i < M * C; ++i) out.y.bound[i] = (r_error + roundings(3)) * std::fabs(out.y.value[i]);
  return out;
}

struct RmsNormGradients {
  Expected dx, dw;
};

inline RmsNormGradients rms_norm_backward_oracle(int64_t M, int64_t C, const Array& x, const Array& w,
                                                 const Array& r, const Array& dy, const Array& dx,
                                                 const Array& dw, bool accumulate) {
  RmsNormGradients out{Expected(M * C), Expected(C)};
  out.dx.value = dx.wide();
  out.dw.value = dw.wide();
  out.dw.bound = dw.magnitudes();
  reference::rms_norm_backward_input(M, C, x.wide().data(), w.wide().data(), r.wide().data(),
                                     dy.wide().data(), out.dx.value.data(), accumulate);
  reference::rms_norm_backward_weight(M, C, x.wide().data(), r.wide().data(), dy.wide().data(),
                                      out.dw.value.data(), accumulate);
  reference::rms_norm_backward_weight(M, C, x.magnitudes().data(), r.wide().data(), dy.magnitudes().data(),
                                      out.dw.bound.data(), accumulate);
  for (double& b : out.dw.bound) b *= roundings(double(M + 4));
  for (int64_t m = 0; m < M; ++m) {
    double magnitude = 0;  // of mean(g x)
    for (int64_t c = 0; c < C; ++c)
      magnitude += std::fabs(double(dy[m * C + c]) * double(w[c]) * double(x[m * C + c]));
    magnitude /= double(C);
    const double inverse = double(r[m]);
    for (int64_t c = 0; c < C; ++c) {
      const int64_t i = m * C + c;
      out.dx.bound[i] =
          roundings(double(C + 9)) * inverse * inverse * inverse * std::fabs(double(x[i])) * magnitude +
          roundings(4) * inverse * std::fabs(double(dy[i]) * double(w[c])) +
          (accumulate ? roundings(1) * (std::fabs(double(dx[i])) + std::fabs(out.dx.value[i])) : 0.0);
    }
  }
  return out;
}

// ---- linear cross entropy ----

struct LossOracle {
  Expected losses, dh, dW;
};

// Logits are off by (C + 1) roundings of |h| |W|ᵀ, which moves a row's softmax and loss by at most twice the
// row's worst. In bf16, h and W are rounded alike on both sides, but an error of dz may carry it over the
// middle between two BF16 neighbours, which are at most 2^-7 of it apart.
inline LossOracle loss_oracle(const LossDims& d, const Array& h, const Array& W, const int32_t* targets,
                              float grad_scale, const Array& dW, bool accumulate) {
  LossOracle out{Expected(d.M), Expected(d.M * d.C), Expected(d.V * d.C)};
  out.dW.value = dW.wide();
  out.dW.bound = dW.magnitudes();
  const std::vector<double> wide_h = h.wide(), wide_W = W.wide();
  std::vector<double> z(static_cast<size_t>(d.M * d.V)), z_magnitude(z.size()), dz_error(z.size()),
      dz_magnitude(z.size());
  const Precision precision = d.precision;
  const double neighbours = precision == Precision::bf16 ? 0x1p-7 : 0.0;
  reference::matmul_nt({d.M, d.V, d.C, precision}, wide_h.data(), wide_W.data(), z.data());
  reference::matmul_nt({d.M, d.V, d.C, precision}, h.magnitudes().data(), W.magnitudes().data(),
                       z_magnitude.data());
  const double scale = double(grad_scale);
  for (int64_t m = 0; m < d.M; ++m) {
    double worst = 0, largest = -INFINITY;
    for (int64_t i = m * d.V; i < (m + 1) * d.V; ++i) {
      worst = std::max(worst, roundings(double(d.C + 1)) * z_magnitude[i]);
      largest = std::max(largest, z[i]);
    }
    const double lse = reference::log_sum_exp(d.V, z.data() + m * d.V);
    double sum_error = roundings(double(d.V + 4));
    for (int64_t i = m * d.V; i < (m + 1) * d.V; ++i)
      sum_error += std::exp(z[i] - lse) * weight_error(2 * worst, z[i] - largest);
    if (targets[m] >= 0)
      out.losses.bound[m] =
          2 * worst + sum_error +
          roundings(4) * (std::fabs(largest - z[m * d.V + targets[m]]) + std::fabs(lse - largest) + 1);
    for (int64_t v = 0; v < d.V && targets[m] >= 0; ++v) {
      const int64_t i = m * d.V + v;
      const double p = std::exp(z[i] - lse), one = v == targets[m] ? 1.0 : 0.0;
      dz_error[i] = scale * (1.01 * p * (weight_error(2 * worst, z[i] - largest) + sum_error) +
                             roundings(2) * (p + one) + 1e-37);
      dz_magnitude[i] = scale * std::fabs(p - one) + dz_error[i];
    }
  }
  reference::cross_entropy(d.M, d.V, z.data(), targets, scale, true, out.losses.value.data());
  // Products of the gradient: its own error, and the roundings of V (M) terms.
  reference::matmul_nn({d.M, d.C, d.V, precision}, z.data(), wide_W.data(), out.dh.value.data());
  for (int64_t i = 0; i < d.M * d.V; ++i)
    dz_error[i] += (roundings(double(std::max(d.V, d.M) + 2)) + neighbours) * dz_magnitude[i];
  // (1 + neighbours): the magnitudes of rounded factors.
  for (double& error : dz_error) error *= 1 + neighbours;
  reference::matmul_nn({d.M, d.C, d.V}, dz_error.data(), W.magnitudes().data(), out.dh.bound.data());
  if (accumulate)
    for (double& b : out.dW.bound) b *= roundings(double(d.M + 1));
  reference::matmul_tn({d.V, d.C, d.M, precision}, z.data(), wide_h.data(), out.dW.value.data(), accumulate);
  reference::matmul_tn({d.V, d.C, d.M}, dz_error.data(), h.magnitudes().data(), out.dW.bound.data(),
                       accumulate);
  return out;
}

}  // namespace gladius::test
