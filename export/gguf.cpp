// Metadata, the table of tensor types, and the scan for values that are not finite. Reading and writing:
// gguf_reader.cpp, gguf_writer.cpp.
#include "export/gguf.h"

#include <array>
#include <atomic>
#include <cstring>
#include <limits>

#include "kernels/parallel.h"

namespace gladius {
namespace {

constexpr std::array<std::string_view, 13> kTypeNames = {"UINT8",  "INT8",    "UINT16", "INT16",  "UINT32",
                                                         "INT32",  "FLOAT32", "BOOL",   "STRING", "ARRAY",
                                                         "UINT64", "INT64",   "FLOAT64"};
constexpr std::array<size_t, 13> kTypeBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// Types without a DType (ggml's enumeration). They can be listed and copied, not computed with.
constexpr std::array<GgufTensorType, 20> kOtherTypes = {{
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},   {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
}};

// The first of `count` words, `stride` bytes apart, whose exponent bits are all set.
template <class Word, Word exponent>
std::optional<size_t> scan(const std::byte* data, size_t count, size_t stride) {
  const auto not_finite = [](const std::byte* at) -> Word {
    Word bits;
    std::memcpy(&bits, at, sizeof(bits));
    return (bits & exponent) == exponent ? 1 : 0;
  };
  size_t i = 0;
  if (stride == sizeof(Word)) {  // a piece at a time without a branch: vectors of them
    constexpr size_t piece = 2048;
    for (; i + piece <= count; i += piece) {
      Word any = 0;
      for (size_t j = 0; j < piece; ++j) any |= not_finite(data + (i + j) * sizeof(Word));
      if (any) break;
    }
  }
  for (; i < count; ++i)
    if (not_finite(data + i * stride)) return i;
  return std::nullopt;
}

constexpr uint16_t kHalfExponent = 0x7C00, kBfloatExponent = 0x7F80;
constexpr uint32_t kFloatExponent = 0x7F800000;

std::optional<size_t> first_not_finite_of(DType dtype, std::span<const std::byte> bytes) {
  const auto stride = static_cast<size_t>(dtype_info(dtype).block_bytes);
  const size_t count = bytes.size() / stride;
  const std::byte* data = bytes.data();
  const auto halves = [&](size_t at) { return scan<uint16_t, kHalfExponent>(data + at, count, stride); };
  switch (dtype) {
    case DType::F32:
      return scan<uint32_t, kFloatExponent>(data, count, stride);
    case DType::BF16:
      return scan<uint16_t, kBfloatExponent>(data, count, stride);
    case DType::F16:
    case DType::Q4_0:
    case DType::Q5_0:
    case DType::Q8_0:
      return halves(0);
    case DType::Q4_1:
    case DType::Q5_1:
    case DType::Q8_1:
    case DType::Q4_K:
    case DType::Q5_K: {  // a scale and a minimum
      const auto scale = halves(0), minimum = halves(2);
      return scale && (!minimum || *scale <= *minimum) ? scale : minimum;
    }
    case DType::Q6_K:
      return halves(208);
    case DType::Q8_K:
      return scan<uint32_t, kFloatExponent>(data, count, stride);
    case DType::I32:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  const auto i = static_cast<size_t>(type);
  return i < kTypeNames.size() ? kTypeNames[i] : "unknown";
}

GgufArray GgufArray::of(std::vector<std::string> strings) {
  GgufArray array;
  array.type = GgufType::string;
  array.strings = std::move(strings);
  return array;
}

size_t GgufArray::size() const {
  return type == GgufType::string ? strings.size() : scalars.size() / kTypeBytes[static_cast<size_t>(type)];
}

void GgufMetadata::set(std::string key, GgufValue value) {
  const auto [position, added] = index_.try_emplace(key, entries_.size());
  if (added) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[position->second].second = std::move(value);
  }
}

void GgufMetadata::move_to_end(std::string key, GgufValue value) {
  erase(key);
  set(std::move(key), std::move(value));
}

void GgufMetadata::erase(std::string_view key) {
  const auto position = index_.find(std::string(key));
  if (position == index_.end()) return;
  const size_t removed = position->second;
  entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(removed));
  index_.erase(position);
  for (auto& [name, i] : index_) {
    if (i > removed) --i;
  }
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto position = index_.find(std::string(key));
  return position == index_.end() ? nullptr : &entries_[position->second].second;
}

void GgufMetadata::wrong_type(std::string_view key, const GgufValue& is, const GgufValue& wanted,
                              const std::string& source) {
  fail("{}: metadata key '{}' has type {}, but must be {}", source, key, gguf_type_name(type_of(is)),
       gguf_type_name(type_of(wanted)));
}

void GgufMetadata::missing(std::string_view key, const std::string& source) {
  fail("{}: metadata key '{}' is missing", source, key);
}

std::optional<GgufTensorType> gguf_tensor_type(uint32_t id) {
  if (const auto dtype = dtype_from_id(id)) {
    const DTypeInfo& info = dtype_info(*dtype);
    return GgufTensorType{id, info.name, info.block_size, info.block_bytes};
  }
  for (const GgufTensorType& type : kOtherTypes) {
    if (type.id == id) return type;
  }
  return std::nullopt;
}

GgufTensor gguf_tensor(std::string name, DType dtype, Shape shape) {
  const uint64_t bytes = tensor_bytes(dtype, shape);
  return {std::move(name), static_cast<uint32_t>(dtype), shape, 0, bytes};
}

std::optional<size_t> first_not_finite(DType dtype, std::span<const std::byte> bytes, int threads) {
  constexpr int64_t grain = 1 << 16;  // blocks
  constexpr size_t none = std::numeric_limits<size_t>::max();
  const auto block = static_cast<size_t>(dtype_info(dtype).block_bytes);
  std::atomic<size_t> first{none};
  parallel_ranges(threads, static_cast<int64_t>(bytes.size() / block), grain,
                  [&](int64_t begin, int64_t end) {
                    const auto from = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
                    const auto found = first_not_finite_of(dtype, bytes.subspan(from * block, count * block));
                    if (!found) return;
                    size_t before = first;
                    while (from + *found < before && !first.compare_exchange_weak(before, from + *found)) {
                    }
                  });
  return first == none ? std::nullopt : std::optional(first.load());
}

void check_tensor_values(const GgufFile& file, int threads) {
  for (const GgufTensor& tensor : file.tensors()) {
    const auto dtype = dtype_from_id(tensor.type);
    if (!dtype) continue;
    if (const auto i = first_not_finite(*dtype, file.data(tensor), threads)) {
      fail(
          "{}: tensor '{}' holds a NaN or an infinity ({} {} of type {}); the file is damaged or its "
          "training diverged",
          file.path().string(), tensor.name, dtype_info(*dtype).quantised ? "block" : "element", *i,
          dtype_info(*dtype).name);
    }
  }
}

}  // namespace gladius
