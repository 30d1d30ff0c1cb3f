#include "export/quantize.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <tuple>

#include "export/certificate.h"

namespace gladius {
namespace {

struct FileTypeInfo {
  FileType type;
  std::string_view name;
  DType base;  // of the tensors that no rule names
};

constexpr std::array<FileTypeInfo, 13> kFileTypes = {{
    {FileType::F32, "F32", DType::F32},
    {FileType::F16, "F16", DType::F16},
    {FileType::BF16, "BF16", DType::BF16},
    {FileType::Q8_0, "Q8_0", DType::Q8_0},
    {FileType::Q6_K, "Q6_K", DType::Q6_K},
    {FileType::Q5_K_M, "Q5_K_M", DType::Q5_K},
    {FileType::Q5_K_S, "Q5_K_S", DType::Q5_K},
    {FileType::Q5_1, "Q5_1", DType::Q5_1},
    {FileType::Q5_0, "Q5_0", DType::Q5_0},
    {FileType::Q4_K_M, "Q4_K_M", DType::Q4_K},
    {FileType::Q4_K_S, "Q4_K_S", DType::Q4_K},
    {FileType::Q4_1, "Q4_1", DType::Q4_1},
    {FileType::Q4_0, "Q4_0", DType::Q4_0},
}};

const FileTypeInfo& info_of(FileType type) {
  for (const FileTypeInfo& info : kFileTypes) {
    if (info.type == type) return info;
  }
  fail("file type {} is unknown", static_cast<uint32_t>(type));
}

constexpr uint32_t id_of(DType dtype) { return static_cast<uint32_t>(dtype); }

// N of "blk.N.…", -1 for other names.
int64_t layer_of(std::string_view name) {
  constexpr std::string_view prefix = "blk.";
  if (!name.starts_with(prefix)) return -1;
  int64_t layer = -1;
  const char* begin = name.data() + prefix.size();
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, layer);
  return error == std::errc{} && stop != end && *stop == '.' && layer >= 0 ? layer : -1;
}

// The layers whose attn_v and ffn_down take Q6_K in the "M" mixes: the first and last eighth, and every third
// between.
bool takes_more_bits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

DType type_of_value(FileType type, DType base, int64_t layer, const MixContext& context) {
  DType chosen = base;
  if ((type == FileType::Q4_K_M || type == FileType::Q5_K_M) && takes_more_bits(layer, context.layers)) {
    chosen = DType::Q6_K;
  } else if (type == FileType::Q4_K_S && layer < 4) {
    chosen = DType::Q5_K;
  }
  return context.wide_grouped && chosen == DType::Q4_K ? DType::Q5_K : chosen;
}

DType type_of_down(FileType type, DType base, int64_t layer, const MixContext& context) {
  const bool early = layer < context.layers / 8;
  switch (type) {
    case FileType::Q4_K_M:
    case FileType::Q5_K_M:
      return takes_more_bits(layer, context.layers) ? DType::Q6_K : base;
    case FileType::Q4_K_S:
      return early ? DType::Q5_K : base;
    case FileType::Q4_0:
      return early && context.importance ? DType::Q4_1 : base;
    case FileType::Q5_0:
      return early && context.importance ? DType::Q5_1 : base;
    default:
      return base;
  }
}

// What a file type's rules give a tensor, however long its rows are; empty: it stays as it is stored.
std::optional<DType> mix_type(std::string_view name, const Shape& shape, FileType type,
                              const MixContext& context) {
  const bool weight = name.ends_with("weight") && name.find("_norm.weight") == std::string_view::npos;
  if (shape.rank() < 2 || !weight) return std::nullopt;
  const DType base = info_of(type).base;
  if (!dtype_info(base).quantised) return base;
  const int64_t layer = layer_of(name);
  if (name == "output.weight" || (context.tied && name == "token_embd.weight"))
    return base == DType::Q8_0 ? base : DType::Q6_K;
  if (name.ends_with("attn_v.weight")) return type_of_value(type, base, layer, context);
  if (name.ends_with("ffn_down.weight")) return type_of_down(type, base, layer, context);
  return base;
}

DType fall_back(DType dtype, int64_t row) {
  const auto fits = [row](DType candidate) { return row % dtype_info(candidate).block_size == 0; };
  if (fits(dtype)) return dtype;
  const DType small = dtype == DType::Q4_K   ? DType::Q5_0
                      : dtype == DType::Q5_K ? DType::Q5_1
                      : dtype == DType::Q6_K ? DType::Q8_0
                                             : dtype;
  return fits(small) ? small : DType::F16;
}

// llama-quantize's order.
bool comes_before(const SourceTensor& a, const SourceTensor& b) {
  return std::tuple(layer_of(a.record.name), std::string_view(a.record.name)) <
         std::tuple(layer_of(b.record.name), std::string_view(b.record.name));
}

// Converts tensors by groups of rows, so that memory stays small; all threads share a group.
class Converter {
 public:
  Converter(std::string path, Backend& backend, GgufWriter& writer, const QuantizeOptions& options,
            uint64_t total)
      : path_(std::move(path)), backend_(backend), writer_(writer), options_(options), total_(total) {}

  void convert(const SourceTensor& tensor, uint32_t to) {
    const std::vector<float> importance =
        column_importance(options_.importance, tensor.record.name, tensor.record.shape[-1]);
    const auto from_type = dtype_from_id(tensor.record.type);
    if (tensor.record.type == to) {
      show(tensor);
      if (from_type) check(tensor, *from_type, tensor.data, "holds");
      writer_.append(tensor.data);
      done_ += static_cast<uint64_t>(tensor.record.shape.elements());
      return;
    }
    const DType from = *from_type, target = *dtype_from_id(to);
    const int64_t columns = tensor.record.shape[-1], rows = tensor.record.shape.rows();
    const int64_t group = std::clamp<int64_t>(kGroupElements / columns, 1, rows);
    for (int64_t row = 0; row < rows; row += group) {
      show(tensor);
      const int64_t count = std::min(group, rows - row);
      const auto source = tensor.data.subspan(static_cast<size_t>(row * row_bytes(from, columns)),
                                              static_cast<size_t>(count * row_bytes(from, columns)));
      check(tensor, from, source, "holds");
      const float* weights = importance.empty() ? nullptr : importance.data();
      writer_.append(converted(from, target, count, columns, source, weights, tensor));
      done_ += static_cast<uint64_t>(count * columns);
    }
  }

 private:
  static constexpr int64_t kGroupElements = int64_t{1} << 22;

  std::span<const std::byte> converted(DType from, DType target, int64_t rows, int64_t columns,
                                       std::span<const std::byte> source, const float* importance,
                                       const SourceTensor& tensor) {
    const float* values = reinterpret_cast<const float*>(source.data());
    if (from != DType::F32) {
      floats_.resize(static_cast<size_t>(rows * columns));
      backend_.dequantize(from, rows, columns, source.data(), floats_.data());
      values = floats_.data();
    }
    if (target == DType::F32) return std::as_bytes(std::span(floats_));
    bytes_.resize(static_cast<size_t>(rows * row_bytes(target, columns)));
    backend_.quantize(target, rows, columns, values, importance, bytes_.data());
    check(tensor, target, bytes_, "does not fit: converting gives");
    return bytes_;
  }

  void show(const SourceTensor& tensor) const {
    if (options_.progress) options_.progress({tensor.record.name, done_, total_});
  }

  void check(const SourceTensor& tensor, DType dtype, std::span<const std::byte> bytes,
             std::string_view verb) const {
    if (!first_not_finite(dtype, bytes, backend_.threads())) return;
    fail("cannot write {}: tensor '{}' {} a NaN or an infinity in type {}", path_, tensor.record.name, verb,
         dtype_info(dtype).name);
  }

  std::string path_;
  Backend& backend_;
  GgufWriter& writer_;
  const QuantizeOptions& options_;
  uint64_t done_ = 0, total_;  // elements
  std::vector<float> floats_;
  std::vector<std::byte> bytes_;
};

MixContext mix_context(const GgufMetadata& metadata, const std::vector<SourceTensor>& tensors,
                       const QuantizeOptions& options, const std::string& source) {
  MixContext context;
  context.layers = metadata.get<uint32_t>("llama.block_count", source);
  context.tied = std::none_of(tensors.begin(), tensors.end(),
                              [](const SourceTensor& t) { return t.record.name == "output.weight"; });
  context.importance = options.importance != nullptr;
  const auto number = [&](const char* key) -> int64_t {
    const GgufValue* value = metadata.find(key);
    const uint32_t* n = value ? std::get_if<uint32_t>(value) : nullptr;
    return n ? *n : 0;
  };
  const int64_t kv_heads = number("llama.attention.head_count_kv");
  context.wide_grouped =
      context.layers == 80 && kv_heads != 0 && kv_heads != number("llama.attention.head_count");
  return context;
}

void set_quantisation_keys(GgufMetadata& metadata, const QuantizeOptions& options) {
  erase_certificate(metadata);                  // it was another file's
  constexpr uint32_t kQuantisationVersion = 2;  // of ggml's block formats
  metadata.move_to_end("general.quantization_version", kQuantisationVersion);
  metadata.move_to_end("general.file_type", static_cast<uint32_t>(options.type));
  if (!options.importance) return;
  const ImportanceMatrix& matrix = *options.importance;
  metadata.move_to_end("quantize.imatrix.file", matrix.file);
  if (!matrix.datasets.empty() && !matrix.datasets.front().empty())
    metadata.move_to_end("quantize.imatrix.dataset", matrix.datasets.front());
  metadata.move_to_end("quantize.imatrix.entries_count", static_cast<uint32_t>(matrix.entries.size()));
  metadata.move_to_end("quantize.imatrix.chunks_count", matrix.chunks);
}

// A matrix made under other names would be ignored without a word.
void check_importance(const std::vector<SourceTensor>& tensors, const QuantizeOptions& options) {
  if (!options.importance) return;
  for (const SourceTensor& tensor : tensors) {
    if (options.importance->entries.contains(tensor.record.name)) return;
  }
  fail("{}: none of its {} entries is named as a tensor of this model", options.importance->file,
       options.importance->entries.size());
}

void check_convertible(const SourceTensor& tensor, uint32_t to, const QuantizeOptions& options,
                       const std::string& path) {
  if (tensor.record.type == to) return;
  const auto from = dtype_from_id(tensor.record.type);
  if (!from || *from == DType::I32) {
    fail("cannot write {}: tensor '{}' has the type {}, which cannot be converted", path, tensor.record.name,
         gguf_tensor_type(tensor.record.type)->name);
  }
  if (dtype_info(*from).quantised && to != id_of(DType::F32) && !options.requantize) {
    fail(
        "cannot write {}: tensor '{}' is quantised already ({}) and quantising it to {} would lose more than "
        "starting from "
        "the original model; pass --requantize to do it all the same",
        path, tensor.record.name, dtype_info(*from).name, gguf_tensor_type(to)->name);
  }
}

}  // namespace

std::string_view file_type_name(FileType type) { return info_of(type).name; }

std::optional<FileType> file_type_from_id(uint32_t id) {
  for (const FileTypeInfo& info : kFileTypes) {
    if (static_cast<uint32_t>(info.type) == id) return info.type;
  }
  return std::nullopt;
}

FileType file_type_from_name(std::string_view name) {
  const auto upper = [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; };
  for (const FileTypeInfo& info : kFileTypes) {
    if (std::equal(name.begin(), name.end(), info.name.begin(), info.name.end(),
                   [&](char a, char b) { return upper(a) == b; })) {
      return info.type;
    }
  }
  fail("there is no file type '{}'; there are {}", name, fmt::join(file_type_names(), ", "));
}

std::vector<std::string_view> file_type_names() {
  std::vector<std::string_view> names;
  for (const FileTypeInfo& info : kFileTypes) names.push_back(info.name);
  return names;
}

std::vector<float> column_importance(const ImportanceMatrix* matrix, std::string_view name, int64_t columns) {
  if (!matrix) return {};
  std::vector<float> values = matrix->means(name);
  if (values.empty() || static_cast<int64_t>(values.size()) == columns) return values;
  if (name == "token_embd.weight") return {};  // a tied head's matrix may belong to the output
  fail("{}: it has {} importances for '{}', which has {} columns; it was made for another model",
       matrix->file, values.size(), name, columns);
}

uint32_t choose_type(std::string_view name, const Shape& shape, uint32_t stored, FileType type,
                     const MixContext& context) {
  const std::optional<DType> wanted = mix_type(name, shape, type, context);
  return wanted ? id_of(fall_back(*wanted, shape[-1])) : stored;
}

std::vector<Fallback> write_gguf_as(const std::filesystem::path& path, GgufMetadata metadata,
                                    std::vector<SourceTensor> tensors, const QuantizeOptions& options,
                                    Backend& backend) {
  const MixContext context = mix_context(metadata, tensors, options, path.string());
  check_importance(tensors, options);
  set_quantisation_keys(metadata, options);
  std::sort(tensors.begin(), tensors.end(), comes_before);
  std::vector<GgufTensor> records;
  std::vector<Fallback> fallbacks;
  uint64_t elements = 0;
  for (const SourceTensor& tensor : tensors) {
    const std::string& name = tensor.record.name;
    const Shape& shape = tensor.record.shape;
    const uint32_t to = choose_type(name, shape, tensor.record.type, options.type, context);
    check_convertible(tensor, to, options, path.string());
    const auto wanted = mix_type(name, shape, options.type, context);
    if (wanted && id_of(*wanted) != to) fallbacks.push_back({name, shape[-1], *wanted, *dtype_from_id(to)});
    records.push_back(to == tensor.record.type ? tensor.record
                                               : gguf_tensor(name, *dtype_from_id(to), shape));
    elements += static_cast<uint64_t>(shape.elements());
  }
  GgufWriter writer(path, metadata, records);
  Converter converter(path.string(), backend, writer, options, elements);
  for (size_t i = 0; i < tensors.size(); ++i) converter.convert(tensors[i], records[i].type);
  writer.finish();
  return fallbacks;
}

std::vector<Fallback> quantize_file(const std::filesystem::path& in, const std::filesystem::path& out,
                                    const QuantizeOptions& options, Backend& backend) {
  const GgufFile file = GgufFile::open(in);
  const std::string source = in.string();
  const std::string& architecture = file.metadata().get<std::string>("general.architecture", source);
  if (architecture != "llama")
    fail("{}: architecture '{}' is not supported, only 'llama'", source, architecture);
  if (file.tensors().empty()) fail("{}: it holds no tensors to quantise", source);
  file.metadata().get<uint32_t>("llama.block_count", source);
  std::vector<SourceTensor> tensors;
  for (const GgufTensor& tensor : file.tensors()) tensors.push_back({tensor, file.data(tensor)});
  std::error_code ignored;
  if (std::filesystem::equivalent(in, out, ignored)) fail("{}: input and output are the same file", source);
  try {
    return write_gguf_as(out, file.metadata(), std::move(tensors), options, backend);
  } catch (const Error& error) {
    fail("quantising {}: {}", source, error.what());
  }
}

}  // namespace gladius
