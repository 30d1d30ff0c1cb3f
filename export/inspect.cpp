#include "export/inspect.h"

#include <algorithm>
#include <cstring>

#include "engine/error.h"
#include "export/gguf.h"
#include "export/json.h"
#include "export/safetensors.h"
#include "export/tokenizer_json.h"
#include "model/utf8.h"

namespace gladius {
namespace {

constexpr size_t kShownElements = 4;
constexpr size_t kShownBytes = 200;

// One line, not too long, cut between characters.
std::string shortened(std::string_view text) {
  size_t end = std::min(text.size(), kShownBytes);
  while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;  // whole characters
  std::string line = printable(text.substr(0, end));
  if (end < text.size()) line += fmt::format("… ({} bytes)", text.size());
  return line;
}

template <class T>
std::string scalar_text(T value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return shortened(value);
  } else if constexpr (std::is_same_v<T, uint8_t> || std::is_same_v<T, int8_t>) {
    return std::to_string(value);
  } else {
    return fmt::format("{}", value);
  }
}

template <class T>
std::string element_text(const GgufArray& array, size_t i) {
  return scalar_text(array.get<T>(i));
}

std::string element_text(const GgufArray& array, size_t i) {
  switch (array.type) {
    case GgufType::uint8:
      return element_text<uint8_t>(array, i);
    case GgufType::int8:
      return element_text<int8_t>(array, i);
    case GgufType::uint16:
      return element_text<uint16_t>(array, i);
    case GgufType::int16:
      return element_text<int16_t>(array, i);
    case GgufType::uint32:
      return element_text<uint32_t>(array, i);
    case GgufType::int32:
      return element_text<int32_t>(array, i);
    case GgufType::float32:
      return element_text<float>(array, i);
    case GgufType::boolean:
      return element_text<bool>(array, i);
    case GgufType::uint64:
      return element_text<uint64_t>(array, i);
    case GgufType::int64:
      return element_text<int64_t>(array, i);
    case GgufType::float64:
      return element_text<double>(array, i);
    case GgufType::string:
      return '"' + shortened(array.strings[i]) + '"';
    case GgufType::array:
      break;  // never an element
  }
  return "?";
}

std::string array_text(const GgufArray& array) {
  std::string text = fmt::format("{}[{}] [", gguf_type_name(array.type), array.size());
  for (size_t i = 0; i < array.size() && i < kShownElements; ++i)
    text += (i ? ", " : "") + element_text(array, i);
  return text + (array.size() > kShownElements ? ", …]" : "]");
}

std::string value_text(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value)) return array_text(*array);
  const std::string text = std::visit(
      [](const auto& v) -> std::string {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, GgufArray>) {
          return {};
        } else {
          return scalar_text(v);
        }
      },
      value);
  return fmt::format("{} {}", gguf_type_name(type_of(value)), text);
}

void add_totals(FileDescription& description) {
  for (const auto& tensor : description.tensors) {
    description.tensor_bytes += tensor.bytes;
    description.parameters += tensor.elements;
  }
  if (description.parameters > 0) {
    description.bits_per_weight =
        8.0 * static_cast<double>(description.tensor_bytes) / static_cast<double>(description.parameters);
  }
}

FileDescription describe_gguf(const std::filesystem::path& path) {
  const GgufFile file = GgufFile::open(path);
  FileDescription description;
  description.format = fmt::format("GGUF v{}", file.version());
  for (const auto& [key, value] : file.metadata().entries())
    description.metadata.emplace_back(printable(key), value_text(value));
  if (const GgufValue* chat = file.metadata().find("tokenizer.chat_template"))
    if (const auto* jinja = std::get_if<std::string>(chat)) description.chat_template = *jinja;
  description.certificate = read_certificate(file);
  if (description.certificate)
    description.certificate_state = check_certificate(file, *description.certificate);
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<int64_t> shape;
    for (int d = 0; d < tensor.shape.rank(); ++d) shape.push_back(tensor.shape[d]);
    description.tensors.push_back({printable(tensor.name), std::string(gguf_tensor_type(tensor.type)->name),
                                   std::move(shape), tensor.shape.elements(), tensor.bytes});
  }
  return description;
}

void add_safetensors(const SafetensorsFile& file, FileDescription& description) {
  for (const auto& [key, value] : file.metadata())
    description.metadata.emplace_back(printable(key), shortened(value));
  for (const SafetensorsTensor& tensor : file.tensors()) {
    const int64_t elements = static_cast<int64_t>(tensor.bytes()) / *safetensors_dtype_bytes(tensor.dtype);
    description.tensors.push_back(
        {printable(tensor.name), tensor.dtype, tensor.shape, elements, tensor.bytes()});
  }
}

FileDescription describe_folder(const std::filesystem::path& folder) {
  FileDescription description;
  description.format = "Hugging Face folder";
  const auto config = MappedFile::open(folder / "config.json");
  const std::string_view text(reinterpret_cast<const char*>(config->bytes().data()), config->bytes().size());
  const nlohmann::json parsed = parse_json(text, config->path().string());
  JsonObject(parsed, config->path().string());  // it must be an object
  for (const auto& [key, value] : parsed.items())
    description.metadata.emplace_back("config." + printable(key), shortened(value.dump()));
  description.chat_template = read_hf_chat_template(folder);
  const SafetensorsFolder weights = SafetensorsFolder::open(folder);
  for (const SafetensorsFile& file : weights.files()) {
    add_safetensors(file, description);
    description.file_bytes += std::filesystem::file_size(file.path());
  }
  return description;
}

}  // namespace

FileDescription inspect(const std::filesystem::path& path) {
  std::error_code ignored;
  FileDescription description;
  if (std::filesystem::is_directory(path, ignored)) {
    description = describe_folder(path);
  } else {
    const auto file = MappedFile::open(path);
    const auto bytes = file->bytes();
    if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) {
      description = describe_gguf(path);
    } else if (bytes.size() >= 9 && bytes[8] == std::byte{'{'}) {
      const SafetensorsFile tensors = SafetensorsFile::open(path);
      description.format = tensors.metadata().contains("gladius.checkpoint") ? "checkpoint" : "safetensors";
      add_safetensors(tensors, description);
    } else {
      fail("{}: this is neither a GGUF file nor a safetensors file nor a checkpoint", path.string());
    }
    description.file_bytes = bytes.size();
  }
  add_totals(description);
  return description;
}

}  // namespace gladius
