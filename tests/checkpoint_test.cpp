#include "train/checkpoint.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/error.h"
#include "export/checksum.h"
#include "export/safetensors.h"
#include "model/params.h"
#include "tests/train_support.h"
#include "train/checkpoint_json.h"
#include "train/token_cache.h"

using namespace gladius;
using namespace gladius::test;
using nlohmann::json;

namespace {

Config small_config() {
  Config config;
  config.vocab = llama_vocab(0).size();
  config.hidden = 8, config.intermediate = 12, config.layers = 2, config.heads = 2, config.kv_heads = 1;
  config.head_dim = 4, config.context = 16;
  return config;
}

// Every value differs from every other and depends on the step.
Checkpoint sample(int64_t step = 7) {
  static const auto pool = BufferPool::make();
  Checkpoint checkpoint;
  checkpoint.config = small_config();
  checkpoint.vocab = llama_vocab(0);
  checkpoint.state.step = step;
  checkpoint.state.optimizer_steps = step;
  checkpoint.state.position = {3, 17};
  checkpoint.state.schedule = {1e-3, 1e-4, 10, 100};
  checkpoint.state.data = "data";
  checkpoint.state.options = {
      {"batch", int64_t{4}}, {"clip", 1.0}, {"model", std::string("tiny")}, {"skip", false}};
  float value = static_cast<float>(step) * 1000;
  for (auto* tensors : {&checkpoint.weights, &checkpoint.m, &checkpoint.v}) {
    for (const ParamSpec& spec : parameter_table(checkpoint.config)) {
      Tensor tensor(*pool, DType::F32, spec.shape);
      for (int64_t i = 0; i < spec.shape.elements(); ++i) tensor.f32()[i] = value += 0.25f;
      tensors->push_back(tensor);
    }
  }
  return checkpoint;
}

bool same_tensors(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) {
    return x.shape() == y.shape() && std::memcmp(x.data(), y.data(), x.bytes()) == 0;
  });
}

bool same(const Checkpoint& a, const Checkpoint& b) {
  return a.config == b.config && fingerprint(a.vocab) == fingerprint(b.vocab) && a.state == b.state &&
         a.vocab.chat_template == b.vocab.chat_template && same_tensors(a.weights, b.weights) &&
         same_tensors(a.m, b.m) && same_tensors(a.v, b.v);
}

// A checkpoint file taken apart, to be put together again with changes.
struct Parts {
  json header;
  std::string data;

  explicit Parts(const std::string& file) {
    uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    header = json::parse(file.substr(8, length));
    data = file.substr(8 + length);
  }
  json& metadata() { return header["__metadata__"]; }
  // Changes a metadata field that holds JSON.
  template <class F>
  void edit(const char* name, F&& change) {
    json value = json::parse(metadata()[name].get<std::string>());
    change(value);
    metadata()[name] = value.dump();
  }
  // Makes the metadata's checksum right again, so that what lies behind it is tested.
  void sign() {
    Checksum checksum;
    for (const auto& [name, value] : metadata().items()) {
      if (name == "gladius.checksum") continue;
      const auto text = value.get<std::string>();
      checksum.update(std::to_string(name.size()) + ":" + std::to_string(text.size()) + ":" + name + text);
    }
    metadata()["gladius.checksum"] = checksum.hex();
  }
  std::string file() const {
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
  }
};

}  // namespace

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

TEST_CASE("whatever is damaged in a checkpoint is named") {
  const TemporaryFolder folder;
  const fs::path path = checkpoint_path(folder.path(), 7);
  write_checkpoint(path, sample());
  const std::string good = read(path);
  const size_t data_start = good.size() - Parts(good).data.size();
  const auto edited = [&](const std::function<void(Parts&)>& change) {
    Parts parts(good);
    change(parts);
    return parts.file();
  };
  const auto signed_edit = [&](const char* field, const std::function<void(json&)>& change) {
    return edited([&](Parts& parts) {
      parts.edit(field, change);
      parts.sign();
    });
  };
  const auto flipped = [&](size_t at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    return bytes;
  };
  const auto swap_offsets = [&](const char* a, const char* b) {
    return edited([&](Parts& p) { std::swap(p.header[a]["data_offsets"], p.header[b]["data_offsets"]); });
  };
  CHECK(edited([](Parts& p) { p.sign(); }).size() == edited([](Parts&) {}).size());
  write(path, edited([](Parts& p) { p.sign(); }));
  CHECK(same(read_checkpoint(path), sample()));  // taking apart and signing alone does no damage

  const std::string last = "adam.v.blk.1.ffn_down.weight";
  const std::vector<std::pair<std::string, std::string>> damages = {
      // the container
      {"", ""},
      {good.substr(0, 7), ""},
      {good.substr(0, 200), ""},
      {good.substr(0, data_start), ""},
      {good.substr(0, good.size() - 1), ""},
      {good + '\0', ""},
      {std::string(good.size(), '\0'), ""},
      {"GGUF" + good.substr(4), ""},
      // tensors
      {flipped(data_start), "token_embd.weight is damaged"},
      {flipped(good.size() - 1), "is damaged"},
      {flipped(data_start + (good.size() - data_start) / 2), "is damaged"},
      {swap_offsets("blk.0.attn_k.weight", "blk.0.attn_v.weight"), "blk.0.attn_k.weight is damaged"},
      {swap_offsets("adam.m.output_norm.weight", "adam.v.output_norm.weight"),
       "adam.m.output_norm.weight is damaged"},
      {edited([](Parts& p) { p.header["output_norm.weight"]["dtype"] = "I32"; }),
       "output_norm.weight holds I32"},
      {edited([](Parts& p) { p.header["output_norm.weight"]["shape"] = {2, 4}; }),
       "output_norm.weight has the shape"},
      {edited([](Parts& p) {
         p.header["blk.9.x"] = p.header["blk.0.attn_k.weight"];
         p.header.erase("blk.0.attn_k.weight");
       }),
       "blk.0.attn_k.weight is missing"},
      {edited([](Parts& p) {
         p.header["more"] = {
             {"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {p.data.size(), p.data.size() + 4}}};
         p.data += std::string(4, '\0');
       }),
       "tensors; the configuration says"},
      // metadata
      {edited([](Parts& p) { p.header.erase("__metadata__"); }), "no checkpoint"},
      {edited([](Parts& p) { p.metadata().erase("gladius.checkpoint"); }), "no checkpoint"},
      {edited([](Parts& p) { p.metadata().erase("gladius.checksum"); }), "'gladius.checksum' is missing"},
      {edited([](Parts& p) { p.metadata().erase("gladius.state"); }), "metadata is damaged"},
      {edited([](Parts& p) { p.metadata()["note"] = "added"; }), "metadata is damaged"},
      {edited([](Parts& p) { p.edit("gladius.state", [](json& s) { s["step"] = 8; }); }),
       "metadata is damaged"},
      {edited([](Parts& p) { std::swap(p.metadata()["gladius.state"], p.metadata()["gladius.config"]); }),
       "metadata is damaged"},
      // metadata whose checksum is right: written by another program or another version
      {edited([](Parts& p) { p.metadata()["gladius.checkpoint"] = "2", p.sign(); }), "version 2"},
      {edited([](Parts& p) { p.metadata().erase("gladius.state"), p.sign(); }), "'gladius.state' is missing"},
      {edited([](Parts& p) { p.metadata()["gladius.state"] = "{", p.sign(); }), "state cannot be read"},
      {edited([](Parts& p) { p.metadata()["gladius.checksums"] = "[]", p.sign(); }),
       "checksums cannot be read"},
      {signed_edit("gladius.checksums", [](json& c) { c.erase("output.weight"); }),
       "output.weight has no checksum"},
      {signed_edit("gladius.checksums", [](json& c) { c["output.weight"] = "0"; }),
       "output.weight is damaged"},
      {signed_edit("gladius.state", [](json& s) { s.erase("seed"); }), "seed"},
      {signed_edit("gladius.state", [](json& s) { s["step"] = 1.5; }), "step is no integer"},
      {signed_edit("gladius.state", [](json& s) { s["step"] = -1; }), "below zero"},
      {signed_edit("gladius.state", [](json& s) { s["seed"] = -1; }), "seed is no count"},
      {signed_edit("gladius.state", [](json& s) { s["data"] = 1; }), "state cannot be read"},
      {signed_edit("gladius.state", [](json& s) { s["options"]["x"] = nullptr; }), "state cannot be read"},
      {signed_edit("gladius.config", [](json& c) { c["layers"] = 3; }), "blk.2.attn_norm.weight is missing"},
      {signed_edit("gladius.config", [](json& c) { c["layers"] = 1; }), "the configuration says"},
      {signed_edit("gladius.config", [](json& c) { c["intermediate"] = 16; }),
       "blk.0.ffn_gate.weight has the shape"},
      {signed_edit("gladius.config", [](json& c) { c["heads"] = 0; }), path.string()},
      {signed_edit("gladius.config", [](json& c) { c["tied"] = true; }), "the configuration says"},
      {signed_edit("gladius.config", [](json& c) { c.erase("rope_theta"); }), "rope_theta"},
      {signed_edit("gladius.config", [](json& c) { c["vocab"] = 100; }), "267 tokens, the model 100"},
      {signed_edit("gladius.tokenizer", [](json& t) { t["kind"] = "other"; }), "kind is 'other'"},
      {signed_edit("gladius.tokenizer", [](json& t) { t["scores"].erase(0); }), "266 scores"},
      {signed_edit("gladius.tokenizer", [](json& t) { t["types"][0] = 9; }), "token 0 has the type 9"},
      {signed_edit("gladius.tokenizer", [](json& t) { t["texts"][3] = "x"; }), path.string()},
      {signed_edit("gladius.tokenizer", [](json& t) { t["bos"] = 5000; }), path.string()},
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    CAPTURE(i);
    const auto& [bytes, reason] = damages[i];
    CHECK(bytes != good);
    write(path, bytes);
    const std::string message = message_of([&] { read_checkpoint(path); });
    CAPTURE(message);
    CHECK(contains(message, path.string()));
    CHECK(contains(message, reason));
  }
  // Any bit of the data, and any byte of the header: an Error, or the same checkpoint (white space between
  // JSON tokens).
  std::mt19937 random(2);
  for (int i = 0; i < 600; ++i) {
    std::string bytes = good;
    const size_t at = i % 2 ? random() % data_start : random() % bytes.size();
    bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ (1 + random() % 255));
    write(path, bytes);
    bool unchanged = false;
    const std::string message = message_of([&] { unchanged = same(read_checkpoint(path), sample()); });
    CAPTURE(at);
    CHECK((unchanged ? at < data_start : contains(message, path.string())));
  }
  write(path, good);
  CHECK(same(read_checkpoint(path), sample()));
  CHECK(contains(message_of([&] { read_checkpoint(folder / "none.safetensors"); }), "none.safetensors"));
}

TEST_CASE("a checkpoint cut anywhere, or with any byte of a tensor changed, gives an error") {
  const TemporaryFolder folder;
  const fs::path path = checkpoint_path(folder.path(), 7);
  write_checkpoint(path, sample());
  const std::string good = read(path);
  std::mt19937 random(5);
  for (int i = 0; i < 100; ++i) {
    write(path, good.substr(0, random() % good.size()));
    CHECK(contains(message_of([&] { read_checkpoint(path); }), path.string()));
  }
  const size_t data_start = good.size() - Parts(good).data.size();
  for (int i = 0; i < 100; ++i) {
    std::string bytes = good;
    char& byte = bytes[data_start + random() % (good.size() - data_start)];
    byte = static_cast<char>(byte ^ (1 << random() % 8));
    write(path, bytes);
    CHECK(contains(message_of([&] { read_checkpoint(path); }), path.string()));
  }
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
