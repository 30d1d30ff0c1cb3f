#include "train/checkpoint.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <functional>
#include <limits>
#include <thread>

#include "tests/checkpoint_support.h"
#include "train/checkpoint_json.h"

using namespace gladius;
using namespace gladius::test;

TEST_CASE("a checkpoint comes back as it was written, to the bit") {
  const TemporaryFolder folder;
  Checkpoint written = sample();
  written.config.name = "näme \"quoted\"";
  written.config.norm_eps = std::nextafter(1e-5f, 1.0f);
  written.config.rope_scaling = RopeScaling{8.0f, 1.0f, 4.0f, 8192};
  written.config.rope_divisors = {1.0f, 1.0f / 3.0f};
  written.vocab.chat_template = "{{ bos_token }}\n";
  written.vocab.tokens[260].score = -1.0f / 3.0f;
  written.state.seed = std::numeric_limits<uint64_t>::max();
  written.state.position = {std::numeric_limits<uint64_t>::max(), uint64_t{1} << 63};
  written.state.tokens_seen = std::numeric_limits<int64_t>::max();
  written.state.best_step = 5;
  written.state.validated_step = 5;
  written.state.best_validation_loss = std::nextafter(1.6, 0.0);
  written.state.schedule = {0.1, std::numeric_limits<double>::denorm_min(), 10, 100};
  written.state.options["lr"] = 1.0 / 3.0;
  written.state.options["whole"] = 3.0;  // stays a double
  written.state.options["low"] = std::numeric_limits<int64_t>::min();
  written.m[0].f32()[0] = -0.0f;
  written.m[0].f32()[1] = std::numeric_limits<float>::denorm_min();
  const fs::path path = checkpoint_path(folder.path(), 7);
  CHECK(path.filename() == "step-00000007.safetensors");
  write_checkpoint(path, written);
  const Checkpoint loaded = read_checkpoint(path);
  CHECK(same(loaded, written));
  CHECK(std::get<double>(loaded.state.options.at("whole")) == 3.0);
  const std::string bytes = read(path);
  write_checkpoint(path, loaded);  // over the file that its tensors view
  CHECK(read(path) == bytes);
  CHECK(same(loaded, written));
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step-00000007.safetensors"});

  Checkpoint gpt2 = sample();
  gpt2.vocab = gpt2_vocab("smollm");
  gpt2.config.vocab = gpt2.vocab.size();
  gpt2.config.tied = true;
  gpt2.weights.clear();
  for (const ParamSpec& spec : parameter_table(gpt2.config)) {
    static const auto pool = BufferPool::make();
    gpt2.weights.emplace_back(*pool, DType::F32, spec.shape);
    std::memset(gpt2.weights.back().data(), 0, gpt2.weights.back().bytes());
  }
  gpt2.m = gpt2.v = gpt2.weights;
  write_checkpoint(path, gpt2);
  CHECK(same(read_checkpoint(path), gpt2));
}

TEST_CASE("random numbers of every magnitude survive the state's JSON") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    TrainState state;
    const uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, 8);
    if (!std::isfinite(value)) continue;
    state.seed = random();
    state.options["x"] = value;
    state.best_validation_loss = value;
    REQUIRE(state_from_json(state_to_json(state), "test") == state);
  }
  TrainState state;
  state.options["clip"] = std::numeric_limits<double>::infinity();
  CHECK(contains(message_of([&] { state_to_json(state); }), "clip = inf"));
}

TEST_CASE("a checkpoint whose tensors do not fit its configuration is not written") {
  const TemporaryFolder folder;
  const fs::path path = checkpoint_path(folder.path(), 7);
  const auto refused = [&](const std::function<void(Checkpoint&)>& change) {
    Checkpoint checkpoint = sample();
    change(checkpoint);
    return message_of([&] { write_checkpoint(path, checkpoint); });
  };
  CHECK(contains(refused([](Checkpoint& c) { c.weights.pop_back(); }), "parameters"));
  CHECK(contains(refused([](Checkpoint& c) { c.m.clear(); }), "adam.m."));
  CHECK(contains(refused([](Checkpoint& c) { std::swap(c.v[0], c.v[1]); }),
                 "adam.v.token_embd.weight is F32 [8]"));
  CHECK(contains(refused([](Checkpoint& c) { c.state.schedule.peak = std::nan(""); }), "learning_rate"));
  CHECK(contains(refused([](Checkpoint& c) { c.vocab.tokens[260].text = "\xFF"; }), "tokenizer"));
  CHECK(names_in(folder.path()).empty());
  CHECK(contains(message_of([&] { write_checkpoint(folder / "none/x.safetensors", sample()); }), "none"));
}

TEST_CASE("a full disk leaves the last checkpoint and nothing half-written") {
  const TemporaryFolder folder;
  const fs::path path = checkpoint_path(folder.path(), 7);
  write_checkpoint(path, sample());
  const std::string good = read(path);
  for (const size_t room : {size_t{0}, size_t{4096}, good.size() - 1}) {
    const FileSizeLimit limit(room);
    const std::string message = message_of([&] { write_checkpoint(path, sample(8)); });
    CHECK(contains(message, path.string()));
    CHECK(read(path) == good);
    CHECK(names_in(folder.path()).size() == 1);
  }
}

TEST_CASE("a process killed while it saves leaves a checkpoint that loads") {
  const TemporaryFolder folder;
  std::mt19937 random(4);
  int64_t step = 1, beyond = 0;
  write_checkpoint(checkpoint_path(folder.path(), step), sample(step));
  int half_written = 0;
  for (int kill = 0; kill < 60; ++kill) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (int64_t s = step + 1;; ++s) {
        Checkpoint checkpoint = sample(s);
        checkpoint.state.best_step = s / 5 * 5;
        write_checkpoint(checkpoint_path(folder.path(), s), checkpoint);
        prune_checkpoints(folder.path(), checkpoint.state, 2);
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(1000 + random() % 30000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    for (const std::string& name : names_in(folder.path())) half_written += contains(name, ".tmp");
    std::vector<std::string> warnings;
    const auto found = find_newest_checkpoint(folder.path(), warnings);
    REQUIRE(found);
    CHECK(warnings.empty());
    CHECK(found->checkpoint.state.step >= step);
    beyond += found->checkpoint.state.step > step;
    step = found->checkpoint.state.step;
    CHECK(found->path == checkpoint_path(folder.path(), step));
    CHECK(same_tensors(found->checkpoint.weights, sample(step).weights));
    CHECK(same_tensors(found->checkpoint.v, sample(step).v));
  }
  MESSAGE("saves went on after ", beyond, " of 60 kills; ", half_written, " half-written files were left");
  CHECK(beyond > 0);
  prune_checkpoints(folder.path(), sample(step).state, 2);
  for (const std::string& name : names_in(folder.path())) CHECK(!contains(name, ".tmp"));
}

TEST_CASE("the newest checkpoint that loads is found, past damaged and foreign files") {
  const TemporaryFolder folder;
  std::vector<std::string> warnings;
  CHECK(!find_newest_checkpoint(folder / "none", warnings));
  CHECK(!find_newest_checkpoint(folder.path(), warnings));
  for (const int64_t step : {5, 20, 100, 123456789}) {
    write_checkpoint(checkpoint_path(folder.path(), step), sample(step));
  }
  CHECK(find_newest_checkpoint(folder.path(), warnings)->checkpoint.state.step == 123456789);
  CHECK(warnings.empty());
  write(checkpoint_path(folder.path(), 123456789), "damaged");
  const std::string bytes = read(checkpoint_path(folder.path(), 100));
  write(checkpoint_path(folder.path(), 100), bytes.substr(0, bytes.size() / 2));
  write(folder / "step-00000999.safetensors.tmp123", bytes);
  write(folder / "step-999.safetensors", bytes);
  write(folder / "step-0000099x.safetensors", bytes);
  write(folder / "step-.safetensors", bytes);
  write(folder / "model.safetensors", bytes);
  const auto found = find_newest_checkpoint(folder.path(), warnings);
  REQUIRE(found);
  CHECK(found->checkpoint.state.step == 20);
  CHECK(found->path == checkpoint_path(folder.path(), 20));
  REQUIRE(warnings.size() == 2);
  CHECK(contains(warnings[0], "step-123456789.safetensors"));
  CHECK(contains(warnings[1], "step-00000100.safetensors"));
}

TEST_CASE("the last checkpoints and the best stay, nothing else of the run") {
  const TemporaryFolder folder;
  const auto touch = [&](const std::string& name) { write(folder / name, "x"); };
  const auto fill = [&] {
    for (const int64_t step : {10, 20, 30, 40, 50, 60}) touch(checkpoint_path("", step).string());
  };
  const auto name = [](int64_t step) { return checkpoint_path("", step).string(); };
  fill();
  touch("step-00000070.safetensors.tmp99");
  touch("metrics.jsonl");
  touch("model.safetensors");
  touch("notes.safetensors.tmp1");
  TrainState state;
  state.step = 60;
  state.best_step = 20;
  prune_checkpoints(folder.path(), state, 2);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"metrics.jsonl", "model.safetensors",
                                                            "notes.safetensors.tmp1", name(20), name(50),
                                                            name(60)});
  fill();
  state.step = 40;  // those beyond belong to somebody else's future
  state.best_step = -1;
  prune_checkpoints(folder.path(), state, 1);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"metrics.jsonl", "model.safetensors",
                                                            "notes.safetensors.tmp1", name(40), name(50),
                                                            name(60)});
  remove_checkpoints_after(folder.path(), 50);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"metrics.jsonl", "model.safetensors",
                                                            "notes.safetensors.tmp1", name(40), name(50)});
}

TEST_CASE("a changed invocation is told line by line") {
  const Checkpoint saved = sample();
  CHECK(differences(saved, saved.config, saved.vocab, saved.state).empty());
  TrainState later = saved.state;  // what a run does by itself is no difference
  later.step = 0;
  later.position = {};
  later.tokens_seen = 5;
  later.best_validation_loss = 1.0;
  CHECK(differences(saved, saved.config, saved.vocab, later).empty());

  const auto with_state = [&](const std::function<void(TrainState&)>& change) {
    TrainState state = saved.state;
    change(state);
    return differences(saved, saved.config, saved.vocab, state);
  };
  using Lines = std::vector<std::string>;
  CHECK(with_state([](TrainState& s) { s.schedule.peak = 2e-3; }) == Lines{"--lr was 0.001, now 0.002"});
  CHECK(with_state([](TrainState& s) { s.schedule.total_steps = 200; }) ==
        Lines{"the number of steps was 100, now 200"});
  CHECK(with_state([](TrainState& s) { s.options["batch"] = int64_t{8}; }) == Lines{"--batch was 4, now 8"});
  CHECK(with_state([](TrainState& s) { s.options["clip"] = 0.5; }) == Lines{"--clip was 1, now 0.5"});
  CHECK(with_state([](TrainState& s) { s.options["precision"] = std::string("fp32"); }).empty());
  CHECK(with_state([](TrainState& s) { s.options["precision"] = std::string("bf16"); }) ==
        Lines{"--precision was fp32, now bf16"});
  CHECK(with_state([](TrainState& s) { s.options["skip"] = true; }) == Lines{"--skip was false, now true"});
  CHECK(with_state([](TrainState& s) { s.options.erase("model"); }) ==
        Lines{"--model was tiny, now it is not given"});
  CHECK(with_state([](TrainState& s) { s.options["new"] = int64_t{1}; }) ==
        Lines{"--new was not given, now 1"});
  CHECK(with_state([](TrainState& s) { s.seed = 3; }) == Lines{"--seed was 0, now 3"});
  CHECK(with_state([](TrainState& s) { s.data = "other"; }) ==
        Lines{"the training data was data, now other"});

  Config config = saved.config;
  config.layers = 3;
  CHECK(differences(saved, config, saved.vocab, saved.state) ==
        Lines{"the model's number of layers was 2, now 3"});
  config = saved.config;
  config.rope_divisors = {2, 2};
  CHECK(differences(saved, config, saved.vocab, saved.state) == Lines{"the model's RoPE scaling changed"});
  Vocab vocab = saved.vocab;
  vocab.tokens[265].score = -5;
  CHECK(differences(saved, saved.config, vocab, saved.state) ==
        Lines{"the tokenizer's 267 tokens or its settings changed"});
  vocab.tokens.pop_back();
  CHECK(differences(saved, saved.config, vocab, saved.state) ==
        Lines{"the tokenizer had 267 tokens, now 266"});
}
