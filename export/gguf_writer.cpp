#include <unordered_set>

#include "export/gguf.h"
#include "model/utf8.h"

namespace gladius {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void put_string(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

void put_value(std::string& out, const GgufValue& value) {
  std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>) {
          put_string(out, v);
        } else if constexpr (std::is_same_v<T, GgufArray>) {
          put(out, static_cast<uint32_t>(v.type));
          put<uint64_t>(out, v.size());
          for (const std::string& text : v.strings) put_string(out, text);
          out.append(reinterpret_cast<const char*>(v.scalars.data()), v.scalars.size());
        } else if constexpr (std::is_same_v<T, bool>) {
          put<uint8_t>(out, v ? 1 : 0);
        } else {
          put(out, v);
        }
      },
      value);
}

std::string header_bytes(const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors) {
  std::string out = "GGUF";
  put<uint32_t>(out, 3);
  put<uint64_t>(out, tensors.size());
  put<uint64_t>(out, metadata.entries().size());
  for (const auto& [key, value] : metadata.entries()) {
    put_string(out, key);
    put(out, static_cast<uint32_t>(type_of(value)));
    put_value(out, value);
  }
  for (const GgufTensor& tensor : tensors) {
    put_string(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.shape.rank()));
    for (int d = tensor.shape.rank() - 1; d >= 0; --d) put<int64_t>(out, tensor.shape[d]);
    put(out, tensor.type);
    put<uint64_t>(out, tensor.offset);
  }
  return out;
}

void check_text(const std::filesystem::path& path, std::string_view key, const std::string& text) {
  if (!utf8_is_valid(text)) fail("cannot write {}: the text of '{}' is not valid UTF-8", path.string(), key);
  if (text.find('\0') != text.npos)
    fail("cannot write {}: the text of '{}' contains a NUL character", path.string(), key);
}

// What a reader would refuse.
void check_metadata(const std::filesystem::path& path, const GgufMetadata& metadata) {
  for (const auto& [key, value] : metadata.entries()) {
    check_text(path, key, key);
    if (const auto* text = std::get_if<std::string>(&value)) check_text(path, key, *text);
    if (const auto* array = std::get_if<GgufArray>(&value)) {
      for (const std::string& text : array->strings) check_text(path, key, text);
    }
  }
}

uint64_t round_up(uint64_t n, uint64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<GgufTensor> tensors)
    : tensors_(std::move(tensors)) {
  if (const uint32_t* alignment = metadata.find<uint32_t>("general.alignment", path.string()))
    alignment_ = *alignment;
  if (alignment_ == 0 || alignment_ % 8 != 0)
    fail("cannot write {}: general.alignment is {}; it must be a multiple of 8", path.string(), alignment_);
  check_metadata(path, metadata);
  std::unordered_set<std::string_view> names;
  uint64_t data_bytes = 0;
  for (GgufTensor& tensor : tensors_) {
    if (tensor.name.empty() || tensor.name.size() > 63 || !names.insert(tensor.name).second) {
      fail("cannot write {}: '{}' is not a usable tensor name (empty, over 63 bytes, or there twice)",
           path.string(), tensor.name);
    }
    tensor.offset = data_bytes;
    data_bytes += round_up(tensor.bytes, alignment_);
  }
  const std::string header = header_bytes(metadata, tensors_);
  data_start_ = round_up(header.size(), alignment_);
  file_ = std::make_unique<AtomicFile>(path, data_start_ + data_bytes);
  file_->write(header);
  file_->write_zeros(data_start_ - header.size());
}

void GgufWriter::append(std::span<const std::byte> bytes) {
  if (current_ == tensors_.size() || bytes.size() > tensors_[current_].bytes - current_bytes_) {
    fail("cannot write {}: more data than its tensor records announce", file_->target().string());
  }
  file_->write(bytes);
  current_bytes_ += bytes.size();
  if (current_bytes_ < tensors_[current_].bytes) return;
  file_->write_zeros(round_up(current_bytes_, alignment_) - current_bytes_);
  ++current_;
  current_bytes_ = 0;
}

void GgufWriter::finish() {
  if (current_ != tensors_.size()) {
    fail("cannot write {}: the data of tensor '{}' is missing", file_->target().string(),
         tensors_[current_].name);
  }
  file_->commit();
}

}  // namespace gladius
