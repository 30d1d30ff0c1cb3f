#include "export/hf.h"

#include <unistd.h>

#include <cstring>
#include <unordered_set>

#include "export/atomic_file.h"
#include "export/gguf.h"
#include "export/json.h"
#include "export/safetensors.h"
#include "export/sentencepiece_model.h"
#include "export/tokenizer_json.h"
#include "export/vocab_gguf.h"

namespace gladius {
namespace {

namespace fs = std::filesystem;

// Reorders the rows of each head between GGUF's order, where RoPE rotates the adjacent rows 2i and 2i+1, and
// Hugging Face's, where it rotates i and i + head_dim/2. x and y [rows, columns] must not overlap.
enum class RopeOrder { to_hf, from_hf };

void permute_rope_rows(RopeOrder direction, int64_t rows, int64_t columns, int64_t head_dim, const float* x,
                       float* y) {
  const int64_t half = head_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {  // row counts in GGUF's order
    const int64_t head = row / head_dim * head_dim, g = row % head_dim;
    const int64_t hf_row = head + half * (g % 2) + g / 2;
    const int64_t from = direction == RopeOrder::to_hf ? row : hf_row,
                  to = direction == RopeOrder::to_hf ? hf_row : row;
    std::memcpy(y + to * columns, x + from * columns, static_cast<size_t>(columns) * sizeof(float));
  }
}

void check_finite(const std::string& path, const std::string& name, DType dtype,
                  std::span<const std::byte> bytes) {
  if (first_not_finite(dtype, bytes)) {
    fail("{}: tensor '{}' holds a NaN or an infinity in type {}", path, name, dtype_info(dtype).name);
  }
}

// ---- writing ----

// The bytes of a weight as the folder holds it, in memory that lasts until the next call.
class WeightConverter {
 public:
  WeightConverter(DType dtype, int64_t head_dim, Backend& backend)
      : dtype_(dtype), head_dim_(head_dim), backend_(backend) {}

  std::span<const std::byte> convert(const ParamSpec& spec, const Tensor& weight) {
    const int64_t rows = weight.shape().rows(), columns = weight.shape()[-1];
    const auto count = static_cast<size_t>(rows * columns);
    const float* values = nullptr;
    if (weight.dtype() == DType::F32) {
      values = weight.f32();
    } else {
      floats_.resize(count);
      backend_.dequantize(weight.dtype(), rows, columns, weight.data(), floats_.data());
      values = floats_.data();
    }
    if (spec.hf_order != RowOrder::same) {
      permuted_.resize(count);
      permute_rope_rows(RopeOrder::to_hf, rows, columns, head_dim_, values, permuted_.data());
      values = permuted_.data();
    }
    if (dtype_ == DType::F32) return std::as_bytes(std::span(values, count));
    bytes_.resize(static_cast<size_t>(rows * row_bytes(dtype_, columns)));
    backend_.quantize(dtype_, rows, columns, values, nullptr, bytes_.data());
    return bytes_;
  }

 private:
  DType dtype_;
  int64_t head_dim_;
  Backend& backend_;
  std::vector<float> floats_, permuted_;
  std::vector<std::byte> bytes_;
};

void write_weights(const fs::path& path, const Model& model, const HfOptions& options, Backend& backend) {
  std::vector<SafetensorsTensor> records;
  for (const ParamSpec& spec : model.specs)
    records.push_back(safetensors_tensor(spec.hf_name, options.dtype, spec.shape));
  SafetensorsMetadata metadata = {{"format", "pt"}};
  for (const auto& [key, value] : full_provenance(options.provenance)) metadata[key] = value;
  SafetensorsWriter writer(path, records, metadata);
  WeightConverter converter(options.dtype, model.config.head_dim, backend);
  for (size_t i = 0; i < model.specs.size(); ++i) {
    const auto bytes = converter.convert(model.specs[i], model.weights[i]);
    check_finite("cannot write " + path.string(), model.specs[i].hf_name, options.dtype, bytes);
    writer.append(bytes);
  }
  writer.finish();
}

std::string generation_config_json(const Vocab& vocab) {
  nlohmann::ordered_json config = nlohmann::ordered_json::object();
  if (vocab.bos) config["bos_token_id"] = *vocab.bos;
  if (vocab.end_of_generation.size() > 1) {
    config["eos_token_id"] = vocab.end_of_generation;
  } else if (vocab.eos) {
    config["eos_token_id"] = *vocab.eos;
  }
  if (vocab.padding) config["pad_token_id"] = *vocab.padding;
  return config.dump(2) + "\n";
}

void write_files(const fs::path& folder, const Model& model, const Vocab& vocab, const HfOptions& options,
                 Backend& backend) {
  write_file(folder / "config.json", hf_config_json(model.config, vocab, options.dtype));
  write_file(folder / "generation_config.json", generation_config_json(vocab));
  write_file(folder / "tokenizer.json", tokenizer_json(vocab));
  write_file(folder / "tokenizer_config.json", tokenizer_config_json(vocab, model.config.context));
  if (vocab.kind == TokenizerKind::llama && vocab.unknown) {
    write_file(folder / "tokenizer.model", sentencepiece_model_bytes(vocab));
  }
  write_weights(folder / "model.safetensors", model, options, backend);
}

// Tokenizer files that readers would take although this writer did not make them.
constexpr const char* kTokenizerFiles[] = {
    "tokenizer.model",   "chat_template.jinja", "special_tokens_map.json",
    "added_tokens.json", "vocab.json",          "merges.txt"};

// A folder next to its target, removed again unless its files became the target's.
class AtomicFolder {
 public:
  explicit AtomicFolder(fs::path target) : target_(std::move(target)), temporary_(target_) {
    temporary_ += ".tmp" + std::to_string(::getpid());
    std::error_code error;
    remove_leftovers(target_);
    fs::remove_all(temporary_, error);
    if (!fs::create_directory(temporary_, error)) {
      fail("cannot create folder {}: {}", target_.string(), error ? error.message() : "it exists already");
    }
  }
  ~AtomicFolder() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(temporary_, ignored);
  }
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const fs::path& path() const { return temporary_; }
  void commit() {
    std::error_code error;
    if (fs::is_directory(target_, error)) return replace_files();
    fs::rename(temporary_, target_, error);
    if (error) fail("cannot create folder {}: {}", target_.string(), error.message());
    committed_ = true;
    sync_folder(target_.has_parent_path() ? target_.parent_path() : fs::path("."));
  }

 private:
  // The target exists and may hold more than a model: its files are replaced one by one, after all were
  // written.
  void replace_files() {
    std::error_code error;
    for (const char* name : kTokenizerFiles) {
      if (!fs::exists(temporary_ / name, error)) fs::remove(target_ / name, error);
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(temporary_)) {
      fs::rename(entry.path(), target_ / entry.path().filename(), error);
      if (error)
        fail("cannot replace {} in {}: {}", entry.path().filename().string(), target_.string(),
             error.message());
    }
    sync_folder(target_);
  }

  fs::path target_, temporary_;
  bool committed_ = false;
};

// ---- reading ----

void check_tensor_names(const SafetensorsFolder& weights, const Model& model, const std::string& folder) {
  std::unordered_set<std::string_view> known;
  for (const ParamSpec& spec : model.specs) known.insert(spec.hf_name);
  for (const SafetensorsFile& file : weights.files()) {
    for (const SafetensorsTensor& tensor : file.tensors()) {
      const std::string& name = tensor.name;
      if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
      if (model.config.tied && name == "lm_head.weight") continue;  // a copy of the embedding
      fail("{}: tensor '{}' {}", folder, name,
           name.ends_with(".bias") ? "is a bias; biases are not supported" : "is not part of a Llama model");
    }
  }
}

Tensor read_weight(const SafetensorsFolder& weights, const ParamSpec& spec, const std::string& folder,
                   int64_t head_dim, Backend& backend, BufferPool& pool) {
  const auto found = weights.find(spec.hf_name);
  if (!found) fail("{}: tensor '{}' is missing", folder, spec.hf_name);
  const Tensor stored = found->file->tensor(*found->tensor);
  const std::string path = found->file->path().string();
  if (stored.shape() != spec.shape) {
    fail("{}: tensor '{}' has the shape {}, but config.json asks for {}", path, spec.hf_name,
         stored.shape().text(), spec.shape.text());
  }
  if (stored.dtype() == DType::I32)
    fail("{}: tensor '{}' holds I32, which is no type for weights", path, spec.hf_name);
  check_finite(path, spec.hf_name, stored.dtype(), {stored.data(), stored.bytes()});
  const int64_t rows = spec.shape.rows(), columns = spec.shape[-1];
  Tensor weight(pool, DType::F32, spec.shape);
  backend.dequantize(stored.dtype(), rows, columns, stored.data(), weight.f32());
  if (spec.hf_order == RowOrder::same) return weight;
  Tensor permuted(pool, DType::F32, spec.shape);
  permute_rope_rows(RopeOrder::from_hf, rows, columns, head_dim, weight.f32(), permuted.f32());
  return permuted;
}

// eos_token_id of generation_config.json or config.json: an id or a list of them.
void add_end_ids(const fs::path& path, Vocab& vocab) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  const auto file = MappedFile::open(path);
  const nlohmann::json value =
      parse_json({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, path.string());
  const nlohmann::json* ids = JsonObject(value, path.string()).find("eos_token_id");
  if (!ids) return;
  std::vector<int32_t> ends = vocab.end_of_generation;
  for (const nlohmann::json& id : ids->is_array() ? *ids : nlohmann::json::array({*ids})) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocab.tokens.size()) {
      fail("{}: eos_token_id {} is not the id of a token", path.string(), id.dump());
    }
    ends.push_back(id.get<int32_t>());
    if (!vocab.eos) vocab.eos = ends.back();
  }
  vocab.end_of_generation = end_of_generation_tokens(vocab, ends);
}

}  // namespace

void save_hf(const fs::path& folder, const Model& model, const Vocab& vocab, const HfOptions& options,
             Backend& backend) {
  if (options.dtype != DType::F32 && options.dtype != DType::BF16 && options.dtype != DType::F16) {
    fail("cannot write {}: the weights of a Hugging Face folder can be F32, BF16 or F16, not {}",
         folder.string(), dtype_info(options.dtype).name);
  }
  if (vocab.size() != model.config.vocab) {
    fail("cannot write {}: the vocabulary has {} tokens, but the model {}", folder.string(), vocab.size(),
         model.config.vocab);
  }
  const fs::path target = folder.has_filename() ? folder : folder.parent_path();  // without a trailing slash
  std::error_code ignored;
  if (fs::exists(target / "model.safetensors.index.json", ignored)) {
    fail("cannot write {}: the folder holds a sharded model; choose another folder", target.string());
  }
  if (target.has_parent_path() && !fs::is_directory(target.parent_path(), ignored)) {
    fail("cannot write {}: the folder {} does not exist; create it first", target.string(),
         target.parent_path().string());
  }
  AtomicFolder aside(target);
  write_files(aside.path(), model, vocab, options, backend);
  aside.commit();
}

LoadedModel load_hf(const fs::path& folder, Backend& backend, BufferPool& pool) {
  const Config config = read_hf_config(folder);
  const SafetensorsFolder weights = SafetensorsFolder::open(folder);
  size_t tensors = 0;
  for (const SafetensorsFile& file : weights.files()) tensors += file.tensors().size();
  if (config.layers > static_cast<int64_t>(tensors)) {
    fail("{}: config.json claims {} layers, but there are only {} tensors", folder.string(), config.layers,
         tensors);
  }
  // One by one: GCC 12 destroys a half-built aggregate wrongly when a later initialiser throws.
  LoadedModel loaded;
  loaded.model.config = config;
  loaded.model.specs = parameter_table(config);
  loaded.vocab = read_hf_vocab(folder, config.vocab);
  add_end_ids(folder / "config.json", loaded.vocab);
  add_end_ids(folder / "generation_config.json", loaded.vocab);
  check_tensor_names(weights, loaded.model, folder.string());
  for (const ParamSpec& spec : loaded.model.specs) {
    loaded.model.weights.push_back(
        read_weight(weights, spec, folder.string(), config.head_dim, backend, pool));
  }
  return loaded;
}

}  // namespace gladius
