// The cache of keys and values, and several sequences at once: shared beginnings, any order, any cuts.
#include "model/sequence_batch.h"

#include <map>

#include "model/decoder.h"
#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

struct Fixture {
  Fixture() : model(random_model(config(), 21, *pool)) {}
  static Config config() {
    Config c = small_config();
    c.context = 1024;
    return c;
  }

  // What follows each of the tokens, by one sequence on its own: [tokens, V].
  std::vector<std::vector<float>> alone(const std::vector<int32_t>& tokens) {
    const auto T = static_cast<int64_t>(tokens.size());
    TokenBatch batch = make_token_batch(1, T, *pool);
    std::copy(tokens.begin(), tokens.end(), batch.tokens.i32());
    const Tensor scores =
        logits(ctx, model, forward(ctx, model, make_rope_table(model.config, T, *pool), batch));
    std::vector<std::vector<float>> rows;
    for (int64_t t = 0; t < T; ++t)
      rows.emplace_back(scores.f32() + t * model.config.vocab, scores.f32() + (t + 1) * model.config.vocab);
    return rows;
  }
  std::shared_ptr<BufferPool> pool = BufferPool::make();
  std::unique_ptr<Backend> backend = make_cpu_backend(2);
  Context ctx{*backend, *pool};
  Model model;
};

// A sequence that is fed token by token after `prompt` of them.
struct Feed {
  std::vector<int32_t> tokens;
  size_t prompt;
  int id = -1;
};

// Runs all feeds to their ends, checking every result against the sequence on its own.
void run(Fixture& f, SequenceBatch& batch, std::vector<Feed>& feeds) {
  std::map<int, Feed*> by_id;
  for (Feed& feed : feeds) {
    const std::span all(feed.tokens);
    feed.id = batch.add(all.first(feed.prompt), static_cast<int64_t>(all.size()));
    by_id[feed.id] = &feed;
  }
  std::map<int, size_t> given;
  for (Feed& feed : feeds) given[feed.id] = feed.prompt;
  while (!batch.idle()) {
    const std::span<const SequenceBatch::Ready> ready = batch.step();
    std::vector<int> ended;
    for (const auto& [id, scores] : ready) {
      const Feed& feed = *by_id[id];
      CAPTURE(id);
      CAPTURE(given[id]);
      const std::vector<int32_t> so_far(feed.tokens.begin(), feed.tokens.begin() + std::ptrdiff_t(given[id]));
      CHECK(batch.length(id) == static_cast<int64_t>(given[id]));
      CHECK(largest_difference(scores, f.alone(so_far).back()) <= logits_bound(f.ctx, f.model, so_far));
      if (given[id] == feed.tokens.size())
        ended.push_back(id);
      else
        batch.append(id, feed.tokens[given[id]++]);
    }
    for (const int id : ended) batch.finish(id);
  }
  for (const auto& [id, n] : given) CHECK(n == by_id[id]->tokens.size());
}

}  // namespace

TEST_CASE("sequences at once give each the logits that it has alone, whatever a pass may take") {
  Fixture f;
  Random random(1);
  for (const int64_t most : {1, 3, 50, 512}) {
    CAPTURE(most);
    SequenceBatch batch(f.ctx, f.model, {.tokens = 6 * kv_block_tokens, .most_per_pass = most});
    std::vector<Feed> feeds;
    for (const size_t n : {5, 1, 17, 9})
      feeds.push_back({random_tokens(random, static_cast<int64_t>(n) + 4, f.model.config.vocab), n});
    run(f, batch, feeds);
  }
}

TEST_CASE("a beginning that the cache holds is taken over: from sequences at work and from ended ones") {
  Fixture f;
  Random random(2);
  const int64_t V = f.model.config.vocab;
  SequenceBatch batch(f.ctx, f.model, {.tokens = 8 * kv_block_tokens});
  const std::vector<int32_t> beginning = random_tokens(random, kv_block_tokens + 20, V);
  const auto with = [&](size_t same, int64_t more) {
    std::vector<int32_t> tokens(beginning.begin(), beginning.begin() + std::ptrdiff_t(same));
    const std::vector<int32_t> rest = random_tokens(random, more, V);
    tokens.push_back((beginning[same] + 1) % static_cast<int32_t>(V));
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    return tokens;
  };
  std::vector<Feed> first = {{beginning, beginning.size() - 3}};
  run(f, batch, first);
  const size_t whole_block = kv_block_tokens;
  for (const size_t same : {size_t{1}, size_t{30}, whole_block - 1, whole_block, whole_block + 1}) {
    CAPTURE(same);
    const std::vector<int32_t> tokens = with(same, 3);
    const int id = batch.add(tokens, static_cast<int64_t>(tokens.size()) + 2);
    const auto ready = batch.step();
    REQUIRE(ready.size() == 1);
    CHECK(batch.taken_over(id) == static_cast<int64_t>(same));
    CHECK(largest_difference(ready[0].logits, f.alone(tokens).back()) <=
          logits_bound(f.ctx, f.model, tokens));
    // While it is at work, another takes its tokens over, and both go on.
    const int twin = batch.add(tokens, static_cast<int64_t>(tokens.size()) + 1);
    const auto of_twin = batch.step();
    REQUIRE(of_twin.size() == 1);
    CHECK(batch.taken_over(twin) == static_cast<int64_t>(tokens.size()) - 1);
    CHECK(largest_difference(of_twin[0].logits, f.alone(tokens).back()) <=
          logits_bound(f.ctx, f.model, tokens));
    batch.append(id, 1);
    batch.append(twin, 2);
    for (const auto& [number, scores] : batch.step()) {
      std::vector<int32_t> longer = tokens;
      longer.push_back(number == id ? 1 : 2);
      CHECK(largest_difference(scores, f.alone(longer).back()) <= logits_bound(f.ctx, f.model, longer));
    }
    batch.finish(id);
    batch.finish(twin);
  }
  // The first one's tokens are as they were.
  const int again = batch.add(beginning, static_cast<int64_t>(beginning.size()));
  const auto ready = batch.step();
  REQUIRE(ready.size() == 1);
  CHECK(batch.taken_over(again) == static_cast<int64_t>(beginning.size()) - 1);
  CHECK(largest_difference(ready[0].logits, f.alone(beginning).back()) <=
        logits_bound(f.ctx, f.model, beginning));
}

TEST_CASE("sequences wait for room in the order in which they came, and ended ones make room") {
  Fixture f;
  Random random(3);
  const int64_t V = f.model.config.vocab, block = kv_block_tokens;
  SequenceBatch batch(f.ctx, f.model, {.tokens = 3 * block});
  const auto tokens = [&] { return random_tokens(random, 4, V); };
  const int a = batch.add(tokens(), 2 * block), b = batch.add(tokens(), 2 * block),
            c = batch.add(tokens(), 5);
  REQUIRE(batch.step().size() == 1);  // b does not fit beside a, and c may not overtake it
  CHECK(batch.length(a) == 4);
  CHECK(batch.step().empty());
  batch.finish(a);
  const auto ready = batch.step();  // b and c, as what is remembered of a goes
  REQUIRE(ready.size() == 2);
  CHECK(ready[0].id == b);
  CHECK(ready[1].id == c);
  CHECK(batch.idle());

  CHECK(contains(message_of([&] { batch.add(tokens(), 3 * block + 1); }),
                 "does not fit a cache of 432 a sequence"));
  CHECK(contains(message_of([&] { batch.add({}, 5); }), "at least one token"));
  CHECK(contains(message_of([&] { batch.add(tokens(), 3); }), "3 tokens cannot begin with 4"));
  const std::vector<int32_t> wrong = {1, static_cast<int32_t>(V)};
  CHECK(contains(message_of([&] { batch.add(wrong, 5); }), fmt::format("vocabulary of {}", V)));
  CHECK(contains(message_of([&] { batch.append(b, -1); }), "token -1"));
  CHECK(contains(message_of([&] { batch.append(a, 1); }), fmt::format("no sequence {}", a)));
  batch.append(c, 1);
  CHECK(contains(message_of([&] { batch.append(c, 1); }), "has the 5 tokens"));
  batch.finish(c);
  batch.finish(b);
  CHECK(batch.idle());
}

TEST_CASE("what waits makes nothing be forgotten, and no sequence goes short for long") {
  Fixture f;
  Random random(4);
  const int64_t V = f.model.config.vocab, block = kv_block_tokens;
  {
    SequenceBatch batch(f.ctx, f.model, {.tokens = 4 * block});
    const std::vector<int32_t> remembered = random_tokens(random, 20, V);
    const int first = batch.add(remembered, 30);
    batch.step();
    batch.finish(first);
    const int large = batch.add(random_tokens(random, 4, V), 2 * block);
    const int larger = batch.add(remembered, 3 * block);
    batch.step();
    CHECK(batch.length(large) == 4);
    CHECK(batch.length(larger) == 0);  // does not fit beside the other one
    batch.step();
    batch.finish(large);
    batch.step();
    CHECK(batch.length(larger) == 20);
    CHECK(batch.taken_over(larger) == 19);
  }
  SequenceBatch batch(f.ctx, f.model, {.tokens = 6 * block, .longest = 30, .most_per_pass = 2});
  std::vector<int> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(batch.add(random_tokens(random, 1, V), 30));
  std::map<int, int> turns;
  for (int pass = 0; pass < 25; ++pass)
    for (const auto& [id, scores] : batch.step()) {
      ++turns[id];
      batch.append(id, 1);
    }
  for (const int id : ids) CHECK(turns[id] == 10);  // 25 passes of 2 tokens for 5 sequences
}

TEST_CASE("a cache's blocks: shared, copied before they are written into, and given back") {
  Fixture f;
  KvCache cache(f.model.config, DType::F32, 3 * kv_block_tokens, *f.pool);
  CHECK(cache.blocks() == 3);
  KvSequence a;
  REQUIRE(cache.reserve(a, kv_block_tokens + 10));
  a.length = kv_block_tokens + 10;
  CHECK(cache.free_blocks() == 1);
  KvSequence b = cache.fork(a, kv_block_tokens + 5);
  CHECK(b.blocks == a.blocks);
  CHECK(cache.free_blocks() == 1);
  float* const shared = cache.layer(0).k.slice(a.blocks[1], a.blocks[1] + 1).f32();
  shared[0] = 5;
  REQUIRE(cache.reserve(b, 1));
  CHECK(b.blocks[0] == a.blocks[0]);
  CHECK(b.blocks[1] != a.blocks[1]);
  CHECK(cache.layer(0).k.slice(b.blocks[1], b.blocks[1] + 1).f32()[0] == 5.0f);
  CHECK(cache.free_blocks() == 0);
  KvSequence c = cache.fork(a, 3);
  CHECK_FALSE(cache.reserve(c, 1));  // no block for a copy
  CHECK(c.blocks == std::vector<int32_t>{a.blocks[0]});
  cache.truncate(b, 0);
  CHECK(cache.free_blocks() == 1);
  CHECK(cache.reserve(c, 1));
  cache.truncate(a, 0);
  cache.truncate(c, 0);
  CHECK(cache.free_blocks() == 3);

  CHECK(contains(message_of([&] { KvCache(f.model.config, DType::Q4_0, 10, *f.pool); }), "not Q4_0"));
  Config odd = f.model.config;
  odd.head_dim = 24;
  CHECK(contains(message_of([&] { KvCache(odd, DType::Q8_0, 10, *f.pool); }), "width 24"));
}
