#include "export/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>

#include "export/json.h"

namespace gladius {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr std::string_view kMetadataKey = "__metadata__";

struct DtypeSize {
  std::string_view name;
  int64_t bytes;
};
constexpr std::array<DtypeSize, 15> kDtypes = {{{"BOOL", 1},
                                                {"U8", 1},
                                                {"I8", 1},
                                                {"F8_E5M2", 1},
                                                {"F8_E4M3", 1},
                                                {"I16", 2},
                                                {"U16", 2},
                                                {"F16", 2},
                                                {"BF16", 2},
                                                {"I32", 4},
                                                {"U32", 4},
                                                {"F32", 4},
                                                {"F64", 8},
                                                {"I64", 8},
                                                {"U64", 8}}};

constexpr std::array<DType, 4> kLoadable = {DType::F32, DType::F16, DType::BF16, DType::I32};

// Bytes of a tensor; empty when the product does not fit or a dimension is negative.
std::optional<uint64_t> byte_size(std::span<const int64_t> shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim > 0 && bytes > std::numeric_limits<int64_t>::max() / dim) return std::nullopt;
    bytes *= dim;
  }
  return static_cast<uint64_t>(bytes);
}

uint64_t offset_of(const nlohmann::json& value, const std::string& what) {
  if (!value.is_number_unsigned()) fail("{} is not an array of non-negative integers", what);
  return value.get<uint64_t>();
}

SafetensorsTensor read_record(const std::string& name, const nlohmann::json& value,
                              const std::string& source) {
  const std::string what = fmt::format("{}: tensor '{}'", source, name);
  const JsonObject object(value, what);
  for (const auto& [key, unused] : value.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      fail("{} has the unknown key '{}'", what, key);
  }
  SafetensorsTensor tensor;
  tensor.name = name;
  tensor.dtype = object.find_string("dtype").value_or("");
  const auto element_bytes = safetensors_dtype_bytes(tensor.dtype);
  if (!element_bytes) fail("{} has the unknown dtype '{}'", what, tensor.dtype);

  const nlohmann::json* shape = object.find("shape");
  if (!shape || !shape->is_array()) fail("{}: its shape is not an array", what);
  for (const nlohmann::json& dim : *shape) {
    const uint64_t size = offset_of(dim, what + ": its shape");
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail("{} has the impossible dimension {}", what, size);
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  const nlohmann::json* offsets = object.find("data_offsets");
  if (!offsets || !offsets->is_array() || offsets->size() != 2)
    fail("{}: its data_offsets are not two numbers", what);
  tensor.begin = offset_of((*offsets)[0], what + ": its data_offsets");
  tensor.end = offset_of((*offsets)[1], what + ": its data_offsets");
  const auto bytes = byte_size(tensor.shape, *element_bytes);
  if (!bytes) fail("{} has a shape whose product does not fit 64 bits", what);
  if (tensor.end < tensor.begin || tensor.bytes() != *bytes) {
    fail("{} spans the bytes {} to {}, but its shape needs {}", what, tensor.begin, tensor.end, *bytes);
  }
  return tensor;
}

}  // namespace

std::optional<int64_t> safetensors_dtype_bytes(std::string_view dtype) {
  for (const DtypeSize& known : kDtypes) {
    if (known.name == dtype) return known.bytes;
  }
  return std::nullopt;
}

SafetensorsTensor safetensors_tensor(std::string name, std::string dtype, std::vector<int64_t> shape) {
  return {std::move(name), std::move(dtype), std::move(shape), 0, 0};
}

SafetensorsTensor safetensors_tensor(std::string name, DType dtype, const Shape& shape) {
  std::vector<int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return safetensors_tensor(std::move(name), std::string(dtype_info(dtype).name), std::move(dims));
}

// ---- reading ----

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile result;
  result.file_ = MappedFile::open(path);
  const auto bytes = result.file_->bytes();
  if (bytes.size() < 8) fail("{}: {} bytes are too few for a safetensors file", path.string(), bytes.size());
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    fail("{}: its header claims {} bytes, but the file has {}; it is truncated, or not a safetensors file",
         path.string(), header_bytes, bytes.size());
  }
  const std::string_view json(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  if (!json.starts_with('{'))
    fail("{}: its header does not start with '{{'; this is not a safetensors file", path.string());
  result.data_start_ = 8 + header_bytes;
  result.read_header(json);
  result.check_layout();
  return result;
}

void SafetensorsFile::read_header(std::string_view json) {
  constexpr int kDepth = 4;  // {"tensor": {"shape": [1]}} has three levels
  const std::string source = path().string();
  const nlohmann::json header = parse_json(json, source, kDepth);
  for (const auto& [name, value] : header.items()) {
    if (name != kMetadataKey) {
      tensors_.push_back(read_record(name, value, source));
      continue;
    }
    if (!value.is_object()) fail("{}: __metadata__ is not an object", source);
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("{}: the metadata '{}' is not a string", source, key);
      metadata_.emplace(key, text.get<std::string>());
    }
  }
}

void SafetensorsFile::check_layout() {
  const std::string source = path().string();
  std::sort(tensors_.begin(), tensors_.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t expected = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const SafetensorsTensor& tensor = tensors_[i];
    if (tensor.begin != expected) {
      fail(
          "{}: tensor '{}' starts at byte {} of the data, but {} was expected: holes and overlaps are not "
          "allowed",
          source, tensor.name, tensor.begin, expected);
    }
    expected = tensor.end;
    index_.emplace(tensor.name, i);
  }
  const uint64_t data_bytes = file_->bytes().size() - data_start_;
  if (expected != data_bytes) {
    fail("{}: its tensors need {} bytes of data, but the file has {}; it is truncated or damaged", source,
         expected, data_bytes);
  }
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
  const auto position = index_.find(std::string(name));
  return position == index_.end() ? nullptr : &tensors_[position->second];
}

std::span<const std::byte> SafetensorsFile::data(const SafetensorsTensor& tensor) const {
  return file_->bytes().subspan(data_start_ + tensor.begin, tensor.bytes());
}

Tensor SafetensorsFile::tensor(const SafetensorsTensor& tensor) const {
  const auto dtype = dtype_from_name(tensor.dtype);
  if (!dtype || std::find(kLoadable.begin(), kLoadable.end(), *dtype) == kLoadable.end()) {
    fail("{}: tensor '{}' has the dtype {}, which cannot be loaded; only F32, F16, BF16 and I32 can",
         path().string(), tensor.name, tensor.dtype);
  }
  const auto& s = tensor.shape;
  if (s.empty() || s.size() > 4 || tensor.bytes() == 0) {
    fail("{}: tensor '{}' has the shape [{}], which cannot be loaded", path().string(), tensor.name,
         fmt::join(s, ", "));
  }
  const Shape shape = s.size() == 1   ? Shape{s[0]}
                      : s.size() == 2 ? Shape{s[0], s[1]}
                      : s.size() == 3 ? Shape{s[0], s[1], s[2]}
                                      : Shape{s[0], s[1], s[2], s[3]};
  const auto bytes = data(tensor);
  const auto alignment = static_cast<uintptr_t>(dtype_info(*dtype).block_bytes);
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignment == 0) {
    return Tensor::view(*dtype, shape, bytes.data(), file_);
  }
  const auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
  return Tensor::view(*dtype, shape, copy->data(), copy);
}

SafetensorsFolder SafetensorsFolder::open(const std::filesystem::path& folder) {
  SafetensorsFolder result;
  const auto single = folder / "model.safetensors", index_path = folder / "model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored) || !std::filesystem::exists(index_path, ignored)) {
    result.files_.push_back(SafetensorsFile::open(single));
    return result;
  }
  const auto text = MappedFile::open(index_path);
  const std::string source = index_path.string();
  const nlohmann::json index =
      parse_json({reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size()}, source);
  const nlohmann::json* weight_map = JsonObject(index, source).find("weight_map");
  if (!weight_map || !weight_map->is_object() || weight_map->empty())
    fail("{}: 'weight_map' is missing or empty", source);
  std::map<std::string, std::vector<std::string>> parts;  // file name: the tensors it should hold
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) fail("{}: the file of '{}' is not a string", source, tensor);
    const auto& name = file.get_ref<const std::string&>();
    if (name.empty() || name != std::filesystem::path(name).filename() || name == "." || name == "..") {
      fail("{}: '{}' is not the name of a file in this folder", source, name);
    }
    parts[name].push_back(tensor);
  }
  std::set<std::string> seen;
  for (const auto& [name, tensors] : parts) {
    result.files_.push_back(SafetensorsFile::open(folder / name));
    const SafetensorsFile& part = result.files_.back();
    for (const std::string& tensor : tensors) {
      if (!part.find(tensor)) fail("{}: tensor '{}' should be in {}, but is not", source, tensor, name);
    }
    for (const SafetensorsTensor& tensor : part.tensors()) {
      if (!seen.insert(tensor.name).second) fail("{}: tensor '{}' is in two files", source, tensor.name);
    }
  }
  return result;
}

std::optional<SafetensorsFolder::Found> SafetensorsFolder::find(std::string_view name) const {
  for (const SafetensorsFile& file : files_) {
    if (const SafetensorsTensor* tensor = file.find(name)) return Found{&file, tensor};
  }
  return std::nullopt;
}

// ---- writing ----

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<SafetensorsTensor> tensors,
                                     const SafetensorsMetadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[std::string(kMetadataKey)] = metadata;
  std::set<std::string> names;
  for (SafetensorsTensor& tensor : tensors) {
    const auto element_bytes = safetensors_dtype_bytes(tensor.dtype);
    const auto bytes = element_bytes ? byte_size(tensor.shape, *element_bytes) : std::nullopt;
    if (!bytes)
      fail("cannot write {}: tensor '{}' has an unusable dtype or shape", path.string(), tensor.name);
    if (data_bytes_ % static_cast<uint64_t>(*element_bytes) != 0) {
      fail("cannot write {}: tensor '{}' would not be aligned; order tensors by descending element size",
           path.string(), tensor.name);
    }
    if (tensor.name == kMetadataKey || !names.insert(tensor.name).second) {
      fail("cannot write {}: the tensor name '{}' is there twice or reserved", path.string(), tensor.name);
    }
    tensor.begin = data_bytes_;
    data_bytes_ += *bytes;
    tensor.end = data_bytes_;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {tensor.begin, tensor.end}}};
  }
  std::string json;
  try {
    json = header.dump();
  } catch (const nlohmann::json::exception& error) {
    fail("cannot write {}: a name or a metadata text is not valid UTF-8 ({})", path.string(), error.what());
  }
  json.append((8 - json.size() % 8) % 8, ' ');
  if (json.size() > kMaxHeaderBytes)
    fail("cannot write {}: its header would have {} bytes", path.string(), json.size());
  header_bytes_ = 8 + json.size();
  file_ = std::make_unique<AtomicFile>(path, header_bytes_ + data_bytes_);
  const uint64_t length = json.size();
  file_->write(std::as_bytes(std::span(&length, 1)));
  file_->write(json);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > header_bytes_ + data_bytes_ - file_->position()) {
    fail("cannot write {}: more data than its records announce", file_->target().string());
  }
  file_->write(bytes);
}

void SafetensorsWriter::finish() {
  const uint64_t missing = header_bytes_ + data_bytes_ - file_->position();
  if (missing != 0) fail("cannot write {}: {} bytes of data are missing", file_->target().string(), missing);
  file_->commit();
}

}  // namespace gladius
