// Rows of scores as distributions over the vocabulary: what losses and comparisons are made of.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/context.h"
#include "model/config.h"

namespace gladius {

struct RowScore {
  double log_sum;  // ln sum_v exp x[v]: ln p[v] = x[v] - log_sum
  int32_t top;     // the likeliest token, the first among equals
  double top_p;    // and its probability
};

struct ScoredRows {
  Tensor scores;   // x [rows, V]
  Tensor softmax;  // of x [rows, V], summed in F32
  std::vector<RowScore> rows;

  const float* row(int64_t i) const { return scores.f32() + i * scores.shape()[-1]; }
  // -ln p of a token at row i.
  double loss(int64_t i, int32_t token) const {
    return rows[static_cast<size_t>(i)].log_sum - static_cast<double>(row(i)[token]);
  }
};

// Exponentials in float (Backend::softmax), sums in double; the same at any number of threads.
ScoredRows score_rows(Context& ctx, Tensor scores);

// Row i's KL(a || b) in nats as llama-perplexity sums it, over the tokens with ln p_a > -16:
//   sum_v p_a[v] (ln p_a[v] - ln p_b[v])
// It may be negative by what is left out, and by rounding.
double divergence(const ScoredRows& a, const ScoredRows& b, int64_t i);

// As many rows of a vocabulary's scores as kMaxLogitsBytes holds, one at least.
int64_t rows_at_once(const Config& config);

}  // namespace gladius
