#include "eval/inference_bench.h"

#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>

#include "engine/random.h"
#include "model/decoder.h"
#include "model/sequence_batch.h"

namespace gladius {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kGeneratedWork = 16;  // of a generated token, in tokens of a prompt

// A test's sequences, their tokens, and how much of it is done.
class Run {
 public:
  Run(Context& ctx, const Model& model, const InferenceTest& test, const BenchOptions& options)
      : test_(test), options_(options) {
    if (test.sequences > 1) {
      const int64_t room = KvCache::blocks_for(test.tokens() + 1) * kv_block_tokens;
      batch_.emplace(ctx, model,
                     SequenceBatch::Options{room * test.sequences, test.tokens() + 1, options.kv_type});
    } else {
      decoder_.emplace(ctx, model, test.tokens(), options.kv_type);
    }
    const Random random(options.seed, stream_of("inference bench"));
    const auto vocab = static_cast<uint64_t>(model.config.vocab);
    for (int64_t i = 0; i < test.sequences * (test.tokens() + 1); ++i)
      tokens_.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(i), vocab)));
  }

  size_t bytes_per_token() const { return batch_ ? batch_->bytes_per_token() : decoder_->bytes_per_token(); }
  void clear() {
    if (decoder_) decoder_->clear();
    for (const int id : ids_) batch_->forget(id);
    ids_.clear();
    read_ = 0;
  }

  // The next n tokens of each sequence; false when cancelled.
  bool read_prompt(int64_t n) {
    if (n == 0) return true;
    const bool whole = read(n);
    tell(n * test_.sequences);
    return whole;
  }
  bool generate(int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      if (cancelled() || !read(1)) return false;
      tell(kGeneratedWork);
    }
    return true;
  }

 private:
  bool cancelled() const { return options_.cancel && options_.cancel->load(); }

  bool read(int64_t n) {
    const int64_t from = read_;
    read_ += n;
    if (decoder_) return !decoder_->read(tokens(0, from, n), options_.cancel).empty();
    for (int64_t s = 0; s < test_.sequences; ++s) {
      if (from == 0)
        ids_.push_back(batch_->add(tokens(s, 0, n), test_.tokens() + 1));
      else
        for (const int32_t token : tokens(s, from, n)) batch_->append(ids_[static_cast<size_t>(s)], token);
    }
    while (!batch_->idle()) {
      if (cancelled()) return false;
      batch_->step();
    }
    return true;
  }
  // Tokens [from, from + n) of a sequence.
  std::span<const int32_t> tokens(int64_t sequence, int64_t from, int64_t n) const {
    return std::span(tokens_).subspan(static_cast<size_t>(sequence * (test_.tokens() + 1) + from),
                                      static_cast<size_t>(n));
  }
  void tell(int64_t work) {
    done_ += work;
    if (options_.progress) options_.progress(done_);
  }

  const InferenceTest test_;
  const BenchOptions& options_;
  std::optional<Decoder> decoder_;      // for one sequence
  std::optional<SequenceBatch> batch_;  // for several
  std::vector<int> ids_;
  std::vector<int32_t> tokens_;
  int64_t read_ = 0, done_ = 0;
};

}  // namespace

std::string test_name(const InferenceTest& test) {
  std::string name;
  if (test.prompt > 0) name = fmt::format("pp{}", test.prompt);
  if (test.generated > 0) name += fmt::format("{}tg{}", name.empty() ? "" : "+", test.generated);
  if (test.depth > 0) name += fmt::format(" @ d{}", test.depth);
  if (test.sequences > 1) name += fmt::format(" x {}", test.sequences);
  return name;
}

int64_t test_work(const InferenceTest& test, const BenchOptions& options) {
  const int64_t once = test.sequences * (test.depth + test.prompt) + kGeneratedWork * test.generated;
  const int64_t warmup = test.sequences * test.prompt + (test.generated > 0 ? kGeneratedWork : 0);
  return options.repetitions * once + (options.warmup ? warmup : 0);
}

InferenceTimes time_inference(Context& ctx, const Model& model, const InferenceTest& test,
                              const BenchOptions& options) {
  Run run(ctx, model, test, options);
  InferenceTimes times;
  times.cache_bytes_per_token = run.bytes_per_token();
  if (options.warmup && !(run.read_prompt(test.prompt) && run.generate(test.generated > 0 ? 1 : 0)))
    return times;
  for (int i = 0; i < options.repetitions; ++i) {
    run.clear();
    if (!run.read_prompt(test.depth)) break;
    if (i == 0 && options.between) options.between();
    const auto start = Clock::now();
    if (!run.read_prompt(test.prompt) || !run.generate(test.generated)) break;
    times.nanoseconds.push_back(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
    if (options.between) options.between();
  }
  return times;
}

Spread spread(std::span<const double> values) {
  if (values.empty()) return {};
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1)) : 0};
}

double test_flops(const Config& config, const InferenceTest& test) {
  double flops = test.prompt > 0 ? inference_flops(config, test.depth, test.prompt) : 0;
  for (int64_t past = test.depth + test.prompt; past < test.tokens(); ++past)
    flops += inference_flops(config, past, 1);
  return flops * static_cast<double>(test.sequences);
}

double generation_bytes(const Model& model, const InferenceTest& test, size_t cache_bytes_per_token) {
  double weights = 0;  // that a token reads
  for (const Tensor& weight : model.weights) weights += static_cast<double>(weight.bytes());
  if (!model.config.tied)
    weights -=
        static_cast<double>(model.embedding().bytes()) * (1 - 1 / static_cast<double>(model.config.vocab));
  const auto n = static_cast<double>(test.generated);
  const double remembered = static_cast<double>(test.depth + test.prompt) + (n + 1) / 2;  // on average
  return n * (weights +
              remembered * static_cast<double>(test.sequences) * static_cast<double>(cache_bytes_per_token));
}

}  // namespace gladius
