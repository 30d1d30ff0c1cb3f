// A tested model beside a base at the same positions of a text: what llama-perplexity --kl-divergence
// reports.
#pragma once

#include <array>
#include <vector>

#include "eval/chunks.h"
#include "eval/statistics.h"
#include "model/vocab.h"

namespace gladius {

// Throws Error naming the two and the first token in which their vocabularies differ.
void check_same_vocab(const Vocab& a, const std::string& a_name, const Vocab& b, const std::string& b_name);

struct PositionScore {
  int64_t position;        // of the predicted token, in the text
  int32_t target;          // that token
  double base_loss, loss;  // its -ln p by each
  double kld;              // KL(base || tested), nats
  int32_t base_top, top;   // each one's likeliest token
  double base_top_p, top_p;

  double delta_p() const;  // p(target) of the tested one less the base's
};

// Scores chunk by chunk: nothing but these figures is kept. Both sources are of these chunks and of one
// vocabulary. The positions of the chunks that were done when progress stopped it.
std::vector<PositionScore> compare(ScoreSource& base, ScoreSource& tested, const Chunks& chunks,
                                   const Config& config, int threads, const ChunkProgress& progress = {});

// In percent, from the maximum to the minimum.
inline constexpr std::array<double, 13> kPercentiles = {100, 99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1, 0};
struct Distribution {
  Estimate mean;
  std::array<double, kPercentiles.size()> percentiles{};
};

struct Comparison {
  int64_t positions = 0;
  Estimate base_perplexity, perplexity;
  double correlation = 0;  // of the two mean losses
  Estimate log_ratio;      // ln(perplexity / base_perplexity)
  Estimate ratio, difference;
  Distribution kld, delta_p;
  Estimate rms_delta_p;  // sqrt(mean delta_p²)
  Estimate same_top;     // share of positions where both have the same likeliest token
};
Comparison summarise(std::span<const PositionScore> scores);

// The `n` positions of largest divergence, worst first.
std::vector<PositionScore> worst_positions(std::span<const PositionScore> scores, int64_t n);

}  // namespace gladius
