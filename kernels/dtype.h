// Element types, and the sizes of the blocks that quantised types are stored in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace gladius {

// The numbers are the tensor type ids of a GGUF file (ggml's enumeration): files need no second table.
enum class DType : uint8_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q8_1 = 9,  // activations only, never in a file
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  Q8_K = 15,  // activations only, never in a file
  I32 = 26,
  BF16 = 30,
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;  // as GGUF tools spell it, e.g. "Q4_K"
  int64_t block_size;     // elements in a block
  int64_t block_bytes;    // bytes of a block
  // What activations are converted to for a product with it: ggml's choice, but for F16, whose products with
  // floats cost no more than with halves.
  DType dot_with;
  bool quantised;  // stored in blocks with scales
};

// Never fails for a valid enumerator.
const DTypeInfo& dtype_info(DType dtype);
// Looks a type up by its GGUF id or by its name (case-insensitive); empty when unknown.
std::optional<DType> dtype_from_id(uint32_t gguf_id);
std::optional<DType> dtype_from_name(std::string_view name);

// Whether a weight matrix may be stored so: every type but I32 and those of activations.
constexpr bool is_weight_type(DType dtype) {
  return dtype != DType::I32 && dtype != DType::Q8_1 && dtype != DType::Q8_K;
}

// Bytes of a row of n elements; n must be a multiple of the block size.
inline int64_t row_bytes(DType dtype, int64_t n) {
  const DTypeInfo& info = dtype_info(dtype);
  return n / info.block_size * info.block_bytes;
}

}  // namespace gladius
