#include "eval/comparison.h"

#include <algorithm>
#include <cmath>

#include "eval/perplexity.h"
#include "kernels/parallel.h"
#include "model/utf8.h"

namespace gladius {
namespace {

template <class F>
std::vector<double> series(std::span<const PositionScore> scores, F value) {
  std::vector<double> values;
  values.reserve(scores.size());
  for (const PositionScore& score : scores) values.push_back(value(score));
  return values;
}

Distribution distribution_of(std::vector<double> values) {
  Distribution d{mean_of(values), {}};
  std::sort(values.begin(), values.end());
  for (size_t i = 0; i < kPercentiles.size(); ++i)
    d.percentiles[i] = percentile(values, kPercentiles[i] / 100);
  return d;
}

// Errors by propagation to first order from those of the mean losses and their covariance.
void compare_perplexities(const std::vector<double>& base, const std::vector<double>& tested, Comparison& c) {
  const Estimate a = mean_of(base), b = mean_of(tested);
  const double covariance = covariance_of_means(base, tested);
  const auto error_of_difference = [&](double by_a, double by_b) {
    const double x = by_a * a.error, y = by_b * b.error;
    return std::sqrt(std::max(0.0, x * x + y * y - 2 * by_a * by_b * covariance));
  };
  c.base_perplexity = exponential(a);
  c.perplexity = exponential(b);
  c.correlation = covariance / (a.error * b.error);
  c.log_ratio = {b.value - a.value, error_of_difference(1, 1)};
  c.ratio = exponential(c.log_ratio);
  c.difference = {c.perplexity.value - c.base_perplexity.value,
                  error_of_difference(c.base_perplexity.value, c.perplexity.value)};
}

}  // namespace

void check_same_vocab(const Vocab& a, const std::string& a_name, const Vocab& b, const std::string& b_name) {
  if (a.size() != b.size())
    fail("{} and {} cannot be compared: they have {} and {} tokens", a_name, b_name, a.size(), b.size());
  for (size_t i = 0; i < a.tokens.size(); ++i)
    if (a.tokens[i].text != b.tokens[i].text)
      fail("{} and {} cannot be compared: token {} is \"{}\" in one and \"{}\" in the other", a_name, b_name,
           i, printable(a.tokens[i].text), printable(b.tokens[i].text));
}

double PositionScore::delta_p() const { return std::exp(-loss) - std::exp(-base_loss); }

std::vector<PositionScore> compare(ScoreSource& base, ScoreSource& tested, const Chunks& chunks,
                                   const Config& config, int threads, const ChunkProgress& progress) {
  std::vector<PositionScore> scores;
  scores.reserve(static_cast<size_t>(chunks.positions()));
  const auto score_piece = [&](int64_t chunk, int64_t first, int64_t last) {
    ScoredRows b = tested.rows(first, last);
    b.softmax = {};  // its memory serves the base's
    const ScoredRows a = base.rows(first, last);
    const size_t before = scores.size();
    scores.resize(before + static_cast<size_t>(last - first));
    parallel_ranges(threads, last - first, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto row = static_cast<size_t>(i);
        const int32_t target = chunks.target(chunk, first + i);
        scores[before + row] = {chunk * chunks.context + chunks.first_scored() + first + i + 1,
                                target,
                                a.loss(i, target),
                                b.loss(i, target),
                                divergence(a, b, i),
                                a.rows[row].top,
                                b.rows[row].top,
                                a.rows[row].top_p,
                                b.rows[row].top_p};
      }
    });
  };
  const auto begin = [&](int64_t chunk) {
    base.begin(chunk);
    tested.begin(chunk);
  };
  for_each_piece(chunks, rows_at_once(config), begin, score_piece, progress);
  return scores;
}

Comparison summarise(std::span<const PositionScore> scores) {
  Comparison c;
  c.positions = static_cast<int64_t>(scores.size());
  compare_perplexities(series(scores, [](const PositionScore& s) { return s.base_loss; }),
                       series(scores, [](const PositionScore& s) { return s.loss; }), c);
  c.kld = distribution_of(series(scores, [](const PositionScore& s) { return s.kld; }));
  c.delta_p = distribution_of(series(scores, [](const PositionScore& s) { return s.delta_p(); }));
  const Estimate square =
      mean_of(series(scores, [](const PositionScore& s) { return s.delta_p() * s.delta_p(); }));
  const double rms = std::sqrt(square.value);
  c.rms_delta_p = {rms, rms > 0 ? 0.5 / rms * square.error : 0};
  // The variance of a share p is p (1 - p): as the mean of zeros and ones.
  c.same_top =
      mean_of(series(scores, [](const PositionScore& s) { return s.base_top == s.top ? 1.0 : 0.0; }));
  return c;
}

std::vector<PositionScore> worst_positions(std::span<const PositionScore> scores, int64_t n) {
  std::vector<PositionScore> worst(std::min(scores.size(), static_cast<size_t>(n)));
  std::partial_sort_copy(scores.begin(), scores.end(), worst.begin(), worst.end(),
                         [](const PositionScore& a, const PositionScore& b) {
                           return a.kld > b.kld || (a.kld == b.kld && a.position < b.position);
                         });
  return worst;
}

}  // namespace gladius
