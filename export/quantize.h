// File types: which tensor is stored in which element type (the mixes of llama.cpp's llama-quantize), and
// writing GGUF files of a type from a model or from another GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "export/gguf.h"
#include "export/importance.h"
#include "kernels/backend.h"

namespace gladius {

// The numbers are GGUF's general.file_type.
enum class FileType : uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q8_0 = 7,
  Q5_0 = 8,
  Q5_1 = 9,
  Q4_K_S = 14,
  Q4_K_M = 15,
  Q5_K_S = 16,
  Q5_K_M = 17,
  Q6_K = 18,
  BF16 = 32,
};

std::string_view file_type_name(FileType type);       // "Q4_K_M"
FileType file_type_from_name(std::string_view name);  // any case; throws Error listing the names
std::optional<FileType> file_type_from_id(uint32_t general_file_type);
std::vector<std::string_view> file_type_names();

// What the choice of types depends on besides a tensor's own name and shape.
struct MixContext {
  int64_t layers = 0;
  bool wide_grouped = false;  // 80 layers with shared key/value heads (Llama 70B): attn_v keeps more bits
  bool tied = false;          // no output.weight: the embedding takes its type
  bool importance = false;    // an importance matrix is used
};

// The type that llama-quantize gives a tensor: `stored` for norms, vectors and whatever is not a weight. Rows
// that are no multiple of 256 (or of 32) fall back as there: Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to Q8_0, and
// those to F16.
uint32_t choose_type(std::string_view name, const Shape& shape, uint32_t stored, FileType type,
                     const MixContext& context);

// The importances of a tensor's columns; empty: all count alike, as without a matrix (null) or where it has
// none for the tensor. Throws Error for a matrix of another number of columns.
std::vector<float> column_importance(const ImportanceMatrix* matrix, std::string_view name, int64_t columns);

// A tensor to be written, in whatever type it is stored now.
struct SourceTensor {
  GgufTensor record;
  std::span<const std::byte> data;
};

struct QuantizeStep {
  std::string_view name;  // of the tensor in hand
  uint64_t done, total;   // elements of all tensors
};

// A tensor whose rows are no whole number of its type's blocks, and what it was given instead.
struct Fallback {
  std::string name;
  int64_t columns;  // of a row
  DType wanted, used;
};

struct QuantizeOptions {
  FileType type = FileType::Q4_K_M;
  const ImportanceMatrix* importance = nullptr;  // null: all columns count alike
  bool requantize = false;  // allow tensors that are quantised already to be quantised again
  std::function<void(const QuantizeStep&)> progress{};  // called as the work goes on; may be empty, may throw
};

// Writes tensors converted to a file type, ordered as llama-quantize does (outside the layers first, then by
// layer and name). metadata gets general.quantization_version and general.file_type, and quantize.imatrix.*
// where a matrix is used. Throws Error naming the tensor for values that are not finite, before or after
// conversion, and for a matrix that does not fit; nothing half-written stays. Returns the tensors whose type
// fell back to another.
std::vector<Fallback> write_gguf_as(const std::filesystem::path& path, GgufMetadata metadata,
                                    std::vector<SourceTensor> tensors, const QuantizeOptions& options,
                                    Backend& backend);

// Converts a Llama-architecture GGUF file, keeping every metadata key that it does not know.
std::vector<Fallback> quantize_file(const std::filesystem::path& in, const std::filesystem::path& out,
                                    const QuantizeOptions& options, Backend& backend);

}  // namespace gladius
