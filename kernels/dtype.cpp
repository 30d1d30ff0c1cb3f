#include "kernels/dtype.h"

#include <array>

namespace gladius {
namespace {

constexpr std::array<DTypeInfo, 14> kTypes = {{
    {DType::F32, "F32", 1, 4, DType::F32, false},
    {DType::F16, "F16", 1, 2, DType::F32, false},
    {DType::Q4_0, "Q4_0", 32, 18, DType::Q8_0, true},
    {DType::Q4_1, "Q4_1", 32, 20, DType::Q8_1, true},
    {DType::Q5_0, "Q5_0", 32, 22, DType::Q8_0, true},
    {DType::Q5_1, "Q5_1", 32, 24, DType::Q8_1, true},
    {DType::Q8_0, "Q8_0", 32, 34, DType::Q8_0, true},
    {DType::Q8_1, "Q8_1", 32, 36, DType::Q8_1, true},
    {DType::Q4_K, "Q4_K", 256, 144, DType::Q8_K, true},
    {DType::Q5_K, "Q5_K", 256, 176, DType::Q8_K, true},
    {DType::Q6_K, "Q6_K", 256, 210, DType::Q8_K, true},
    {DType::Q8_K, "Q8_K", 256, 292, DType::Q8_K, true},
    {DType::I32, "I32", 1, 4, DType::I32, false},
    {DType::BF16, "BF16", 1, 2, DType::BF16, false},
}};

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (upper(a[i]) != upper(b[i])) return false;
  }
  return true;
}

}  // namespace

const DTypeInfo& dtype_info(DType dtype) {
  for (const DTypeInfo& info : kTypes) {
    if (info.dtype == dtype) return info;
  }
  return kTypes[0];
}

std::optional<DType> dtype_from_id(uint32_t gguf_id) {
  for (const DTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.dtype) == gguf_id) return info.dtype;
  }
  return std::nullopt;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& info : kTypes) {
    if (equal_ignoring_case(info.name, name)) return info.dtype;
  }
  return std::nullopt;
}

}  // namespace gladius
