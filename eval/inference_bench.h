// How fast a model reads prompts and generates text, measured as llama.cpp's llama-bench does.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/context.h"
#include "model/model.h"

namespace gladius {

// A prompt of so many random tokens is read, then so many tokens are generated one by one, which are random,
// too: nothing is sampled. Before that, `depth` tokens are read that do not count. Several sequences do the
// same at once, each with tokens of its own.
struct InferenceTest {
  int64_t prompt = 0, generated = 0, depth = 0, sequences = 1;
  int64_t counted() const { return sequences * (prompt + generated); }
  int64_t tokens() const { return depth + prompt + generated; }  // most that a sequence holds
  bool operator==(const InferenceTest&) const = default;
};
std::string test_name(
    const InferenceTest& test);  // as llama-bench: "pp512", "tg128 @ d256", "pp512+tg128"; "tg128 x 4"

struct BenchOptions {
  int repetitions = 5;
  bool warmup = true;  // before the first: the prompt and one generated token
  uint64_t seed = 0;   // of the tokens
  DType kv_type = DType::F32;
  const std::atomic<bool>* cancel = nullptr;
  // Called after each repetition, and in between, with the work done so far (test_work); may be empty.
  std::function<void(int64_t done)> progress{};
  // Called right before the first repetition and right after each, to see what the machine can do meanwhile;
  // may be empty.
  std::function<void()> between{};
};
// What a test takes with all its repetitions, to tell how much is left: in tokens of a prompt, of which about
// 16 take as long as a generated one.
int64_t test_work(const InferenceTest& test, const BenchOptions& options);

struct InferenceTimes {
  std::vector<int64_t> nanoseconds;  // of each repetition; fewer than asked for when it was cancelled
  size_t cache_bytes_per_token = 0;  // keys and values
};
// Each repetition starts with nothing remembered. Throws Error when there is no memory for the test's tokens.
InferenceTimes time_inference(Context& ctx, const Model& model, const InferenceTest& test,
                              const BenchOptions& options);

struct Spread {
  double mean = 0, deviation = 0;
};
// Mean and standard deviation of a sample (with n - 1; 0 for fewer than two values).
Spread spread(std::span<const double> values);

// What a repetition has to do at least.
double test_flops(const Config& config, const InferenceTest& test);  // see inference_flops()
// Bytes that generating has to read: for each token all weights, of which an embedding that is not the head
// only the token's row, and the keys and values of all tokens up to it. Prompts do not count: they use what
// they read many times.
double generation_bytes(const Model& model, const InferenceTest& test, size_t cache_bytes_per_token);

}  // namespace gladius
