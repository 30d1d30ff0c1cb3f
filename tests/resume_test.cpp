// A run that is killed again and again and resumed ends in the same bytes as one that never stopped; so does
// a run on another number of threads.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "tests/process.h"
#include "train/checkpoint.h"

namespace gladius::test {
namespace {

constexpr int kSteps = 20;

// A text of words in a fixed pseudo-random order, enough for 20 steps and a validation split.
std::string sample_text() {
  const char* words[] = {"the", "king",  "speaks", "and",   "no", "man", "answers",
                         "him", "today", "night",  "falls", "on", "Rome"};
  std::mt19937 random(7);
  std::string text;
  for (int i = 0; i < 4000; ++i) text += std::string(words[random() % 13]) + (i % 11 == 10 ? ".\n" : " ");
  return text;
}

const char* const kConfig =
    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320,
  "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "tie_word_embeddings": false})";

class Runs {
 public:
  Runs() {
    write(folder_.path() / "text.txt", sample_text());
    write(folder_.path() / "config.json", kConfig);
    const Outcome made =
        run({"tokenizer", "train", path("text.txt"), "--vocab", "320", "--out", path("tokenizer.gguf")});
    REQUIRE_MESSAGE(made.code == 0, made.err);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  std::vector<std::string> arguments(const std::string& out, int threads,
                                     const std::vector<std::string>& more = {}) const {
    return with(
        with(training_arguments(folder_.path(), out),
             {"--steps", std::to_string(kSteps), "--batch", "2", "--context", "32", "--accum", "2",
              "--save-every", "1", "--threads", std::to_string(threads), "--validation-windows", "4"}),
        more);
  }

  std::string checkpoint(const std::string& out) const {
    return read(folder_.path() / out / "step-00000020.safetensors");
  }

  // Step and loss of every line of metrics.jsonl: training losses, and validation losses as negative steps.
  std::vector<std::pair<int, double>> losses(const std::string& out) const {
    std::vector<std::pair<int, double>> result;
    std::ifstream in(folder_.path() / out / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains("loss")) result.emplace_back(json["step"].get<int>(), json["loss"].get<double>());
      if (json.contains("validation_loss"))
        result.emplace_back(-json["step"].get<int>(), json["validation_loss"].get<double>());
    }
    return result;
  }

 private:
  TemporaryFolder folder_;
};

TEST_CASE("killed and resumed runs, and other numbers of threads, give the same bytes") {
  const Runs runs;
  const Outcome straight = run(runs.arguments("straight", 1));
  REQUIRE_MESSAGE(straight.code == 0, straight.err);
  const std::string expected = runs.checkpoint("straight");
  const auto expected_losses = runs.losses("straight");
  REQUIRE(expected.size() > 100000);
  REQUIRE(expected_losses.size() == 2 * kSteps);
  REQUIRE(expected_losses.front().second > expected_losses[2 * kSteps - 2].second);  // it learns

  SUBCASE("threads") {
    for (const int threads : {2, 4}) {
      const std::string out = "threads" + std::to_string(threads);
      const Outcome outcome = run(runs.arguments(out, threads));
      REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
      CHECK(runs.checkpoint(out) == expected);
      CHECK(runs.losses(out) == expected_losses);
    }
  }

  SUBCASE("at least 20 kills") {
    std::mt19937 random(11);
    int kills = 0, kills_after_saves = 0, finished = 0;
    for (int attempt = 0; kills < 20; ++attempt) {
      REQUIRE(attempt < 400);
      const std::string out = "killed" + std::to_string(finished);
      const auto moment = std::chrono::milliseconds(10 + static_cast<int>(random() % 150));
      // every second kill falls after the first save, however slow the program is built
      const Moment when =
          kills % 2 == 0 ? after(moment) : after_first(has_checkpoints, runs.path(out), moment / 4);
      const Outcome outcome = run(runs.arguments(out, 2, {"--resume"}), when);
      if (outcome.signal == SIGKILL) {
        ++kills;
        kills_after_saves += has_checkpoints(runs.path(out));
        continue;
      }
      REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
      CHECK(runs.checkpoint(out) == expected);
      CHECK(runs.losses(out) == expected_losses);
      ++finished;
    }
    CHECK(kills_after_saves >= 5);
    const std::string out = "killed" + std::to_string(finished);  // the last run's end
    const Outcome outcome = run(runs.arguments(out, 2, {"--resume"}));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(runs.checkpoint(out) == expected);
    CHECK(runs.losses(out) == expected_losses);
  }

  SUBCASE("Ctrl-C saves") {
    for (const int signal : {SIGINT, SIGTERM}) {
      const std::string out = "interrupted" + std::to_string(signal);
      Outcome outcome = run(runs.arguments(out, 1), once_exists(runs.path(out + "/metrics.jsonl")), signal);
      CHECK(outcome.code == 130);
      CHECK(outcome.err.find("--resume") != std::string::npos);
      outcome = run(runs.arguments(out, 1, {"--resume"}));
      REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
      CHECK(runs.checkpoint(out) == expected);
      CHECK(runs.losses(out) == expected_losses);
    }
  }

  SUBCASE("a run in bf16 stays in bf16, whatever would be faster") {
    Outcome outcome = run(runs.arguments("bf16", 1, {"--precision", "bf16"}));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(runs.checkpoint("bf16") != expected);
    // Rounding every factor to 8 bits moves each product by at most 2^-8 of it: the loss stays near.
    for (size_t i = 0; i < expected_losses.size(); ++i)
      CHECK(std::fabs(runs.losses("bf16")[i].second - expected_losses[i].second) <
            0x1p-8 * 2 * expected_losses[i].second);
    outcome = run(runs.arguments("bf16-stopped", 1, {"--precision", "bf16"}),
                  once_exists(runs.path("bf16-stopped/metrics.jsonl")), SIGINT);
    CHECK(outcome.code == 130);
    outcome = run(runs.arguments("bf16-stopped", 2, {"--resume", "--precision", "auto"}));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(runs.checkpoint("bf16-stopped") == runs.checkpoint("bf16"));
    outcome = run(runs.arguments("bf16", 1, {"--resume"}));
    CHECK(outcome.code == 1);
    CHECK(outcome.err.find("--precision was bf16, now fp32") != std::string::npos);
  }

  SUBCASE("changed options are named and need a flag") {
    Outcome outcome = run(runs.arguments("straight", 1, {"--resume", "--lr", "0.5"}));
    CHECK(outcome.code == 1);
    CHECK(outcome.err.find("0.5") != std::string::npos);
    CHECK(outcome.err.find("--allow-changes") != std::string::npos);
    outcome = run(runs.arguments("straight", 1));
    CHECK(outcome.code == 1);
    CHECK(outcome.err.find("--resume") != std::string::npos);
  }
}

}  // namespace
}  // namespace gladius::test
