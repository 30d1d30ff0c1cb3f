// Hugging Face folders: what is written comes back, rows are permuted as transformers rotates them, tokenizer
// files agree with each other, and damaged or unsupported folders are refused by name.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "export/gguf.h"
#include "export/hf.h"
#include "export/inspect.h"
#include "export/model_gguf.h"
#include "export/safetensors.h"
#include "export/sentencepiece_model.h"
#include "export/tokenizer_json.h"
#include "tests/export_support.h"

using namespace gladius;
using nlohmann::json;
using test::check_equal;
using test::contains;
using test::Fixture;
using test::kSeed;
using test::largest_relative_difference;
using test::message_of;
using test::small_config;
using test::TemporaryFolder;

namespace {

json read_json(const std::filesystem::path& path) { return json::parse(test::read(path)); }

void edit_json(const std::filesystem::path& path, const std::function<void(json&)>& edit) {
  json value = read_json(path);
  edit(value);
  test::write(path, value.dump());
}

}  // namespace

TEST_CASE("a folder comes back as it was written") {
  for (const bool tied : {false, true}) {
    Fixture f;
    f.vocab.add_eos = true;
    f.vocab.chat_template = "{{ messages }}\n";
    f.model = new_model(small_config(f.vocab, tied), kSeed, *f.pool);
    f.save();
    const LoadedModel loaded = f.load();
    Config expected = f.model.config;
    expected.name = "model";  // the folder's
    CHECK(loaded.model.config == expected);
    CHECK(largest_relative_difference(f.model, loaded.model) == 0);
    check_equal(loaded.vocab, f.vocab);
  }
}

TEST_CASE("16-bit weights round to nearest") {
  Fixture f;
  // Half a unit in the last place: 2^-8 for BF16's 8 significant bits, 2^-11 for F16's 11, down to its
  // smallest normal number, 2^-14.
  f.save(DType::BF16);
  CHECK(largest_relative_difference(f.model, f.load().model) <= std::ldexp(1.0, -8));
  CHECK(SafetensorsFile::open(f.hf() / "model.safetensors").tensors()[0].dtype == "BF16");
  CHECK(read_json(f.hf() / "config.json")["torch_dtype"] == "bfloat16");
  for (Tensor& weight : f.model.weights) {
    for (int64_t i = 0; i < weight.shape().elements(); ++i) {
      if (std::fabs(weight.f32()[i]) < std::ldexp(1.0f, -14)) weight.f32()[i] = 0.5f;
    }
  }
  f.save(DType::F16);
  CHECK(largest_relative_difference(f.model, f.load().model) <= std::ldexp(1.0, -11));
}

TEST_CASE("query and key rows are in the order of rotated halves") {
  Fixture f;
  f.save();
  const SafetensorsFile file = SafetensorsFile::open(f.hf() / "model.safetensors");
  const int64_t D = f.model.config.head_dim, C = f.model.config.hidden;
  for (const ParamSpec& spec : f.model.specs) {
    const size_t i = static_cast<size_t>(&spec - f.model.specs.data());
    const Tensor stored = file.tensor(*file.find(spec.hf_name));
    const int64_t rows = spec.shape.rows(), columns = spec.shape[-1];
    for (int64_t row = 0; row < rows; ++row) {
      // Row g of a head rotates with row g^1 at frequency g/2; transformers pairs r with r + D/2 at frequency
      // r.
      const int64_t g = row % D;
      const int64_t hf_row = spec.hf_order == RowOrder::same ? row : row - g + g / 2 + (g % 2) * (D / 2);
      CHECK(std::memcmp(stored.f32() + hf_row * columns, f.model.weights[i].f32() + row * columns,
                        static_cast<size_t>(columns) * 4) == 0);
    }
    const bool rotated = contains(spec.hf_name, "q_proj") || contains(spec.hf_name, "k_proj");
    CHECK((spec.hf_order != RowOrder::same) == rotated);
  }
  CHECK(file.find("model.layers.0.self_attn.q_proj.weight")->shape == std::vector<int64_t>{4 * D, C});
}

TEST_CASE("same input, same bytes; provenance is recorded") {
  Fixture f;
  const HfOptions options{DType::F32, {{"training", "lr=1e-3"}, {"general.license", "CC0-1.0"}}};
  save_hf(f.folder / "a", f.model, f.vocab, options, *f.backend);
  save_hf(f.folder / "b", f.model, f.vocab, options, *f.backend);
  save_hf(f.folder / "b", f.model, f.vocab, options, *f.backend);  // over the files that are there
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(f.folder / "a")) {
    CHECK(test::read(entry.path()) == test::read(f.folder / "b" / entry.path().filename()));
    ++files;
  }
  CHECK(files == 6);
  CHECK(std::distance(std::filesystem::directory_iterator(f.folder / "b"), {}) == 6);
  const SafetensorsFile weights = SafetensorsFile::open(f.folder / "a/model.safetensors");
  const SafetensorsMetadata& metadata = weights.metadata();
  CHECK(metadata.at("format") == "pt");
  CHECK(metadata.at("gladius.training") == "lr=1e-3");
  CHECK(metadata.at("general.license") == "CC0-1.0");
  CHECK(metadata.contains("gladius.version"));
}

TEST_CASE("tokenizer.json alone gives a vocabulary that merges in the same order") {
  Fixture f;
  f.save();
  std::filesystem::remove(f.hf() / "tokenizer.model");
  const Vocab vocab = read_hf_vocab(f.hf());
  REQUIRE(vocab.size() == f.vocab.size());
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    CHECK(vocab.tokens[i].text == f.vocab.tokens[i].text);
    CHECK(vocab.tokens[i].type == f.vocab.tokens[i].type);
  }
  // Of two pieces that merges can build, the same one has the higher score.
  const auto mergeable = [&](size_t i) {
    return f.vocab.tokens[i].type == TokenType::normal && f.vocab.tokens[i].score > -1000;
  };
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      if (!mergeable(i) || !mergeable(k)) continue;
      CHECK((vocab.tokens[i].score > vocab.tokens[k].score) ==
            (f.vocab.tokens[i].score > f.vocab.tokens[k].score));
    }
  }
  CHECK(vocab.bos == 1);
  CHECK(vocab.add_bos);
  CHECK(vocab.add_space_prefix);
}

TEST_CASE("without a space prefix") {
  Fixture f;
  f.vocab.add_space_prefix = false;
  f.vocab.add_bos = false;
  f.save();
  check_equal(f.load().vocab, f.vocab);
  std::filesystem::remove(f.hf() / "tokenizer.model");
  CHECK(!read_hf_vocab(f.hf()).add_space_prefix);
  CHECK(!read_hf_vocab(f.hf()).add_bos);
  const json tokenizer = read_json(f.hf() / "tokenizer.json");
  CHECK(tokenizer["normalizer"]["type"] == "Replace");
  CHECK(!contains(tokenizer["decoder"].dump(), "Strip"));
}

TEST_CASE("every byte-level pre-tokenizer comes back by its name") {
  for (const char* pre : {"gpt-2", "llama-bpe", "smollm", "qwen2"}) {
    Fixture f;
    f.vocab = test::gpt2_vocab(pre);
    f.vocab.add_bos = std::string_view(pre) == "llama-bpe";
    f.model = new_model(small_config(f.vocab), kSeed, *f.pool);
    f.save();
    CHECK(!std::filesystem::exists(f.hf() / "tokenizer.model"));
    check_equal(f.load().vocab, f.vocab);
    const json tokenizer = read_json(f.hf() / "tokenizer.json");
    CHECK(tokenizer["model"]["ignore_merges"] == (std::string_view(pre) == "llama-bpe"));
  }
}

TEST_CASE("a vocabulary smaller than the model is filled with unused tokens") {
  Fixture f;
  f.save();
  const Vocab padded = read_hf_vocab(f.hf(), f.vocab.size() + 3);
  CHECK(padded.size() == f.vocab.size() + 3);
  CHECK(padded.tokens.back().type == TokenType::unused);
  CHECK(contains(message_of([&] { read_hf_vocab(f.hf(), f.vocab.size() - 1); }), "the model only"));
}

TEST_CASE("Llama 3 RoPE scaling goes through a folder and through GGUF") {
  Fixture f;
  Config config = small_config(f.vocab);
  config.rope_theta = 500000;
  config.rope_scaling = RopeScaling{.factor = 32, .original_context = 8192};
  config.rope_divisors = rope_scaling_divisors(*config.rope_scaling, config.rope_theta, config.head_dim);
  f.model = new_model(config, kSeed, *f.pool);
  f.save();
  CHECK(f.load().model.config.rope_scaling == config.rope_scaling);
  CHECK(f.load().model.config.rope_divisors == config.rope_divisors);
  const json written = read_json(f.hf() / "config.json");
  CHECK(written["rope_parameters"]["rope_type"] == "llama3");
  CHECK(written["rope_parameters"]["rope_theta"] == 500000.0);

  save_gguf(f.folder / "x.gguf", f.model, f.vocab, {}, {.type = FileType::F32}, *f.backend);
  const LoadedModel gguf = load_gguf(f.folder / "x.gguf");
  CHECK(gguf.model.config.rope_divisors == config.rope_divisors);
  CHECK(gguf.model.config.rope_scaling == config.rope_scaling);
  // A file of others has the divisors alone: the parameters are recognised.
  f.model.config.rope_scaling.reset();
  f.save();
  CHECK(f.load().model.config.rope_scaling == config.rope_scaling);
  f.model.config.rope_divisors[2] = 3.25f;
  CHECK(contains(message_of([&] { f.save(); }), "RoPE divisors"));
}

TEST_CASE("config.json: what is wrong or not supported is refused by name") {
  Fixture f;
  f.save();
  const std::string good = test::read(f.hf() / "config.json");
  const std::vector<std::pair<const char*, std::function<void(json&)>>> changes = {
      {"model_type 'gpt2'", [](json& c) { c["model_type"] = "gpt2"; }},
      {"model_type ''", [](json& c) { c.erase("model_type"); }},
      {"must be a string", [](json& c) { c["model_type"] = 3; }},
      {"biases", [](json& c) { c["attention_bias"] = true; }},
      {"biases", [](json& c) { c["mlp_bias"] = true; }},
      {"hidden_act", [](json& c) { c["hidden_act"] = "gelu"; }},
      {"quantization_config", [](json& c) { c["quantization_config"] = {{"bits", 4}}; }},
      {"'hidden_size' is missing", [](json& c) { c.erase("hidden_size"); }},
      {"must be an integer", [](json& c) { c["hidden_size"] = "32"; }},
      {"must be an integer", [](json& c) { c["hidden_size"] = 32.5; }},
      {"hidden size is -32", [](json& c) { c["hidden_size"] = -32; }},
      {"number of heads is 0", [](json& c) { c["num_attention_heads"] = 0; }},
      {"evenly", [](json& c) { c["num_key_value_heads"] = 3; }},
      {"must be an integer", [](json& c) { c["num_hidden_layers"] = 1e6; }},
      {"number of layers is 5000", [](json& c) { c["num_hidden_layers"] = 5000; }},
      {"must be an integer", [](json& c) { c["vocab_size"] = 18446744073709551615u; }},
      {"claims 4000 layers", [](json& c) { c["num_hidden_layers"] = 4000; }},
      {"odd", [](json& c) { c["head_dim"] = 15; }},
      {"must be true or false", [](json& c) { c["tie_word_embeddings"] = 1; }},
      {"epsilon", [](json& c) { c["rms_norm_eps"] = 0; }},
      {"RoPE scaling 'yarn'", [](json& c) { c["rope_parameters"]["rope_type"] = "yarn"; }},
      {"RoPE scaling 'linear'",
       [](json& c) {
         c.erase("rope_parameters");
         c["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
       }},
      {"'factor' is missing", [](json& c) { c["rope_parameters"]["rope_type"] = "llama3"; }},
      {"partial_rotary_factor", [](json& c) { c["rope_parameters"]["partial_rotary_factor"] = 0.5; }},
      {"object was expected", [](json& c) { c["rope_parameters"] = 3; }},
      {"object was expected", [](json& c) { c = json::array(); }},
      {"the shape", [](json& c) { c["intermediate_size"] = 96; }},
      {"is not part of", [](json& c) { c["num_hidden_layers"] = 1; }},
      {"is missing", [](json& c) { c["num_hidden_layers"] = 3; }},
      {"the model only", [](json& c) { c["vocab_size"] = 100; }},
  };
  for (const auto& [part, change] : changes) {
    const std::string what = part;
    test::write(f.hf() / "config.json", good);
    edit_json(f.hf() / "config.json", change);
    const std::string message = f.load_error();
    CAPTURE(what);
    CAPTURE(message);
    CHECK(contains(message, f.hf().string()));
    CHECK(contains(message, what));
  }
  test::write(f.hf() / "config.json", good.substr(0, good.size() / 2));
  CHECK(contains(f.load_error(), "not valid JSON"));
  test::write(f.hf() / "config.json", "{\"model_type\":\"llama\",\"model_type\":\"llama\"}");
  CHECK(contains(f.load_error(), "appears twice"));
  test::write(f.hf() / "config.json", std::string(100, '['));
  CHECK(contains(f.load_error(), "nested deeper"));
  std::filesystem::remove(f.hf() / "config.json");
  CHECK(contains(f.load_error(), "config.json"));
}

TEST_CASE("tokenizer.json: what is wrong or not supported is refused by name") {
  Fixture f;
  f.save();
  std::filesystem::remove(f.hf() / "tokenizer.model");
  const auto path = f.hf() / "tokenizer.json";
  const std::string good = test::read(path);
  const std::vector<std::pair<const char*, std::function<void(json&)>>> changes = {
      {"'model' is missing", [](json& t) { t.erase("model"); }},
      {"'Unigram' is not supported", [](json& t) { t["model"]["type"] = "Unigram"; }},
      {"'vocab' is not an object", [](json& t) { t["model"]["vocab"] = json::array(); }},
      {"not a usable number", [](json& t) { t["model"]["vocab"]["a"] = -1; }},
      {"not a usable number", [](json& t) { t["model"]["vocab"]["a"] = 1 << 30; }},
      {"not a usable number", [](json& t) { t["model"]["vocab"]["a"] = "7"; }},
      {"have the same id", [](json& t) { t["model"]["vocab"]["a"] = 1; }},
      {"has no text", [](json& t) { t["model"]["vocab"][""] = 4000; }},
      {"byte token", [](json& t) { t["model"]["vocab"].erase("<0x41>"); }},
      {"'merges' is not an array", [](json& t) { t["model"]["merges"] = "a b"; }},
      {"neither a text nor a pair", [](json& t) { t["model"]["merges"][3] = 1; }},
      {"has no space", [](json& t) { t["model"]["merges"][3] = "ab"; }},
      {"is not a token", [](json& t) { t["model"]["merges"][3] = "q q"; }},
      {"normalizer 'NFKC'", [](json& t) { t["normalizer"] = {{"type", "NFKC"}}; }},
      {"pre-tokenizer 'Whitespace'", [](json& t) { t["pre_tokenizer"] = {{"type", "Whitespace"}}; }},
      {"'added_tokens' is not an array", [](json& t) { t["added_tokens"] = 1; }},
      {"'id' is missing", [](json& t) { t["added_tokens"][0].erase("id"); }},
      {"out of range", [](json& t) { t["added_tokens"][0]["id"] = -5; }},
      {"but the vocabulary", [](json& t) { t["added_tokens"][0]["content"] = "<other>"; }},
      {"pre-tokenizer is none of", [](json& t) { t["model"]["byte_fallback"] = false; }},
      {"object was expected", [](json& t) { t["post_processor"] = 7; }},
      {"object was expected", [](json& t) { t = 7; }},
  };
  for (const auto& [part, change] : changes) {
    const std::string what = part;
    test::write(path, good);
    edit_json(path, change);
    const std::string message = message_of([&] { read_hf_vocab(f.hf(), f.vocab.size()); });
    CAPTURE(what);
    CAPTURE(message);
    CHECK(contains(message, f.hf().string()));
    CHECK(contains(message, what));
  }
  test::write(path, good);
  edit_json(f.hf() / "tokenizer_config.json", [](json& c) { c["bos_token"] = "<nowhere>"; });
  CHECK(contains(f.load_error(), "'<nowhere>', which is not a token"));
  edit_json(f.hf() / "tokenizer_config.json", [](json& c) { c["bos_token"] = {{"content", "<s>"}}; });
  CHECK(f.load().vocab.bos == 1);
  edit_json(f.hf() / "generation_config.json", [](json& c) { c["eos_token_id"] = {2, 1'000'000}; });
  CHECK(contains(f.load_error(), "eos_token_id 1000000"));
}

TEST_CASE("tokenizer.model: damage never crashes the reader") {
  const TemporaryFolder folder;
  const Vocab vocab = test::llama_vocab(30);
  const std::string whole = sentencepiece_model_bytes(vocab);
  test::write(folder / "m", whole);
  check_equal(read_sentencepiece_model(folder / "m"), vocab);
  for (size_t length = 0; length < whole.size(); ++length) {  // the normaliser's settings come last
    test::write(folder / "cut", whole.substr(0, length));
    CHECK(contains(message_of([&] { read_sentencepiece_model(folder / "cut"); }), "cut"));
  }
  std::mt19937 random(3);
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    test::write(folder / "flipped", bytes);
    const std::string message = message_of([&] { read_sentencepiece_model(folder / "flipped"); });
    if (!message.empty()) CHECK(contains(message, "flipped"));
  }
}

TEST_CASE("values that are not finite are refused on both ways") {
  Fixture f;
  f.save();
  f.model.weights[4].f32()[7] = std::numeric_limits<float>::quiet_NaN();
  const std::string name = f.model.specs[4].hf_name;
  CHECK(contains(message_of([&] { save_hf(f.folder / "bad", f.model, f.vocab, {}, *f.backend); }), name));
  CHECK(!std::filesystem::exists(f.folder / "bad"));
  CHECK(std::distance(std::filesystem::directory_iterator(f.folder.path()), {}) == 1);
  f.model.weights[4].f32()[7] = 1e6f;  // beyond F16
  CHECK(contains(
      message_of([&] { save_hf(f.folder / "bad", f.model, f.vocab, {DType::F16, {}}, *f.backend); }), "F16"));

  std::string bytes = test::read(f.hf() / "model.safetensors");
  const uint32_t infinity = 0x7F800000;
  std::memcpy(bytes.data() + bytes.size() - 8, &infinity, 4);
  test::write(f.hf() / "model.safetensors", bytes);
  CHECK(contains(f.load_error(), "NaN or an infinity"));
}

TEST_CASE("a full disk leaves no folder, a missing parent is named") {
  Fixture f;
  {
    const test::FileSizeLimit limit(50'000);  // the weights need more
    CHECK(contains(message_of([&] { f.save(); }), "model.safetensors"));
  }
  CHECK(std::filesystem::is_empty(f.folder.path()));
  const std::string missing =
      message_of([&] { save_hf(f.folder / "no/model", f.model, f.vocab, {}, *f.backend); });
  CHECK(contains(missing, "does not exist"));
  CHECK(contains(
      message_of([&] { save_hf(f.folder / "x", f.model, f.vocab, {DType::Q8_0, {}}, *f.backend); }), "Q8_0"));
}

TEST_CASE(
    "a folder that is written again holds nothing of the model before, and keeps what is not a model's") {
  Fixture f;
  f.save();
  test::write(f.hf() / "NOTES.md", "mine");
  test::write(f.hf() / "chat_template.jinja", "of the model before");
  REQUIRE(std::filesystem::exists(f.hf() / "tokenizer.model"));
  const std::string weights = test::read(f.hf() / "model.safetensors");
  f.model.weights[0].f32()[0] = std::numeric_limits<float>::infinity();
  CHECK(!message_of([&] { f.save(); }).empty());  // nothing is replaced by a failed export
  CHECK(test::read(f.hf() / "model.safetensors") == weights);
  CHECK(std::filesystem::exists(f.hf() / "tokenizer.model"));

  f.vocab = test::gpt2_vocab("gpt-2");
  f.model = new_model(small_config(f.vocab, false), kSeed, *f.pool);
  f.save();
  CHECK(!std::filesystem::exists(f.hf() / "tokenizer.model"));
  CHECK(!std::filesystem::exists(f.hf() / "chat_template.jinja"));
  CHECK(test::read(f.hf() / "NOTES.md") == "mine");
  check_equal(f.load().vocab, f.vocab);
  CHECK(std::distance(std::filesystem::directory_iterator(f.folder.path()), {}) == 1);
}

TEST_CASE("inspecting a Hugging Face folder") {
  Fixture f;
  f.save();
  const FileDescription d = inspect(f.hf());
  CHECK(d.format == "Hugging Face folder");
  CHECK(d.parameters == f.model.config.parameters());
  CHECK(d.bits_per_weight == 32);
  CHECK(d.chat_template == f.vocab.chat_template);
}
