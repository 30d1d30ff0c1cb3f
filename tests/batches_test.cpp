#include "train/batches.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "engine/error.h"
#include "engine/random.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// A cache whose tokens can be told apart by their neighbours: `documents` random texts.
struct Fixture {
  TemporaryFolder folder;
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<const TokenCache> cache;

  explicit Fixture(Vocab vocab, size_t bytes = 3000, int documents = 5)
      : tokenizer(make_tokenizer(std::move(vocab), "test")) {
    fs::create_directory(folder / "texts");
    std::mt19937 random(7);
    for (int i = 0; i < documents; ++i) {
      write(folder / fmt::format("texts/{}.txt", i), random_text(random, bytes));
    }
    const fs::path input = folder / "texts";
    cache = prepare_tokens(Corpus::open({&input, 1}), *tokenizer, {folder / "cache", 1, {}, nullptr}).cache;
  }
  TokenRange range(uint64_t begin, uint64_t end) const { return {cache, begin, end}; }
};

}  // namespace

TEST_CASE("a permutation visits everything once, for every size") {
  for (uint64_t n = 1; n <= 400; ++n) {
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      const Permutation permutation(n, 42, epoch);
      std::set<uint64_t> seen;
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t image = permutation(i);
        CHECK(image < n);
        seen.insert(image);
      }
      CHECK(seen.size() == n);
    }
  }
  for (const uint64_t n : {uint64_t{65536}, uint64_t{65537}, uint64_t{100003}}) {
    const Permutation permutation(n, ~uint64_t{0}, 1);
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) seen[permutation(i)] = true;
    CHECK(std::count(seen.begin(), seen.end(), true) == static_cast<std::ptrdiff_t>(n));
  }
  const Permutation huge((uint64_t{1} << 50) + 7, 1, 2);  // costs the same: nothing is held
  CHECK(huge(0) != huge(1));
  CHECK(huge((uint64_t{1} << 50) + 6) < (uint64_t{1} << 50) + 7);
  CHECK_THROWS_AS(Permutation(0, 1, 1), Error);
}

TEST_CASE("a permutation spreads every element evenly, and depends on seed and epoch") {
  // Over `trials` epochs element i lands on each of n places with probability 1/n: a binomial count. Six
  // standard deviations over all n² counts miss with a probability below 1e-6.
  constexpr int trials = 6000;
  for (const uint64_t n : {3u, 5u, 8u, 11u}) {
    std::map<std::pair<uint64_t, uint64_t>, int> counts;
    for (uint64_t epoch = 0; epoch < trials; ++epoch) {
      const Permutation permutation(n, 3, epoch);
      for (uint64_t i = 0; i < n; ++i) ++counts[{i, permutation(i)}];
    }
    const double p = 1.0 / static_cast<double>(n);
    for (uint64_t i = 0; i < n; ++i) {
      for (uint64_t j = 0; j < n; ++j) {
        CHECK(std::abs(counts[{i, j}] - trials * p) <= 6 * std::sqrt(trials * p * (1 - p)));
      }
    }
  }
  // Two unrelated permutations of 1000 elements agree in about one place (Poisson with mean 1; ten is below
  // 1e-7).
  const auto agreements = [](const Permutation& a, const Permutation& b) {
    int same = 0;
    for (uint64_t i = 0; i < 1000; ++i) same += a(i) == b(i);
    return same;
  };
  CHECK(agreements({1000, 1, 0}, {1000, 1, 0}) == 1000);
  CHECK(agreements({1000, 1, 0}, {1000, 1, 1}) < 10);
  CHECK(agreements({1000, 1, 0}, {1000, 2, 0}) < 10);
  CHECK(agreements({1000, 1, 0}, {1000, uint64_t{1} << 32 | 1, 0}) < 10);
  CHECK(agreements({1000, 1, 0}, {1000, 1, uint64_t{1} << 32}) < 10);
}

TEST_CASE("an epoch trains on every token once, in windows that follow the text") {
  const Fixture fixture(llama_vocab());
  const uint64_t total = fixture.cache->tokens();
  REQUIRE(total > 2000);
  for (const std::optional<int32_t> bos : {std::optional<int32_t>(1), std::optional<int32_t>()}) {
    for (const auto& [begin, size, context] : {std::tuple<uint64_t, uint64_t, int64_t>{0, total, 64},
                                               {100, 640, 64},
                                               {7, 1, 64},
                                               {7, 63, 64},
                                               {3, 129, 16},
                                               {0, 50, 1}}) {
      CAPTURE(size);
      CAPTURE(context);
      const TokenRange range = fixture.range(begin, begin + size);
      const TrainingBatches batches(range, context, bos, 5);
      const uint64_t windows = batches.windows_per_epoch();
      CHECK(windows == (size + static_cast<uint64_t>(context) - 1) / static_cast<uint64_t>(context));
      std::map<int32_t, int64_t> wanted, got;
      for (uint64_t i = 0; i < size; ++i) ++wanted[range[i]];
      // The text as a ring, twice, to look windows up in.
      std::vector<int32_t> ring;
      for (uint64_t i = 0; i < 2 * size + static_cast<uint64_t>(context); ++i)
        ring.push_back(range[i % size]);
      Batch batch;
      DataPosition at{3, 0};
      for (uint64_t w = 0; w < windows; ++w) {
        at = batches.fill(at, 1, batch);
        CHECK(batch.tokens.size() == static_cast<size_t>(context));
        const auto n = static_cast<std::ptrdiff_t>(batch.target_count);
        CHECK((n > 0 && std::count(batch.targets.begin(), batch.targets.begin() + n, kIgnoredTarget) == 0));
        CHECK(std::count(batch.targets.begin() + n, batch.targets.end(), kIgnoredTarget) == context - n);
        for (std::ptrdiff_t t = 0; t < n; ++t) ++got[batch.targets[static_cast<size_t>(t)]];
        CHECK(std::equal(batch.targets.begin(), batch.targets.begin() + n - 1, batch.tokens.begin() + 1));
        if (bos) {
          CHECK(batch.tokens[0] == *bos);
          CHECK(std::search(ring.begin(), ring.end(), batch.targets.begin(), batch.targets.begin() + n) !=
                ring.end());
        } else {
          std::vector<int32_t> window = {batch.tokens[0]};
          window.insert(window.end(), batch.targets.begin(), batch.targets.begin() + n);
          CHECK(std::search(ring.begin(), ring.end(), window.begin(), window.end()) != ring.end());
        }
      }
      CHECK(got == wanted);
      CHECK(at == DataPosition{3, windows});
    }
  }
}

TEST_CASE("a position determines all batches that follow, whatever their size and the epochs between") {
  const Fixture fixture(llama_vocab(), 500);
  const TrainingBatches batches(fixture.range(0, 500), 32, 1, 9);  // 16 windows
  REQUIRE(batches.windows_per_epoch() == 16);
  std::vector<int32_t> one_by_one;
  Batch batch;
  for (DataPosition at{0, 0}; at.epoch < 5;) {
    at = batches.fill(at, 1, batch);
    one_by_one.insert(one_by_one.end(), batch.targets.begin(), batch.targets.end());
  }
  for (const int64_t B : {3, 5, 16, 40}) {
    std::vector<int32_t> together;
    for (DataPosition at{0, 0}; at.epoch < 4;) {
      const DataPosition before = at;
      at = batches.fill(at, B, batch);
      together.insert(together.end(), batch.targets.begin(), batch.targets.end());
      Batch again;
      CHECK(TrainingBatches(fixture.range(0, 500), 32, 1, 9).fill(before, B, again) == at);  // a new process
      CHECK(again.tokens == batch.tokens);
      CHECK(again.targets == batch.targets);
      CHECK(again.target_count == batch.target_count);
    }
    const size_t common = std::min(together.size(), one_by_one.size());
    CHECK(std::equal(together.begin(), together.begin() + static_cast<std::ptrdiff_t>(common),
                     one_by_one.begin()));
  }
  // Another seed and another epoch read the same tokens in another order.
  Batch other_seed, other_epoch;
  batches.fill({0, 0}, 16, batch);
  batches.fill({1, 0}, 16, other_epoch);
  TrainingBatches(fixture.range(0, 500), 32, 1, 10).fill({0, 0}, 16, other_seed);
  CHECK(batch.targets != other_seed.targets);
  CHECK(batch.targets != other_epoch.targets);
}

TEST_CASE("filling a batch again keeps its memory") {
  const Fixture fixture(llama_vocab(), 500);
  const TrainingBatches batches(fixture.range(0, 500), 32, 1, 9);
  Batch batch;
  DataPosition at = batches.fill({}, 4, batch);
  const int32_t *tokens = batch.tokens.data(), *targets = batch.targets.data();
  for (int i = 0; i < 20; ++i) at = batches.fill(at, 4, batch);
  CHECK(batch.tokens.data() == tokens);
  CHECK(batch.targets.data() == targets);
}

TEST_CASE("validation scores every token once, in order, and counts its bytes") {
  for (const bool llama : {true, false}) {
    const Fixture fixture(llama ? llama_vocab() : gpt2_vocab("gpt-2"));
    const uint64_t total = fixture.cache->tokens();
    const std::optional<int32_t> bos = llama ? std::optional<int32_t>(1) : std::nullopt;
    for (const uint64_t begin : {uint64_t{0}, total / 3}) {
      const TokenRange range = fixture.range(begin, total);
      const ValidationBatches batches(range, 100, bos);
      const uint64_t first = bos ? 0 : 1;
      std::vector<int32_t> wanted, got;
      for (uint64_t i = first; i < range.size(); ++i) wanted.push_back(range[i]);
      Batch batch;
      for (int64_t w = 0; w < batches.windows(); w += 3) {
        batches.fill(w, 3, batch);
        CHECK((batch.B == 3 && batch.T == 100));
        int64_t count = 0;
        for (int64_t b = 0; b < 3; ++b) {
          if (w + b >= batches.windows()) continue;
          const auto row = static_cast<size_t>(b * 100);
          CHECK(batch.tokens[row] == (bos ? *bos : range[first + static_cast<uint64_t>((w + b) * 100) - 1]));
          for (size_t t = row; t < row + 100 && batch.targets[t] != kIgnoredTarget; ++t, ++count) {
            got.push_back(batch.targets[t]);
          }
        }
        CHECK(count == batch.target_count);
      }
      CHECK(got == wanted);
      CHECK(batches.bytes(batches.windows(), *fixture.tokenizer) ==
            fixture.cache->bytes(begin + first, total, *fixture.tokenizer));
      CHECK(batches.bytes(2, *fixture.tokenizer) ==
            fixture.cache->bytes(begin + first, begin + first + 200, *fixture.tokenizer));
    }
  }
}

TEST_CASE("batches of nothing are refused") {
  const Fixture fixture(llama_vocab(), 100);
  CHECK(contains(message_of([&] { TrainingBatches(fixture.range(5, 5), 8, 1, 0); }), "no tokens"));
  CHECK(contains(message_of([&] { TrainingBatches(fixture.range(0, 5), 0, 1, 0); }), "context"));
  CHECK(contains(message_of([&] { ValidationBatches(fixture.range(5, 5), 8, 1); }), "no tokens"));
  CHECK(contains(message_of([&] { ValidationBatches(fixture.range(5, 6), 8, {}); }), "two tokens"));
  CHECK_NOTHROW(ValidationBatches(fixture.range(5, 6), 8, 1));
}
