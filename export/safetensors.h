// Safetensors (huggingface/safetensors): a JSON header with names, types, shapes and offsets, then the data.
// Weights of Hugging Face folders and checkpoints. The reader trusts nothing; all errors name the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/mapped_file.h"
#include "engine/tensor.h"
#include "export/atomic_file.h"

namespace gladius {

struct SafetensorsTensor {
  std::string name;
  std::string dtype;            // as the format spells it: "F32", "BF16", "I64"
  std::vector<int64_t> shape;   // outermost first; empty for a scalar
  uint64_t begin = 0, end = 0;  // bytes, from the start of the data

  uint64_t bytes() const { return end - begin; }
};

// A record to be written: begin and end are set by the writer.
SafetensorsTensor safetensors_tensor(std::string name, std::string dtype, std::vector<int64_t> shape);
SafetensorsTensor safetensors_tensor(std::string name, DType dtype, const Shape& shape);

// Bytes of an element; empty for a name that the format does not know.
std::optional<int64_t> safetensors_dtype_bytes(std::string_view dtype);

using SafetensorsMetadata = std::map<std::string, std::string>;  // the header's __metadata__

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  const SafetensorsMetadata& metadata() const { return metadata_; }
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }  // by offset
  const SafetensorsTensor* find(std::string_view name) const;                 // null when absent
  std::span<const std::byte> data(const SafetensorsTensor& tensor) const;
  // A view of the mapped file (of a copy where its bytes are not aligned). Throws Error unless the dtype is
  // F32, F16, BF16 or I32 and the shape has one to four dimensions, none of them 0.
  Tensor tensor(const SafetensorsTensor& tensor) const;

 private:
  void read_header(std::string_view json);
  void check_layout();

  std::shared_ptr<const MappedFile> file_;
  uint64_t data_start_ = 0;
  SafetensorsMetadata metadata_;
  std::vector<SafetensorsTensor> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

// The weights of a folder: model.safetensors, or the parts that model.safetensors.index.json names.
class SafetensorsFolder {
 public:
  static SafetensorsFolder open(const std::filesystem::path& folder);

  struct Found {
    const SafetensorsFile* file;
    const SafetensorsTensor* tensor;
  };
  std::optional<Found> find(std::string_view name) const;
  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  std::vector<SafetensorsFile> files_;
};

// Streams a file: the header first, then each tensor's bytes in record order. Same input, same bytes.
class SafetensorsWriter {
 public:
  // Throws Error for an unknown dtype, a name twice, or a tensor whose bytes would not be aligned to its
  // elements (order them by descending element size).
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors,
                    const SafetensorsMetadata& metadata);
  void append(std::span<const std::byte> bytes);  // continues where the last call ended
  void finish();                                  // throws Error when bytes are missing; commits the file

 private:
  std::unique_ptr<AtomicFile> file_;
  uint64_t header_bytes_ = 0, data_bytes_ = 0;
};

}  // namespace gladius
