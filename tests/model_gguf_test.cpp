// Models in GGUF files: what is written comes back, and what is not supported is refused by name.
#include <doctest/doctest.h>

#include <array>
#include <functional>

#include "export/gguf.h"
#include "export/model_gguf.h"
#include "tests/export_support.h"

using namespace gladius;
using test::check_equal;
using test::contains;
using test::Fixture;
using test::kSeed;
using test::largest_relative_difference;
using test::message_of;
using test::small_config;

TEST_CASE("GGUF: a model comes back; direct export equals quantising the F32 file") {
  Fixture f;
  for (const bool tied : {false, true}) {
    f.model = new_model(small_config(f.vocab, tied), kSeed, *f.pool);
    const Provenance provenance = {{"training", "lr=1e-3"}};
    save_gguf(f.folder / "f32.gguf", f.model, f.vocab, provenance, {.type = FileType::F32}, *f.backend);
    const LoadedModel viewed = load_gguf(f.folder / "f32.gguf");
    CHECK(viewed.model.config == f.model.config);
    check_equal(viewed.vocab, f.vocab);
    CHECK(largest_relative_difference(f.model, viewed.model) == 0);
    CHECK(largest_relative_difference(f.model,
                                      load_gguf_f32(f.folder / "f32.gguf", *f.backend, *f.pool).model) == 0);
    for (const FileType type : {FileType::Q8_0, FileType::Q4_K_M, FileType::F16}) {
      save_gguf(f.folder / "direct.gguf", f.model, f.vocab, provenance, {.type = type}, *f.backend);
      quantize_file(f.folder / "f32.gguf", f.folder / "quantised.gguf", {.type = type}, *f.backend);
      CHECK(test::read(f.folder / "direct.gguf") == test::read(f.folder / "quantised.gguf"));
      CHECK(load_gguf(f.folder / "direct.gguf").model.config == f.model.config);
    }
    const GgufFile file = GgufFile::open(f.folder / "f32.gguf");
    CHECK(std::get<std::string>(*file.metadata().find("gladius.training")) == "lr=1e-3");
    CHECK(file.metadata().find("gladius.version") != nullptr);
    CHECK(file.metadata().entries()[0].first == "general.architecture");
  }
}

// F16 by few rows is only summed in another order, which tests of products bound.
TEST_CASE("GGUF: weights re-laid for products give the bits of those in the file") {
  Fixture f;
  f.backend = make_cpu_backend(2);
  const bool relaid = f.backend->panels_bytes(DType::Q8_0, 1, 32) > 0;  // not by the reference
  const auto scores = [&](const Model& model, int64_t T) {
    Context ctx{*f.backend, *f.pool};
    TokenBatch batch = make_token_batch(1, T, *f.pool);
    for (int64_t t = 0; t < T; ++t) batch.tokens.i32()[t] = static_cast<int32_t>(t * 7 % model.config.vocab);
    const RopeTable table = make_rope_table(model.config, T, *f.pool);
    const Tensor z = logits(ctx, model, forward(ctx, model, table, batch));
    return std::vector<float>(z.f32(), z.f32() + z.shape().elements());
  };
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    f.model = new_model(small_config(f.vocab, tied), kSeed, *f.pool);
    for (const FileType type : {FileType::Q8_0, FileType::Q4_K_M, FileType::F16}) {
      save_gguf(f.folder / "x.gguf", f.model, f.vocab, {}, {.type = type}, *f.backend);
      const Model rows = load_gguf(f.folder / "x.gguf").model;
      Model panels = load_gguf_panels(f.folder / "x.gguf", *f.backend, *f.pool).model;
      CHECK(!panels.embedding().panels());
      CHECK(panels.head().panels() == relaid);
      CHECK(panels.layer(0).q.panels() == relaid);
      const auto same = [&](int64_t T) {
        if (T > 8 || type != FileType::F16) CHECK(scores(rows, T) == scores(panels, T));
      };
      for (const int64_t T : {1, 3, 9}) same(T);
      if (!panels.head().panels()) continue;
      const Tensor& head = panels.head();
      CHECK_THROWS_AS((void)head.data(), Error);
      CHECK_THROWS_AS((void)head.slice(0, 1), Error);
      CHECK_THROWS_AS((void)head.reshaped({head.shape().elements()}), Error);
      use_panels(panels, *f.backend, *f.pool);  // a second time changes nothing
      for (const int64_t T : {3, 9}) same(T);
    }
  }
}

TEST_CASE("a GGUF model from other hands: what is not supported is refused by name") {
  Fixture f;
  save_gguf(f.folder / "x.gguf", f.model, f.vocab, {}, {.type = FileType::F32}, *f.backend);
  struct Change {
    const char* what;
    std::function<void(GgufMetadata&, std::vector<GgufTensor>&)> apply;
  };
  const auto set = [](const char* key, GgufValue value) {
    return [=](GgufMetadata& m, std::vector<GgufTensor>&) { m.set(key, value); };
  };
  const auto erase = [](const char* key) {
    return [=](GgufMetadata& m, std::vector<GgufTensor>&) { m.erase(key); };
  };
  const std::array<uint32_t, 2> same = {4, 4}, different = {4, 2};
  const std::vector<Change> changes = {
      {"", set("unknown.key", true)},
      {"", set("llama.attention.head_count", GgufArray::of(std::span<const uint32_t>(same)))},
      {"differs between layers",
       set("llama.attention.head_count", GgufArray::of(std::span<const uint32_t>(different)))},
      {"architecture 'gpt2'", set("general.architecture", std::string("gpt2"))},
      {"'general.architecture' is missing", erase("general.architecture")},
      {"'llama.block_count' is missing", erase("llama.block_count")},
      {"has type UINT64, but must be UINT32", set("llama.block_count", uint64_t{2})},
      {"claims 1000000 layers", set("llama.block_count", uint32_t{1'000'000})},
      {"'blk.2.attn_norm.weight' is missing", set("llama.block_count", uint32_t{3})},
      {"'blk.1.", set("llama.block_count", uint32_t{1})},
      {"ask for [96, 32]", nullptr},
      {"RoPE scaling 'yarn'", set("llama.rope.scaling.type", std::string("yarn"))},
      {"llama.rope.scaling.factor", set("llama.rope.scaling.factor", 4.0f)},
      {"experts", set("llama.expert_count", uint32_t{8})},
      {"causal", set("llama.attention.causal", false)},
      {"'llama.rope.dimension_count' is 8", set("llama.rope.dimension_count", uint32_t{8})},
      {"heads are 15 wide", set("llama.attention.key_length", uint32_t{15})},
      {"evenly", set("llama.attention.head_count_kv", uint32_t{3})},
      {"number of heads is 0", set("llama.attention.head_count", uint32_t{0})},
      {"epsilon", set("llama.attention.layer_norm_rms_epsilon", 0.0f)},
      {"theta", set("llama.rope.freq_base", -1.0f)},
      {"tokenizer 'bert'", set("tokenizer.ggml.model", std::string("bert"))},
      {"has no vocabulary", erase("tokenizer.ggml.tokens")},
      {"'tokenizer.ggml.scores' is missing", erase("tokenizer.ggml.scores")},
      {"has 1 elements for",
       set("tokenizer.ggml.scores", GgufArray::of(std::span<const float>(std::array{1.0f})))},
      {"is an array of", set("tokenizer.ggml.tokens", GgufArray::of(std::span<const uint32_t>(same)))},
      {"but there are only", set("tokenizer.ggml.bos_token_id", uint32_t{1'000'000})},
      {"has type BOOL", set("tokenizer.ggml.eos_token_id", true)},
      {"is a bias", [](GgufMetadata&, std::vector<GgufTensor>& t) { t[5].name = "blk.0.attn_q.bias"; }},
      {"is not part of", [](GgufMetadata&, std::vector<GgufTensor>& t) { t[5].name = "blk.0.what.weight"; }},
  };
  for (const Change& change : changes) {
    const GgufFile file = GgufFile::open(f.folder / "x.gguf");
    GgufMetadata metadata = file.metadata();
    std::vector<GgufTensor> records = file.tensors();
    std::vector<std::string> sources;
    for (const GgufTensor& record : records) sources.push_back(record.name);
    if (change.apply)
      change.apply(metadata, records);
    else
      metadata.set("llama.feed_forward_length", uint32_t{96});
    if (contains(change.what, "bias") || contains(change.what, "part of")) {  // added beside the others
      records.push_back(records[5]);
      records[5] = file.tensors()[5];
      sources.push_back(sources[5]);
    }
    GgufWriter writer(f.folder / "changed.gguf", metadata, records);
    for (const std::string& source : sources) writer.append(file.data(*file.find(source)));
    writer.finish();
    const std::string message = message_of([&] { load_gguf(f.folder / "changed.gguf"); });
    const std::string what = change.what;
    CAPTURE(what);
    CAPTURE(message);
    CHECK(message.empty() == (change.what[0] == '\0'));
    CHECK((message.empty() || contains(message, "changed.gguf")));
    CHECK(contains(message, change.what));
  }
}

TEST_CASE("end of generation: eos, and the texts that llama.cpp knows") {
  Fixture f;
  f.vocab = test::gpt2_vocab("smollm");
  f.vocab.tokens.push_back({"<|im_end|>", 0, TokenType::control});
  f.vocab.tokens.push_back({"<|eot_id|>", 0, TokenType::control});
  f.vocab.tokens.push_back({"<|im_start|>", 0, TokenType::control});
  f.model = new_model(small_config(f.vocab), kSeed, *f.pool);
  save_gguf(f.folder / "x.gguf", f.model, f.vocab, {}, {.type = FileType::F32}, *f.backend);
  const int32_t n = f.vocab.size();
  CHECK(load_gguf(f.folder / "x.gguf").vocab.end_of_generation ==
        std::vector<int32_t>{*f.vocab.eos, n - 3, n - 2});
  f.save();
  CHECK(f.load().vocab.end_of_generation == std::vector<int32_t>{*f.vocab.eos, n - 3, n - 2});
}
