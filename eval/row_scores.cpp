#include "eval/row_scores.h"

#include <algorithm>
#include <cmath>

#include "engine/ops.h"
#include "kernels/parallel.h"

namespace gladius {
namespace {

constexpr double kLeastLogProbability = -16;

// sum_v term(v) in double, in eight sums side by side, so that compilers use vectors.
template <class F>
double sum_of(int64_t n, F term) {
  constexpr int64_t w = 8;
  double sums[w] = {};
  int64_t v = 0;
  for (; v + w <= n; v += w)
    for (int64_t k = 0; k < w; ++k) sums[k] += term(v + k);
  for (; v < n; ++v) sums[0] += term(v);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// y = exp(x - largest) / s with s summed in float. The sum of y in double takes the place of what s is off
// by.
RowScore score_row(int64_t V, const float* x, const float* y) {
  const int64_t top = std::max_element(x, x + V) - x;
  const double sum = sum_of(V, [=](int64_t v) { return static_cast<double>(y[v]); });
  const double top_p = static_cast<double>(y[top]) / sum;
  return {static_cast<double>(x[top]) - std::log(top_p), static_cast<int32_t>(top), top_p};
}

}  // namespace

ScoredRows score_rows(Context& ctx, Tensor scores) {
  ScoredRows scored{std::move(scores), {}, {}};
  scored.softmax = softmax(ctx, scored.scores);
  const int64_t M = scored.scores.shape().rows(), V = scored.scores.shape()[-1];
  const float *x = scored.scores.f32(), *y = scored.softmax.f32();
  scored.rows.resize(static_cast<size_t>(M));
  parallel_ranges(ctx.backend.threads(), M, 1, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      scored.rows[static_cast<size_t>(m)] = score_row(V, x + m * V, y + m * V);
  });
  return scored;
}

double divergence(const ScoredRows& a, const ScoredRows& b, int64_t i) {
  const int64_t V = a.scores.shape()[-1];
  const RowScore& score = a.rows[static_cast<size_t>(i)];
  const float *x_a = a.row(i), *x_b = b.row(i), *y = a.softmax.f32() + i * V;
  const double log_sum_a = score.log_sum, log_sum_b = b.rows[static_cast<size_t>(i)].log_sum;
  // Where log_sum is not the softmax's own (ln p from a file), y is off by a factor, too.
  const double factor =
      std::exp(static_cast<double>(x_a[score.top]) - log_sum_a) / static_cast<double>(y[score.top]);
  return factor * sum_of(V, [=](int64_t v) {
           const double log_a = static_cast<double>(x_a[v]) - log_sum_a;
           const double log_b = static_cast<double>(x_b[v]) - log_sum_b;
           return log_a > kLeastLogProbability ? static_cast<double>(y[v]) * (log_a - log_b) : 0.0;
         });
}

int64_t rows_at_once(const Config& config) {
  return std::max<int64_t>(1, kMaxLogitsBytes / (config.vocab * static_cast<int64_t>(sizeof(float))));
}

}  // namespace gladius
