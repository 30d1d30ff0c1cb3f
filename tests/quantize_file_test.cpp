// File types: the mixes' rules, and whole files equal to llama-quantize's.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#include "export/checksum.h"
#include "export/importance.h"
#include "export/model_gguf.h"
#include "export/quantize.h"
#include "tests/train_support.h"

using namespace gladius;
using test::contains;
using test::message_of;
using test::TemporaryFolder;

namespace {

const std::filesystem::path kQuant = GLADIUS_TEST_DATA "/quant", kFiles = GLADIUS_TEST_DATA "/files";

std::string checksum_of(const std::filesystem::path& path) {
  return checksum_hex(MappedFile::open(path)->bytes());
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, path.string());
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') lines.push_back(line);
  }
  return lines;
}

// "imatrix-Q4_K_M.gguf": what it was made from and with.
struct Recipe {
  std::string source = "source.gguf";
  bool importance = false;
  FileType type = FileType::F32;
};

Recipe recipe_of(std::string name) {
  Recipe recipe;
  recipe.importance = name.starts_with("imatrix-");
  if (recipe.importance) name.erase(0, 8);
  if (name.starts_with("odd-")) {
    recipe.source = "odd-source.gguf";
    name.erase(0, 4);
  }
  recipe.type = file_type_from_name(name.substr(0, name.find('.')));
  return recipe;
}

// The type of a weight of a model with 12 layers, rows of 768 (2048 for ffn_down).
DType reference_model_type(const std::string& name, FileType type, bool importance = false) {
  const MixContext context{.layers = 12, .importance = importance};
  const Shape shape = contains(name, "ffn_down") ? Shape{768, 2048} : Shape{768, 768};
  return *dtype_from_id(choose_type(name, shape, 0, type, context));
}

std::string layer_name(int layer, const char* weight) {
  return fmt::format("blk.{}.{}.weight", layer, weight);
}

}  // namespace

TEST_CASE("every tensor type is the one that llama-quantize chose") {
  const auto backend = make_reference_backend();
  std::map<std::string, GgufFile> sources;
  int tensors = 0;
  for (const std::string& line : lines_of(kQuant / "expected.txt")) {
    std::istringstream fields(line);
    std::string file, tensor, type;
    fields >> file >> tensor >> type;
    const Recipe recipe = recipe_of(file);
    if (!sources.contains(recipe.source))
      sources.emplace(recipe.source, GgufFile::open(kQuant / recipe.source));
    const GgufTensor* source = sources.at(recipe.source).find(tensor);
    REQUIRE(source != nullptr);
    const MixContext context{.layers = recipe.source == "source.gguf" ? 2 : 1,
                             .importance = recipe.importance};
    const uint32_t chosen = choose_type(tensor, source->shape, source->type, recipe.type, context);
    CHECK_MESSAGE(gguf_tensor_type(chosen)->name == type, line);
    ++tensors;
  }
  CHECK(tensors > 200);
}

TEST_CASE("whole files equal llama-quantize's byte for byte") {
  const TemporaryFolder folder;
  const auto backend = make_reference_backend();
  ImportanceMatrix importance = read_importance(kQuant / "imatrix.gguf");
  importance.file = "imatrix.gguf";  // the path that was given to llama-quantize, which it records
  int files = 0;
  for (const std::string& line : lines_of(kFiles / "llama_quantize.txt")) {
    std::istringstream fields(line);
    std::string name, expected;
    fields >> name >> expected;
    const Recipe recipe = recipe_of(name);
    QuantizeOptions options{.type = recipe.type};
    if (recipe.importance) options.importance = &importance;
    quantize_file(kQuant / recipe.source, folder / name, options, *backend);
    CHECK_MESSAGE(checksum_of(folder / name) == expected, name);
    ++files;
  }
  CHECK(files == 17);
}

TEST_CASE("the mixes of a 12-layer model follow the rules") {
  const std::array<bool, 12> more = {true, false, false, true, false, false,
                                     true, false, false, true, true,  true};
  for (int layer = 0; layer < 12; ++layer) {
    for (const char* weight : {"attn_v", "ffn_down"}) {
      const std::string name = layer_name(layer, weight);
      const bool value = std::string_view(weight) == "attn_v";
      CHECK(reference_model_type(name, FileType::Q4_K_M) == (more[layer] ? DType::Q6_K : DType::Q4_K));
      CHECK(reference_model_type(name, FileType::Q5_K_M) == (more[layer] ? DType::Q6_K : DType::Q5_K));
      CHECK(reference_model_type(name, FileType::Q4_K_S) ==
            (layer < (value ? 4 : 1) ? DType::Q5_K : DType::Q4_K));
      CHECK(reference_model_type(name, FileType::Q5_K_S) == DType::Q5_K);
      CHECK(reference_model_type(name, FileType::Q6_K) == DType::Q6_K);
    }
    for (const char* weight : {"attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"})
      CHECK(reference_model_type(layer_name(layer, weight), FileType::Q4_K_M) == DType::Q4_K);
    const std::string down = layer_name(layer, "ffn_down");
    CHECK(reference_model_type(down, FileType::Q4_0) == DType::Q4_0);
    CHECK(reference_model_type(down, FileType::Q4_0, true) == (layer == 0 ? DType::Q4_1 : DType::Q4_0));
    CHECK(reference_model_type(down, FileType::Q5_0, true) == (layer == 0 ? DType::Q5_1 : DType::Q5_0));
  }
  CHECK(reference_model_type("output.weight", FileType::Q4_0) == DType::Q6_K);
  CHECK(reference_model_type("output.weight", FileType::Q8_0) == DType::Q8_0);
  CHECK(reference_model_type("output.weight", FileType::BF16) == DType::BF16);
  CHECK(reference_model_type("token_embd.weight", FileType::Q4_K_M) == DType::Q4_K);
}

TEST_CASE("data sizes of the 125M model are those of the format") {
  // 8 * bytes / 124,668,672 parameters, computed independently of the code.
  const std::map<FileType, uint64_t> expected = {
      {FileType::F32, 498'674'688},   {FileType::F16, 249'375'744},   {FileType::BF16, 249'375'744},
      {FileType::Q8_0, 132'516'864},  {FileType::Q6_K, 102'328'320},  {FileType::Q5_K_M, 90'447'360},
      {FileType::Q5_K_S, 89'037'312}, {FileType::Q4_K_M, 79'265'280}, {FileType::Q4_K_S, 76'823'040},
      {FileType::Q4_0, 76'528'128}};
  const Config config = preset("gladius-125m");
  for (const auto& [type, bytes] : expected) {
    uint64_t sum = 0;
    for (const ParamSpec& spec : parameter_table(config)) {
      const uint32_t chosen = choose_type(spec.gguf_name, spec.shape, 0, type, {.layers = 12});
      sum += tensor_bytes(*dtype_from_id(chosen), spec.shape);
    }
    CHECK_MESSAGE(sum == bytes, file_type_name(type));
  }
}

TEST_CASE("tied heads, wide grouped models and fall-backs") {
  const MixContext tied{.layers = 12, .tied = true};
  CHECK(choose_type("token_embd.weight", {1000, 768}, 0, FileType::Q4_K_M, tied) == uint32_t(DType::Q6_K));
  CHECK(choose_type("token_embd.weight", {1000, 576}, 0, FileType::Q4_K_M, tied) == uint32_t(DType::Q8_0));
  CHECK(choose_type("token_embd.weight", {1000, 576}, 0, FileType::Q4_0, tied) == uint32_t(DType::Q8_0));
  const MixContext wide{.layers = 80, .wide_grouped = true};
  CHECK(choose_type("blk.11.attn_v.weight", {1024, 8192}, 0, FileType::Q4_K_M, wide) ==
        uint32_t(DType::Q5_K));
  CHECK(choose_type("blk.0.attn_v.weight", {1024, 8192}, 0, FileType::Q4_K_M, wide) == uint32_t(DType::Q6_K));
  const MixContext plain{.layers = 12};
  CHECK(choose_type("blk.1.attn_q.weight", {64, 40}, 0, FileType::Q4_0, plain) == uint32_t(DType::F16));
  CHECK(choose_type("blk.1.attn_q.weight", {64, 40}, 0, FileType::Q5_K_S, plain) == uint32_t(DType::F16));
  // Norms and vectors keep their type whatever the mix.
  CHECK(choose_type("blk.1.attn_norm.weight", {768}, 0, FileType::Q4_K_M, plain) == 0);
  CHECK(choose_type("rope_freqs.weight", {32}, 0, FileType::F16, plain) == 0);
  CHECK(choose_type("blk.1.attn_q_norm.weight", {12, 64}, 30, FileType::Q8_0, plain) == 30);
}

TEST_CASE("quantising keeps unknown metadata of every type") {
  const TemporaryFolder folder;
  const auto backend = make_reference_backend();
  const GgufFile source = GgufFile::open(kQuant / "odd-source.gguf");
  GgufMetadata metadata = source.metadata();
  const std::array<int16_t, 3> shorts = {-1, 2, 30000};
  metadata.set("custom.u8", uint8_t{200});
  metadata.set("custom.i64", int64_t{-5'000'000'000});
  metadata.set("custom.f64", 0.1);
  metadata.set("custom.shorts", GgufArray::of(std::span<const int16_t>(shorts)));
  metadata.set("custom.text", std::string("grüße"));
  metadata.set("general.file_type", uint32_t{1});
  std::vector<GgufTensor> records = source.tensors();
  GgufWriter writer(folder / "in.gguf", metadata, records);
  for (const GgufTensor& tensor : records) writer.append(source.data(*source.find(tensor.name)));
  writer.finish();

  quantize_file(folder / "in.gguf", folder / "out.gguf", {.type = FileType::Q8_0}, *backend);
  const GgufFile out = GgufFile::open(folder / "out.gguf");
  for (const auto& [key, value] : metadata.entries()) {
    if (key == "general.file_type") continue;
    REQUIRE_MESSAGE(out.metadata().find(key) != nullptr, key);
    CHECK_MESSAGE(*out.metadata().find(key) == value, key);
  }
  CHECK(std::get<uint32_t>(*out.metadata().find("general.file_type")) == 7);
  CHECK(std::get<uint32_t>(*out.metadata().find("general.quantization_version")) == 2);
}

TEST_CASE("quantising again needs an explicit option") {
  const TemporaryFolder folder;
  const auto backend = make_reference_backend();
  const auto in = kQuant / "odd-source.gguf";
  quantize_file(in, folder / "q8.gguf", {.type = FileType::Q8_0}, *backend);
  const std::string refused = message_of(
      [&] { quantize_file(folder / "q8.gguf", folder / "q4.gguf", {.type = FileType::Q4_0}, *backend); });
  CHECK(contains(refused, "quantised already"));
  CHECK(!std::filesystem::exists(folder / "q4.gguf"));
  quantize_file(folder / "q8.gguf", folder / "q4.gguf", {.type = FileType::Q4_0, .requantize = true},
                *backend);
  CHECK(GgufFile::open(folder / "q4.gguf").find("blk.0.attn_q.weight")->type == uint32_t(DType::Q4_0));
  // Dequantising loses nothing.
  quantize_file(folder / "q8.gguf", folder / "f32.gguf", {.type = FileType::F32}, *backend);
  // The same type again copies the bytes.
  quantize_file(folder / "q8.gguf", folder / "again.gguf", {.type = FileType::Q8_0}, *backend);
  CHECK(checksum_of(folder / "again.gguf") == checksum_of(folder / "q8.gguf"));
}

TEST_CASE("values that are not finite or do not fit stop the conversion and leave no file") {
  const TemporaryFolder folder;
  const auto backend = make_reference_backend();
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("llama.block_count", uint32_t{1});
  std::vector<float> values(64 * 4, 0.5f);
  const auto convert = [&](FileType type) {
    const SourceTensor tensor{gguf_tensor("blk.0.attn_q.weight", DType::F32, {4, 64}),
                              std::as_bytes(std::span(values))};
    return message_of(
        [&] { write_gguf_as(folder / "out.gguf", metadata, {tensor}, {.type = type}, *backend); });
  };
  CHECK(convert(FileType::Q8_0).empty());
  std::filesystem::remove(folder / "out.gguf");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    values[100] = bad;
    for (const FileType type :
         {FileType::F32, FileType::F16, FileType::BF16, FileType::Q8_0, FileType::Q4_0}) {
      const std::string message = convert(type);
      INFO(message);
      CHECK(contains(message, "out.gguf"));
      CHECK(contains(message, "blk.0.attn_q.weight"));
    }
  }
  values[100] = 1e5f;  // beyond F16
  CHECK(contains(convert(FileType::F16), "does not fit"));
  values[100] = 1e9f;  // its scale is beyond F16
  CHECK(contains(convert(FileType::Q8_0), "does not fit"));
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("importance matrices: a file of llama.cpp's, and a matrix of another model is refused") {
  const TemporaryFolder folder;
  const ImportanceMatrix matrix = read_importance(kQuant / "imatrix.gguf");
  CHECK(matrix.entries.size() == 14);
  CHECK(matrix.datasets == std::vector<std::string>{"synthetic"});
  CHECK(matrix.chunks == 8);
  CHECK(matrix.chunk_size == 512);
  CHECK(matrix.entries.at("blk.1.ffn_down.weight").count == 8 * 512);
  CHECK(matrix.means("output.weight").empty());

  const auto backend = make_reference_backend();
  const std::string message = message_of([&] {
    quantize_file(kQuant / "odd-source.gguf", folder / "x.gguf",
                  {.type = FileType::Q4_0, .importance = &matrix}, *backend);
  });
  CHECK(contains(message, "another model"));
  CHECK(!std::filesystem::exists(folder / "x.gguf"));
}

TEST_CASE("tensors whose rows do not fit a type's blocks are named with what they got") {
  const TemporaryFolder folder;
  const auto backend = make_cpu_backend(2);
  const auto fallbacks = [&](const char* source, FileType type) {
    return quantize_file(kQuant / source, folder / "x.gguf", {.type = type}, *backend);
  };
  CHECK(fallbacks("source.gguf", FileType::Q4_K_M).empty());
  CHECK(fallbacks("odd-source.gguf", FileType::F16).empty());
  const std::vector<Fallback> found = fallbacks("odd-source.gguf", FileType::Q4_K_M);
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  const std::map<DType, DType> used = {
      {DType::Q4_K, DType::Q5_0}, {DType::Q5_K, DType::Q5_1}, {DType::Q6_K, DType::Q8_0}};
  size_t matrices = 0;
  for (const GgufTensor& tensor : file.tensors()) matrices += tensor.shape.rank() == 2;
  CHECK(found.size() == matrices);
  for (const Fallback& f : found) {
    CAPTURE(f.name);
    CHECK(f.columns % 256 != 0);
    CHECK(f.columns == file.find(f.name)->shape[-1]);
    CHECK(f.used == *dtype_from_id(file.find(f.name)->type));
    CHECK((f.used == used.at(f.wanted) || f.used == DType::F16));
  }
}

TEST_CASE("progress counts elements, to the last tensor") {
  const TemporaryFolder folder;
  const auto backend = make_cpu_backend(2);
  uint64_t elements = 0, before = 0;
  const GgufFile source = GgufFile::open(kQuant / "source.gguf");
  for (const GgufTensor& tensor : source.tensors())
    elements += static_cast<uint64_t>(tensor.shape.elements());
  QuantizeOptions options{.type = FileType::Q4_0};
  options.progress = [&](const QuantizeStep& step) {
    CHECK(step.total == elements);
    CHECK(step.done >= before);
    CHECK(step.done < elements);
    before = step.done;
  };
  quantize_file(kQuant / "source.gguf", folder / "x.gguf", options, *backend);
  CHECK(before > elements / 2);
}

TEST_CASE("unknown file types and files of other architectures are refused") {
  CHECK(contains(message_of([] { file_type_from_name("Q9_K"); }), "Q4_K_M"));
  CHECK(file_type_from_name("q4_k_m") == FileType::Q4_K_M);
  const TemporaryFolder folder;
  const auto backend = make_reference_backend();
  const std::string message = message_of(
      [&] { quantize_file(kQuant / "imatrix.gguf", folder / "x.gguf", {.type = FileType::Q8_0}, *backend); });
  CHECK(contains(message, "imatrix.gguf"));
  CHECK(contains(message, "architecture"));
}
