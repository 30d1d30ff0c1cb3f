// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/random.h"

namespace gladius {

struct SamplingOptions {
  float temperature = 0.8f;     // 0: greedy
  int top_k = 40;               // 0: off
  float top_p = 0.95f;          // 1: off (Holtzman et al. 2019, arXiv:1904.09751)
  float min_p = 0.05f;          // 0: off (Nguyen et al. 2024, arXiv:2407.01082)
  float repeat_penalty = 1.0f;  // 1: off (Keskar et al. 2019, arXiv:1909.05858)
  int repeat_last_n = 64;       // how many of the last tokens the penalty looks at; -1: all
  uint64_t seed = 0;
};

// Throws Error naming the option and its range.
void validate(const SamplingOptions& options);

class Sampler {
 public:
  Sampler(SamplingOptions options, int32_t vocab);
  // The next token for these logits [vocab], given all tokens so far. Throws Error when a logit is not a
  // number or plus infinity, before or after the penalty; minus infinity excludes a token. Penalty, top-k,
  // top-p, min-p, temperature, draw, in this order (llama.cpp's). Ties go to the lower id. The draw depends
  // on (seed, number of earlier draws) alone.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);
  // The distribution that sample() would draw from, as (token, probability) by descending probability.
  struct Candidate {
    int32_t token;
    float probability;
  };
  std::span<const Candidate> distribution(std::span<const float> logits, std::span<const int32_t> history);

 private:
  void load(std::span<const float> logits, std::span<const int32_t> history);
  void penalise(std::span<const int32_t> history);
  void keep_top_k();
  void keep_min_p(float best);
  void keep_top_p(float best, double total);
  void to_probabilities(float best);

  SamplingOptions options_;
  Random random_;
  size_t vocab_;
  std::vector<Candidate> candidates_;  // until the last stage, probability holds the logit
  std::vector<bool> penalised_;        // [vocab]
  uint64_t draws_ = 0;
};

// Watches streamed text for stop strings, which may be cut anywhere by token borders. Holds back only what
// could still become a stop string.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);  // empty strings are ignored
  // Text that may be shown now. After a stop string is complete, stopped() is true and the text before it was
  // returned.
  std::string push(std::string_view text);
  std::string finish();  // held-back text when generation ends for another reason
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace gladius
