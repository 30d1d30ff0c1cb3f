#include "eval/perplexity.h"

#include <cmath>
#include <vector>

namespace gladius {

Estimate exponential(const Estimate& x) {
  const double value = std::exp(x.value);
  return {value, value * x.error};
}

Perplexity perplexity(ModelScores& scores, const Chunks& chunks, const Config& config,
                      const ChunkProgress& progress) {
  std::vector<double> losses;
  losses.reserve(static_cast<size_t>(chunks.positions()));
  Perplexity result;
  result.chunks = for_each_piece(
      chunks, rows_at_once(config), [&](int64_t chunk) { scores.begin(chunk); },
      [&](int64_t chunk, int64_t first, int64_t last) {
        const ScoredRows scored = scores.rows(first, last);
        for (int64_t i = first; i < last; ++i)
          losses.push_back(scored.loss(i - first, chunks.target(chunk, i)));
      },
      progress);
  result.positions = static_cast<int64_t>(losses.size());
  result.loss = mean_of(losses);
  result.perplexity = exponential(result.loss);
  return result;
}

}  // namespace gladius
