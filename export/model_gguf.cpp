#include "export/model_gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_set>

#include "export/vocab_gguf.h"

namespace gladius {
namespace {

constexpr const char* kRopeFactors = "rope_freqs.weight";

// A hyper-parameter: one UINT32, or an array of one for each layer that are all equal.
int64_t read_number(const GgufMetadata& metadata, const std::string& key, const std::string& source,
                    std::optional<int64_t> otherwise = std::nullopt) {
  const GgufValue* value = metadata.find(key);
  if (!value && otherwise) return *otherwise;
  const auto* array = value ? std::get_if<GgufArray>(value) : nullptr;
  if (!array) return metadata.get<uint32_t>(key, source);
  const auto element = [&](size_t i) -> int64_t {
    if (array->type == GgufType::int32) return array->get<int32_t>(i);
    if (array->type == GgufType::uint32) return array->get<uint32_t>(i);
    fail("{}: '{}' is an array of {}, but must be one of UINT32", source, key, gguf_type_name(array->type));
  };
  if (array->size() == 0) fail("{}: '{}' is an empty array", source, key);
  for (size_t i = 1; i < array->size(); ++i) {
    if (element(i) != element(0)) {
      fail("{}: '{}' differs between layers ({} and {}), which is not supported", source, key, element(0),
           element(i));
    }
  }
  return element(0);
}

float read_float(const GgufMetadata& metadata, const std::string& key, const std::string& source,
                 float otherwise) {
  const float* value = metadata.find<float>(key, source);
  return value ? *value : otherwise;
}

// What llama.cpp would compute differently for these keys is not supported.
void refuse_unsupported(const GgufMetadata& metadata, const std::string& source) {
  if (const auto* scaling = metadata.find<std::string>("llama.rope.scaling.type", source)) {
    if (*scaling != "none" && !scaling->empty()) {
      fail("{}: RoPE scaling '{}' is not supported, only Llama 3's (as the tensor '{}')", source, *scaling,
           kRopeFactors);
    }
  }
  for (const char* key :
       {"llama.rope.scale_linear", "llama.rope.scaling.factor", "llama.rope.scaling.attn_factor"}) {
    const float factor = read_float(metadata, key, source, 1.0f);
    if (factor != 1.0f && factor != 0.0f) fail("{}: '{}' = {} is not supported", source, key, factor);
  }
  if (read_number(metadata, "llama.expert_count", source, 0) > 0) {
    fail("{}: mixtures of experts are not supported (llama.expert_count)", source);
  }
  if (const bool* causal = metadata.find<bool>("llama.attention.causal", source); causal && !*causal) {
    fail("{}: attention that is not causal is not supported (llama.attention.causal)", source);
  }
}

std::vector<float> read_rope_divisors(const GgufFile& file, int64_t head_dim) {
  const GgufTensor* factors = file.find(kRopeFactors);
  if (!factors) return {};
  const std::string source = file.path().string();
  if (factors->type != static_cast<uint32_t>(DType::F32) || factors->shape.elements() != head_dim / 2) {
    fail("{}: tensor '{}' must be F32 with {} values", source, kRopeFactors, head_dim / 2);
  }
  std::vector<float> divisors(static_cast<size_t>(head_dim / 2));
  std::memcpy(divisors.data(), file.data(*factors).data(), factors->bytes);
  return divisors;
}

// Llama 3's scaling in its parameters, which GGUF has no keys for: ours, so that a Hugging Face folder can
// follow.
std::optional<RopeScaling> read_rope_scaling(const Config& config, const GgufMetadata& metadata,
                                             const std::string& source) {
  if (config.rope_divisors.empty() || !metadata.find("gladius.rope.scaling.factor")) return std::nullopt;
  RopeScaling scaling;
  scaling.factor = metadata.get<float>("gladius.rope.scaling.factor", source);
  scaling.low_freq_factor = metadata.get<float>("gladius.rope.scaling.low_freq_factor", source);
  scaling.high_freq_factor = metadata.get<float>("gladius.rope.scaling.high_freq_factor", source);
  scaling.original_context = metadata.get<uint32_t>("gladius.rope.scaling.original_context_length", source);
  return scaling;
}

// The file must hold the table's tensors and no others. Names what differs.
void check_tensors(const GgufFile& file, const std::vector<ParamSpec>& specs) {
  const std::string source = file.path().string();
  std::unordered_set<std::string_view> known = {kRopeFactors};
  for (const ParamSpec& spec : specs) {
    known.insert(spec.gguf_name);
    const GgufTensor* tensor = file.find(spec.gguf_name);
    if (!tensor) fail("{}: tensor '{}' is missing", source, spec.gguf_name);
    if (tensor->shape != spec.shape) {
      fail("{}: tensor '{}' has the shape {}, but the model's sizes ask for {}", source, spec.gguf_name,
           tensor->shape.text(), spec.shape.text());
    }
  }
  for (const GgufTensor& tensor : file.tensors()) {
    if (known.contains(tensor.name)) continue;
    const bool bias = tensor.name.ends_with(".bias");
    fail("{}: tensor '{}' {}", source, tensor.name,
         bias ? "is a bias; biases are not supported" : "is not part of a Llama model");
  }
}

struct OpenModel {
  GgufFile file;
  Config config;
  std::vector<ParamSpec> specs;
  Vocab vocab;
};

OpenModel open_model(const std::filesystem::path& path, int threads) {
  GgufFile file = GgufFile::open(path);
  Config config = read_gguf_config(file);
  std::vector<ParamSpec> specs = parameter_table(config);
  check_tensors(file, specs);
  Vocab vocab = read_gguf_vocab(file.metadata(), path.string());
  if (vocab.size() != config.vocab) {
    fail("{}: the vocabulary has {} tokens, but the model {}", path.string(), vocab.size(), config.vocab);
  }
  check_tensor_values(file, threads);
  return {std::move(file), std::move(config), std::move(specs), std::move(vocab)};
}

GgufMetadata model_metadata(const Model& model, const Vocab& vocab, const Provenance& provenance) {
  const Config& c = model.config;
  GgufMetadata metadata;
  const auto number = [&](const char* key, int64_t value) {
    metadata.set(key, static_cast<uint32_t>(value));
  };
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("general.type", std::string("model"));
  metadata.set("general.name", c.name);
  for (const auto& [key, value] : full_provenance(provenance)) metadata.set(key, value);
  number("llama.vocab_size", c.vocab);
  number("llama.context_length", c.context);
  number("llama.embedding_length", c.hidden);
  number("llama.block_count", c.layers);
  number("llama.feed_forward_length", c.intermediate);
  number("llama.attention.head_count", c.heads);
  number("llama.attention.head_count_kv", c.kv_heads);
  number("llama.attention.key_length", c.head_dim);
  number("llama.attention.value_length", c.head_dim);
  metadata.set("llama.attention.layer_norm_rms_epsilon", c.norm_eps);
  number("llama.rope.dimension_count", c.head_dim);
  metadata.set("llama.rope.freq_base", c.rope_theta);
  if (c.rope_scaling) {
    metadata.set("gladius.rope.scaling.factor", c.rope_scaling->factor);
    metadata.set("gladius.rope.scaling.low_freq_factor", c.rope_scaling->low_freq_factor);
    metadata.set("gladius.rope.scaling.high_freq_factor", c.rope_scaling->high_freq_factor);
    number("gladius.rope.scaling.original_context_length", c.rope_scaling->original_context);
  }
  write_gguf_vocab(vocab, metadata);
  return metadata;
}

std::span<const std::byte> bytes_of(const Tensor& tensor) { return {tensor.data(), tensor.bytes()}; }

// The weights as views of the file.
LoadedModel mapped_model(const std::filesystem::path& path, const OpenModel& open) {
  LoadedModel loaded{{open.config, open.specs, {}}, open.vocab};
  loaded.importance = open.file.metadata().find("quantize.imatrix.entries_count") != nullptr;
  for (const ParamSpec& spec : loaded.model.specs) {
    Tensor weight = open.file.tensor(*open.file.find(spec.gguf_name));
    const bool usable =
        weight.dtype() != DType::I32 && (spec.shape.rank() > 1 || weight.dtype() == DType::F32);
    if (!usable) {
      fail("{}: tensor '{}' has the type {}, which is not supported there", path.string(), spec.gguf_name,
           dtype_info(weight.dtype()).name);
    }
    loaded.model.weights.push_back(std::move(weight));
  }
  return loaded;
}

}  // namespace

Config read_gguf_config(const GgufFile& file) {
  const std::string source = file.path().string();
  const GgufMetadata& metadata = file.metadata();
  const std::string& architecture = metadata.get<std::string>("general.architecture", source);
  if (architecture != "llama")
    fail("{}: architecture '{}' is not supported, only 'llama'", source, architecture);
  refuse_unsupported(metadata, source);

  Config config;
  if (const auto* name = metadata.find<std::string>("general.name", source)) config.name = *name;
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (!embedding) fail("{}: tensor 'token_embd.weight' is missing", source);
  config.context = read_number(metadata, "llama.context_length", source);
  config.hidden = read_number(metadata, "llama.embedding_length", source);
  config.layers = read_number(metadata, "llama.block_count", source);
  config.intermediate = read_number(metadata, "llama.feed_forward_length", source);
  config.heads = read_number(metadata, "llama.attention.head_count", source);
  config.kv_heads = read_number(metadata, "llama.attention.head_count_kv", source, config.heads);
  config.vocab = read_number(metadata, "llama.vocab_size", source, embedding->shape.rows());
  config.head_dim = read_number(metadata, "llama.attention.key_length", source,
                                config.heads > 0 ? config.hidden / config.heads : 0);
  config.norm_eps = metadata.get<float>("llama.attention.layer_norm_rms_epsilon", source);
  config.rope_theta = read_float(metadata, "llama.rope.freq_base", source, 10000.0f);
  for (const char* key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    const int64_t width = read_number(metadata, key, source, config.head_dim);
    if (width != config.head_dim)
      fail("{}: '{}' is {}, but heads are {} wide", source, key, width, config.head_dim);
  }
  if (config.layers > static_cast<int64_t>(file.tensors().size())) {
    fail("{}: it claims {} layers and has only {} tensors", source, config.layers, file.tensors().size());
  }
  config.tied = file.find("output.weight") == nullptr;
  config.rope_divisors = read_rope_divisors(file, config.head_dim);
  config.rope_scaling = read_rope_scaling(config, metadata, source);
  validate(config, source);
  return config;
}

LoadedModel load_gguf(const std::filesystem::path& path, int threads) {
  return mapped_model(path, open_model(path, threads));
}

LoadedModel load_gguf_panels(const std::filesystem::path& path, Backend& backend, BufferPool& pool) {
  const OpenModel open = open_model(path, backend.threads());
  LoadedModel loaded = mapped_model(path, open);
  // Reading the file has looked at all of it; of the embedding few rows are looked up.
  if (!loaded.model.config.tied) open.file.release(loaded.model.embedding());
  use_panels(loaded.model, backend, pool, [&](const Tensor& weight) { open.file.release(weight); });
  return loaded;
}

LoadedModel load_gguf_f32(const std::filesystem::path& path, Backend& backend, BufferPool& pool) {
  LoadedModel loaded = load_gguf(path, backend.threads());
  for (Tensor& weight : loaded.model.weights) {
    Tensor copy(pool, DType::F32, weight.shape());
    backend.dequantize(weight.dtype(), weight.shape().rows(), weight.shape()[-1], weight.data(), copy.f32());
    weight = std::move(copy);
  }
  return loaded;
}

std::vector<Fallback> save_gguf(const std::filesystem::path& path, const Model& model, const Vocab& vocab,
                                const Provenance& provenance, const QuantizeOptions& options,
                                Backend& backend) {
  if (vocab.size() != model.config.vocab) {
    fail("cannot write {}: the vocabulary has {} tokens, but the model {}", path.string(), vocab.size(),
         model.config.vocab);
  }
  std::vector<SourceTensor> tensors;
  for (size_t i = 0; i < model.specs.size(); ++i) {
    const Tensor& weight = model.weights[i];
    tensors.push_back(
        {gguf_tensor(model.specs[i].gguf_name, weight.dtype(), weight.shape()), bytes_of(weight)});
  }
  const std::vector<float>& divisors = model.config.rope_divisors;
  if (!divisors.empty()) {
    tensors.push_back({gguf_tensor(kRopeFactors, DType::F32, {static_cast<int64_t>(divisors.size())}),
                       std::as_bytes(std::span(divisors))});
  }
  return write_gguf_as(path, model_metadata(model, vocab, provenance), std::move(tensors), options, backend);
}

}  // namespace gladius
