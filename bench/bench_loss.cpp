// Cross entropy fused with the LM head, the loss alone and with its gradients.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/bench_support.h"
#include "kernels/reference/loss.h"
#include "tests/kernels_oracle.h"

namespace gladius::bench {
namespace {

using reference::Strided;
using test::roundings;

struct Shape {
  const char* label;
  LossDims d;
  int64_t chunk_rows;  // logits that exist at a time
};
constexpr Shape shapes[] = {{"1024x768x32000", {1024, 768, 32000}, 256},
                            {"tiny_1024x256x1024", {1024, 256, 1024}, 1024},
                            {"odd_37x65x517", {37, 65, 517}, 16}};

struct Loss {
  LossDims d;
  bool gradients;
  Floats h, W;
  Tokens targets;
  int64_t chunk_rows;
  Floats logits, losses, dh, dW;

  Loss(const Shape& s, Precision precision, bool with_gradients)
      : d(s.d),
        gradients(with_gradients),
        h(random_floats(1, d.M * d.C)),
        W(random_floats(2, d.V * d.C, -0.05f, 0.05f)),
        targets(random_tokens(3, d.M, d.V)),
        chunk_rows(s.chunk_rows),
        logits(zeros(chunk_rows * d.V)),
        losses(zeros(d.M)),
        dh(zeros(gradients ? d.M * d.C : 0)),
        dW(zeros(gradients ? d.V * d.C : 0)) {
    d.precision = precision;
  }
  int64_t bytes() const { return bytes_of(h, W, targets, logits, losses, dh, dW); }
  void run(Backend& backend) {
    LossGradients g;
    if (gradients) g = {.scale = scale(), .dh = dh.data(), .dW = {dW.data(), false}};
    backend.linear_cross_entropy(d, h.data(), W.data(), targets.data(), {logits.data(), chunk_rows},
                                 losses.data(), g);
  }
  void check(const Loss&, Findings& findings) const;

 private:
  float scale() const { return 1.0f / static_cast<float>(d.M); }

  // A logit in double and how far off a float sum of its products may be.
  struct Logit {
    double z, bound;
  };
  Logit logit(int64_t m, int64_t v) const {
    const Strided<float> H{h.data(), d.C, 1, d.precision}, head{W.data(), d.C, 1, d.precision};
    double sum = 0, magnitude = 0;
    for (int64_t c = 0; c < d.C; ++c) {
      const double term = H.at(m, c) * head.at(v, c);
      sum += term;
      magnitude += std::fabs(term);
    }
    return {sum, roundings(double(d.C + 1)) * magnitude};
  }
  // A gradient's factors are rounded to BF16: an error may carry one over the middle between two neighbours,
  // which are at most 2^-7 of it apart.
  double neighbours() const { return d.precision == Precision::bf16 ? 0x1p-7 : 0.0; }
  double rounded(double x) const { return Strided<double>{&x, 1, 1, d.precision}.at(0, 0); }

  void check_row(int64_t m, Findings& findings) const;
  void check_vocabulary_row(int64_t v, Findings& findings) const;
};

// The loss of a row and its gradient; the errors are those of loss_oracle (tests/kernels_oracle.h).
void Loss::check_row(int64_t m, Findings& findings) const {
  std::vector<double> z(static_cast<size_t>(d.V));
  double worst = 0, largest = -INFINITY;
  for (int64_t v = 0; v < d.V; ++v) {
    const Logit l = logit(m, v);
    z[v] = l.z;
    worst = std::max(worst, l.bound);
    largest = std::max(largest, l.z);
  }
  const double lse = reference::log_sum_exp(d.V, z.data()), target = z[targets[m]];
  double sum_error = roundings(double(d.V + 4));
  for (int64_t v = 0; v < d.V; ++v)
    sum_error += std::exp(z[v] - lse) * test::weight_error(2 * worst, z[v] - largest);
  findings.near(
      "losses", m, losses[m], lse - target,
      2 * worst + sum_error + roundings(4) * (std::fabs(largest - target) + std::fabs(lse - largest) + 1));
  if (!gradients) return;
  const Strided<float> head{W.data(), d.C, 1, d.precision};
  for (const int64_t c : sample(d.C, 8)) {
    double sum = 0, bound = 0;
    for (int64_t v = 0; v < d.V; ++v) {
      const double p = std::exp(z[v] - lse), one = v == targets[m] ? 1.0 : 0.0;
      const double error =
          double(scale()) * (1.01 * p * (test::weight_error(2 * worst, z[v] - largest) + sum_error) +
                             roundings(2) * (p + one) + 1e-37);
      const double dz = double(scale()) * (p - one), w = head.at(v, c);
      sum += rounded(dz) * w;
      bound += (error + (roundings(double(d.V + 2)) + neighbours()) * (std::fabs(dz) + error)) * std::fabs(w);
    }
    findings.near("dh", m * d.C + c, dh[m * d.C + c], sum, (1 + neighbours()) * bound);
  }
}

// A row of the head's gradient needs every row's sum of exponentials, which is taken from the losses. Its
// error is bounded by the norms: no logit is above |h| times the largest |W[v]|.
void Loss::check_vocabulary_row(int64_t v, Findings& findings) const {
  double largest_norm = 0;
  const auto norm = [this](const float* x) { return std::sqrt(reference::sum_of_squares(d.C, x)); };
  for (int64_t i = 0; i < d.V; ++i) largest_norm = std::max(largest_norm, norm(W.data() + i * d.C));
  std::vector<double> dz(static_cast<size_t>(d.M)), error(dz.size());
  for (int64_t m = 0; m < d.M; ++m) {
    const double spread = (1 + neighbours()) * 2 * norm(h.data() + m * d.C) * largest_norm;
    const double worst = roundings(double(d.C + 1)) * spread / 2;
    const double sum_error = roundings(double(d.V + 4)) + test::weight_error(2 * worst, spread);
    const double lse_error = 2 * worst + sum_error + roundings(4) * (2 * spread + std::log(double(d.V)) + 1);
    const double lse = double(losses[m]) + logit(m, targets[m]).z;
    const double p = std::exp(logit(m, v).z - lse), one = v == targets[m] ? 1.0 : 0.0;
    dz[m] = double(scale()) * (p - one);
    error[m] = double(scale()) * (1.01 * p * (lse_error + test::weight_error(2 * worst, spread) + sum_error) +
                                  roundings(2) * (p + one) + 1e-37);
  }
  const Strided<float> H{h.data(), d.C, 1, d.precision};
  for (const int64_t c : sample(d.C, 8)) {
    double sum = 0, bound = 0;
    for (int64_t m = 0; m < d.M; ++m) {
      const double x = H.at(m, c);
      sum += rounded(dz[m]) * x;
      bound += (error[m] + (roundings(double(d.M + 2)) + neighbours()) * (std::fabs(dz[m]) + error[m])) *
               std::fabs(x);
    }
    findings.near("dW", v * d.C + c, dW[v * d.C + c], sum, (1 + neighbours()) * bound);
  }
}

void Loss::check(const Loss&, Findings& findings) const {
  for (const int64_t m : sample(d.M, 4)) check_row(m, findings);
  if (!gradients) return;
  for (const int64_t v : sample(d.V, 3)) check_vocabulary_row(v, findings);
  check_vocabulary_row(targets[d.M / 2], findings);
}

}  // namespace

void add_loss(Suite& suite) {
  for (const Shape& s : shapes) {
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      for (const bool gradients : {false, true}) {
        const Case c{gradients ? "linear_cross_entropy_backward" : "linear_cross_entropy",
                     fmt::format("{}/{}", precision_name(precision), s.label),
                     cost::linear_cross_entropy(s.d, gradients), precision, false};
        suite.add<Loss>(c, [s, precision, gradients](Backend&) { return Loss(s, precision, gradients); });
      }
    }
  }
}

}  // namespace gladius::bench
