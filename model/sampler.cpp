#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/error.h"

namespace gladius {
namespace {

// Descending logit, then ascending token.
bool precedes(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.probability > b.probability || (a.probability == b.probability && a.token < b.token);
}

}  // namespace

void validate(const SamplingOptions& options) {
  const auto check = [](bool good, const char* name, auto value, const char* range) {
    if (!good) fail("sampling: {} is {}; it must be {}", name, value, range);
  };
  check(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", options.temperature,
        "a finite number, 0 or above");
  check(options.top_k >= 0, "top-k", options.top_k, "0 (off) or above");
  check(options.top_p >= 0 && options.top_p <= 1, "top-p", options.top_p, "between 0 and 1 (off)");
  check(options.min_p >= 0 && options.min_p <= 1, "min-p", options.min_p, "between 0 (off) and 1");
  check(options.repeat_penalty > 0 && std::isfinite(options.repeat_penalty), "repeat penalty",
        options.repeat_penalty, "a finite number above 0 (1 is off)");
  check(options.repeat_last_n >= -1, "repeat-last-n", options.repeat_last_n, "-1 (all) or above");
}

Sampler::Sampler(SamplingOptions options, int32_t vocab)
    : options_(options), random_(options.seed, stream_of("sampler")), vocab_(static_cast<size_t>(vocab)) {
  validate(options_);
  if (vocab <= 0) fail("sampling: the vocabulary has {} tokens", vocab);
  candidates_.reserve(vocab_);
}

void Sampler::load(std::span<const float> logits, std::span<const int32_t> history) {
  if (logits.size() != vocab_) fail("sampling: {} logits for {} tokens", logits.size(), vocab_);
  candidates_.clear();
  bool any = false;
  for (size_t i = 0; i < vocab_; ++i) {
    const float logit = logits[i];
    if (std::isnan(logit) || logit == std::numeric_limits<float>::infinity()) {
      fail("sampling: the logit of token {} is {}; the model's weights or its computation are broken", i,
           logit);
    }
    any = any || std::isfinite(logit);
    candidates_.push_back({static_cast<int32_t>(i), logit});
  }
  if (!any) fail("sampling: every logit is minus infinity");
  if (options_.repeat_penalty != 1.0f) penalise(history);
}

// Logits of tokens in the window become smaller, once per token: l / penalty where l > 0, else l * penalty.
void Sampler::penalise(std::span<const int32_t> history) {
  if (options_.repeat_last_n >= 0 && history.size() > static_cast<size_t>(options_.repeat_last_n)) {
    history = history.last(static_cast<size_t>(options_.repeat_last_n));
  }
  penalised_.assign(vocab_, false);
  for (const int32_t token : history) {
    const auto id = static_cast<size_t>(token);
    if (token < 0 || id >= vocab_) fail("sampling: there is no token {} among {}", token, vocab_);
    if (penalised_[id]) continue;
    penalised_[id] = true;
    float& logit = candidates_[id].probability;
    logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
  }
}

void Sampler::keep_top_k() {
  const auto k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k), candidates_.end(),
                   precedes);
  candidates_.resize(k);
}

// Keeps tokens at least min_p times as probable as the best one.
void Sampler::keep_min_p(float best) {
  if (options_.min_p == 0) return;
  const float least = best + std::log(options_.min_p);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.probability < least; });
}

// Keeps the shortest run of best tokens whose probabilities sum to at least top_p. The candidates are sorted;
// total is the sum of exp(logit - best) over the tokens that top-k has left.
void Sampler::keep_top_p(float best, double total) {
  if (options_.top_p >= 1) return;
  double sum = 0;
  size_t n = 0;
  while (n < candidates_.size()) {
    sum += std::exp(static_cast<double>(candidates_[n++].probability) - best);
    if (sum >= options_.top_p * total) break;
  }
  candidates_.resize(n);
}

void Sampler::to_probabilities(float best) {
  double sum = 0;
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.probability) - best) / options_.temperature);
  };
  for (const Candidate& c : candidates_) sum += weight(c);
  for (Candidate& c : candidates_) c.probability = static_cast<float>(weight(c) / sum);
}

std::span<const Sampler::Candidate> Sampler::distribution(std::span<const float> logits,
                                                          std::span<const int32_t> history) {
  load(logits, history);
  const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), precedes);
  if (!std::isfinite(
          best.probability)) {  // the logits were: a tiny or huge penalty went beyond float's range
    fail("sampling: the repeat penalty {} makes the largest logit {}", options_.repeat_penalty,
         best.probability);
  }
  if (options_.temperature == 0) {
    candidates_.assign(1, {best.token, 1.0f});
    return candidates_;
  }
  keep_top_k();
  double total = 0;
  if (options_.top_p < 1) {
    for (const Candidate& c : candidates_)
      total += std::exp(static_cast<double>(c.probability) - best.probability);
  }
  // Top-p and min-p both keep a run of best tokens and neither looks at what the other removes, so the
  // cheaper one goes first: then few tokens are left to sort.
  keep_min_p(best.probability);
  std::sort(candidates_.begin(), candidates_.end(), precedes);
  keep_top_p(best.probability, total);
  to_probabilities(best.probability);
  return candidates_;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  const auto candidates = distribution(logits, history);
  const double u = random_.uniform(draws_++);
  double sum = 0;
  int32_t token = candidates.front().token;
  for (const Candidate& c : candidates) {
    if (c.probability == 0) break;  // rounding may leave the sum a little below 1
    token = c.token;
    sum += c.probability;
    if (u < sum) break;
  }
  return token;
}

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  // The stop string that is complete first; of those that end together, the longest.
  size_t first_end = std::string::npos, first_begin = 0;
  for (const std::string& stop : stops_) {
    const size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < first_end || (end == first_end && begin < first_begin)) first_end = end, first_begin = begin;
  }
  if (first_end != std::string::npos) {
    stopped_ = true;
    held_.resize(first_begin);
    return std::exchange(held_, {});
  }
  // Hold back the longest end of the text that begins a stop string.
  size_t hold = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > hold; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) hold = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - hold);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace gladius
