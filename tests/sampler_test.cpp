// Sampling against its definitions, and stop strings against a search in the whole text.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "engine/error.h"
#include "model/sampler.h"

using namespace gladius;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The stages as their papers define them, one after the other, in double: tokens by descending probability.
std::vector<std::pair<int32_t, double>> by_definition(const std::vector<float>& logits,
                                                      const std::vector<int32_t>& history,
                                                      const SamplingOptions& o) {
  std::vector<std::pair<int32_t, double>> tokens;
  const size_t window =
      o.repeat_last_n < 0 ? history.size() : std::min(history.size(), static_cast<size_t>(o.repeat_last_n));
  const std::set<int32_t> recent(history.end() - static_cast<ptrdiff_t>(window), history.end());
  for (size_t i = 0; i < logits.size(); ++i) {
    float logit = logits[i];
    if (recent.contains(static_cast<int32_t>(i)))
      logit = logit > 0 ? logit / o.repeat_penalty : logit * o.repeat_penalty;
    tokens.emplace_back(static_cast<int32_t>(i), logit);
  }
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) {
    return a.second > b.second || (a.second == b.second && a.first < b.first);
  });
  if (o.temperature == 0) return {{tokens[0].first, 1.0}};
  const double best = tokens[0].second;
  const auto probabilities = [&](double temperature) {
    std::vector<double> p;
    for (const auto& token : tokens) p.push_back(std::exp((token.second - best) / temperature));
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& value : p) value /= sum;
    return p;
  };
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < tokens.size())
    tokens.resize(static_cast<size_t>(o.top_k));
  if (o.top_p < 1) {
    const auto p = probabilities(1);
    double sum = 0;
    size_t n = 0;
    while (n < p.size() && (n == 0 || sum < static_cast<double>(o.top_p))) sum += p[n++];
    tokens.resize(n);
  }
  if (o.min_p > 0) {
    const auto p = probabilities(1);
    size_t n = 0;
    while (n < p.size() && p[n] >= static_cast<double>(o.min_p) * p[0]) ++n;
    tokens.resize(n);
  }
  const auto p = probabilities(o.temperature);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i].second = p[i];
  return tokens;
}

std::vector<float> random_logits(std::mt19937_64& engine, size_t n) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(engine);
  return logits;
}

void check_against_definition(const SamplingOptions& options, uint64_t seed) {
  std::mt19937_64 engine(seed);
  for (int round = 0; round < 200; ++round) {
    const size_t vocab = 1 + engine() % 300;
    std::vector<float> logits = random_logits(engine, vocab);
    if (round % 3 == 0) {
      for (float& logit : logits) logit = std::round(logit);  // ties
    }
    std::vector<int32_t> history(engine() % 40);
    for (int32_t& token : history) token = static_cast<int32_t>(engine() % vocab);
    Sampler sampler(options, static_cast<int32_t>(vocab));
    const auto got = sampler.distribution(logits, history);
    const auto expected = by_definition(logits, history, options);
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].token == expected[i].first);
      // Both are computed in double; what is compared is one rounding to float.
      CHECK(std::abs(got[i].probability - expected[i].second) <= expected[i].second * 0x1p-23);
    }
  }
}

constexpr SamplingOptions everything_off = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0};

}  // namespace

TEST_CASE("each stage, and all together, follow their definitions") {
  SamplingOptions o = everything_off;
  SUBCASE("none") {}
  SUBCASE("temperature") { o.temperature = 0.3f; }
  SUBCASE("hot") { o.temperature = 2.5f; }
  SUBCASE("greedy") { o.temperature = 0; }
  SUBCASE("top-k") { o.top_k = 7; }
  SUBCASE("top-k 1") { o.top_k = 1; }
  SUBCASE("top-p") { o.top_p = 0.8f; }
  SUBCASE("top-p 0") { o.top_p = 0; }
  SUBCASE("min-p") { o.min_p = 0.1f; }
  SUBCASE("min-p 1") { o.min_p = 1; }
  SUBCASE("repetition") { o.repeat_penalty = 1.7f; }
  SUBCASE("repetition, short window") { o.repeat_penalty = 0.6f, o.repeat_last_n = 5; }
  SUBCASE("repetition, all") { o.repeat_penalty = 1.2f, o.repeat_last_n = -1; }
  SUBCASE("repetition, no window") { o.repeat_penalty = 1.2f, o.repeat_last_n = 0; }
  SUBCASE("top-p with min-p") { o.top_p = 0.9f, o.min_p = 0.02f; }
  SUBCASE("all") {
    o = {.temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .min_p = 0.03f, .repeat_penalty = 1.3f};
  }
  check_against_definition(o, 7);
}

TEST_CASE("ties go to the lower id") {
  const std::vector<float> logits = {1, 3, 3, 2, 3};
  SamplingOptions o = everything_off;
  o.top_k = 2;
  Sampler sampler(o, 5);
  const auto two = sampler.distribution(logits, {});
  REQUIRE(two.size() == 2);
  CHECK(two[0].token == 1);
  CHECK(two[1].token == 2);
  o.temperature = 0;
  CHECK(Sampler(o, 5).sample(logits, {}) == 1);
}

TEST_CASE("tokens are drawn as often as the distribution says") {
  SamplingOptions o = everything_off;
  o.temperature = 0.9f;
  o.seed = 99;
  const std::vector<float> logits = {0.5f, -1, 2, 1.5f, -0.2f, 0, 1, -3};
  Sampler sampler(o, 8);
  const int draws = 200000;
  std::vector<int> counts(8);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(sampler.sample(logits, {}))];
  double chi_square = 0;
  for (const auto& [token, p] : by_definition(logits, {}, o)) {
    const double expected = p * draws;
    chi_square += (counts[static_cast<size_t>(token)] - expected) *
                  (counts[static_cast<size_t>(token)] - expected) / expected;
  }
  // 7 degrees of freedom: a correct sampler exceeds 42.0 with a probability below 1e-6.
  CHECK(chi_square < 42.0);
}

TEST_CASE("draws depend on the seed and the number of earlier draws alone") {
  SamplingOptions o = everything_off;
  std::mt19937_64 engine(3);
  const std::vector<float> flat(1000, 0.0f);
  o.seed = 5;
  Sampler a(o, 1000), b(o, 1000);
  o.seed = 6;
  Sampler other(o, 1000);
  std::vector<int32_t> from_a, from_b, from_other;
  for (int i = 0; i < 50; ++i) {
    from_a.push_back(a.sample(flat, {}));
    if (i % 2 == 1) {  // b's odd draws are made on other logits
      b.sample(random_logits(engine, 1000), {});
      from_b.push_back(from_a.back());
    } else {
      from_b.push_back(b.sample(flat, {}));
    }
    from_other.push_back(other.sample(flat, {}));
  }
  CHECK(from_a == from_b);
  CHECK(from_a != from_other);
}

TEST_CASE("minus infinity excludes a token, other values that are no numbers are refused") {
  Sampler sampler(everything_off, 3);
  for (int i = 0; i < 1000; ++i) CHECK(sampler.sample(std::vector<float>{0, -infinity, 0}, {}) != 1);
  CHECK_THROWS_WITH_AS(sampler.sample(std::vector<float>{0, std::nanf(""), 0}, {}),
                       doctest::Contains("token 1"), Error);
  CHECK_THROWS_WITH_AS(sampler.sample(std::vector<float>{0, 0, infinity}, {}), doctest::Contains("token 2"),
                       Error);
  CHECK_THROWS_AS(sampler.sample(std::vector<float>(3, -infinity), {}), Error);
  CHECK_THROWS_AS(sampler.sample(std::vector<float>(4), {}), Error);
  SamplingOptions o = everything_off;
  o.repeat_penalty = 2;
  CHECK_THROWS_AS(Sampler(o, 3).sample(std::vector<float>(3), std::vector<int32_t>{3}), Error);
}

TEST_CASE("a penalty that takes logits beyond what floats hold is an error, unless another token is left") {
  const std::vector<int32_t> first{0}, all{0, 1};
  for (const float temperature : {0.0f, 0.8f}) {
    SamplingOptions o = everything_off;
    o.temperature = temperature;
    o.repeat_penalty = 1e-39f;
    CHECK_THROWS_WITH_AS(Sampler(o, 2).sample(std::vector<float>{2, 1}, first),
                         doctest::Contains("repeat penalty"), Error);
    CHECK(Sampler(o, 2).sample(std::vector<float>{-2, -90}, first) == 0);
    o.repeat_penalty = 1e38f;
    const std::vector<float> negative{-20, -30};
    CHECK(Sampler(o, 2).sample(negative, first) == 1);  // the first is excluded
    CHECK_THROWS_WITH_AS(Sampler(o, 2).sample(negative, all), doctest::Contains("repeat penalty"), Error);
  }
}

TEST_CASE("options out of range are refused by name") {
  const auto refuses = [](auto change, const char* name) {
    SamplingOptions o;
    change(o);
    CHECK_THROWS_WITH_AS(validate(o), doctest::Contains(name), Error);
  };
  refuses([](auto& o) { o.temperature = -0.1f; }, "temperature");
  refuses([](auto& o) { o.temperature = std::nanf(""); }, "temperature");
  refuses([](auto& o) { o.temperature = infinity; }, "temperature");
  refuses([](auto& o) { o.top_k = -1; }, "top-k");
  refuses([](auto& o) { o.top_p = 1.01f; }, "top-p");
  refuses([](auto& o) { o.min_p = -0.01f; }, "min-p");
  refuses([](auto& o) { o.repeat_penalty = 0; }, "repeat penalty");
  refuses([](auto& o) { o.repeat_last_n = -2; }, "repeat-last-n");
  CHECK_NOTHROW(validate(SamplingOptions{}));
}

namespace {

// The text before the stop string that is complete first (of those that end together, the longest), from
// every prefix.
std::pair<std::string, bool> stopped_text(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    for (size_t begin = 0; begin < end; ++begin) {
      const std::string part = text.substr(begin, end - begin);
      if (std::find(stops.begin(), stops.end(), part) != stops.end()) return {text.substr(0, begin), true};
    }
  }
  return {text, false};
}

}  // namespace

TEST_CASE("stop strings are found wherever the text is cut") {
  std::mt19937_64 engine(17);
  const auto random_string = [&](size_t longest) {
    std::string s(engine() % (longest + 1), ' ');
    for (char& c : s) c = "ab\n"[engine() % 3];
    return s;
  };
  int stopped_count = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (uint64_t n = engine() % 4; n > 0; --n) stops.push_back(random_string(round % 2 == 0 ? 4 : 9));
    const std::string text = random_string(40);
    const auto [expected, stops_there] = stopped_text(text, stops);
    StopMatcher matcher(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + engine() % 6;
      shown += matcher.push(text.substr(at, n));
      at += n;
      // Nothing is shown that a stop string might still take back, and no more is held back than could.
      CHECK(expected.starts_with(shown));
      if (!matcher.stopped()) {
        const std::string held = text.substr(shown.size(), std::min(at, text.size()) - shown.size());
        const bool needed =
            held.empty() || std::any_of(stops.begin(), stops.end(),
                                        [&](const std::string& stop) { return stop.starts_with(held); });
        CHECK(needed);
      }
    }
    CHECK(matcher.stopped() == stops_there);
    if (!matcher.stopped()) shown += matcher.finish();
    CHECK(shown == expected);
    CHECK(matcher.finish().empty());
    stopped_count += stops_there;
  }
  CHECK(stopped_count > 500);
  CHECK(stopped_count < 4500);
}
