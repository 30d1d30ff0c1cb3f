// GGUF version 3, the container of llama.cpp (ggml/docs/gguf.md): typed metadata, tensor records, then
// aligned tensor data. The reader trusts nothing: every count, length, offset and product is checked before
// it is used. All errors name the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "engine/mapped_file.h"
#include "engine/tensor.h"
#include "export/atomic_file.h"

namespace gladius {

// The numbers are those in the file.
enum class GgufType : uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

std::string_view gguf_type_name(GgufType type);  // "UINT32"

// An array keeps its elements as the file holds them: a vocabulary has 150,000 of them.
struct GgufArray {
  GgufType type = GgufType::uint8;   // of the elements; never array
  std::vector<std::byte> scalars;    // packed little-endian elements, when they are not strings
  std::vector<std::string> strings;  // the elements when they are

  template <class T>
  static GgufArray of(std::span<const T> values);
  static GgufArray of(std::vector<std::string> strings);
  size_t size() const;
  template <class T>
  T get(size_t i) const;  // element i of scalars; T must be what `type` says
  bool operator==(const GgufArray&) const = default;
};

// The index of an alternative is its GgufType.
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string, GgufArray, uint64_t, int64_t, double>;

inline GgufType type_of(const GgufValue& value) { return static_cast<GgufType>(value.index()); }

// Keys and values in file order.
class GgufMetadata {
 public:
  using Entry = std::pair<std::string, GgufValue>;

  // Appends, or replaces the value where the key stands.
  void set(std::string key, GgufValue value);
  // Removes the key (if present) and appends it: how llama-quantize updates a key.
  void move_to_end(std::string key, GgufValue value);
  void erase(std::string_view key);

  const GgufValue* find(std::string_view key) const;  // null when absent
  const std::vector<Entry>& entries() const { return entries_; }

  // The value of a key that must have exactly this type. Throws Error when the type differs; `source` names
  // the file.
  template <class T>
  const T* find(std::string_view key, const std::string& source) const {
    const GgufValue* value = find(key);
    if (!value) return nullptr;
    const T* typed = std::get_if<T>(value);
    if (!typed) wrong_type(key, *value, GgufValue(T{}), source);
    return typed;
  }
  // The same for a key that must be there.
  template <class T>
  const T& get(std::string_view key, const std::string& source) const {
    const T* value = find<T>(key, source);
    if (!value) missing(key, source);
    return *value;
  }

 private:
  [[noreturn]] static void wrong_type(std::string_view key, const GgufValue& is, const GgufValue& wanted,
                                      const std::string& source);
  [[noreturn]] static void missing(std::string_view key, const std::string& source);

  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;  // of entries_
};

// Sizes of every tensor type that a file may hold, also those that no kernel here computes with.
struct GgufTensorType {
  uint32_t id;
  std::string_view name;
  int64_t block_size, block_bytes;
};
std::optional<GgufTensorType> gguf_tensor_type(uint32_t id);  // empty: unknown or withdrawn

struct GgufTensor {
  std::string name;
  uint32_t type;        // GgufTensorType::id, also a DType's number
  Shape shape;          // outermost first: the reverse of the file's order
  uint64_t offset = 0;  // from the start of the data part
  uint64_t bytes = 0;
};

// The record of a tensor yet to be written; offset is set by the writer.
GgufTensor gguf_tensor(std::string name, DType dtype, Shape shape);

class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  uint32_t version() const { return version_; }
  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(std::string_view name) const;  // null when absent
  std::span<const std::byte> data(const GgufTensor& tensor) const;
  // A view of the mapped file. Throws Error for a type that no kernel computes with.
  Tensor tensor(const GgufTensor& tensor) const;
  // Gives back the memory of the pages that such a view was read from; they are read again when needed.
  void release(const Tensor& view) const { file_->release({view.data(), view.bytes()}); }

 private:
  std::shared_ptr<const MappedFile> file_;
  uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> tensor_index_;
  uint64_t data_start_ = 0;
};

// Streams a file: header and records first, then each tensor's bytes in record order. Same input, same bytes.
class GgufWriter {
 public:
  // Alignment is metadata's general.alignment, or 32. Throws Error for what a reader would refuse.
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             std::vector<GgufTensor> tensors);
  void append(
      std::span<const std::byte> bytes);  // continues the current tensor; padding is added between tensors
  void finish();                          // throws Error when bytes are missing; commits the file

 private:
  std::unique_ptr<AtomicFile> file_;
  std::vector<GgufTensor> tensors_;
  size_t current_ = 0;
  uint64_t current_bytes_ = 0, data_start_ = 0, alignment_ = 32;
};

// The first element (or block, for quantised types) with a NaN or infinity among its values or F16 scales;
// empty when all are finite. Looked for by `threads` threads.
std::optional<size_t> first_not_finite(DType dtype, std::span<const std::byte> bytes, int threads = 1);
// Throws Error naming the first tensor of the file that holds a NaN or an infinity.
void check_tensor_values(const GgufFile& file, int threads = 1);

// ---- templates ----

template <class T>
GgufArray GgufArray::of(std::span<const T> values) {
  GgufArray array;
  array.type = static_cast<GgufType>(GgufValue(T{}).index());
  const auto bytes = std::as_bytes(values);
  array.scalars.assign(bytes.begin(), bytes.end());
  return array;
}

template <class T>
T GgufArray::get(size_t i) const {
  if (static_cast<GgufType>(GgufValue(T{}).index()) != type || i >= size()) {
    fail("array element {} is not a {}", i, gguf_type_name(static_cast<GgufType>(GgufValue(T{}).index())));
  }
  T value;
  std::copy_n(scalars.data() + i * sizeof(T), sizeof(T), reinterpret_cast<std::byte*>(&value));
  return value;
}

}  // namespace gladius
