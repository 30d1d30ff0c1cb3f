#include "export/importance.h"

#include <cmath>
#include <cstring>

#include "export/gguf.h"

namespace gladius {
namespace {

void check_values(const std::string& source, const std::string& weight, std::span<const float> values) {
  for (const float value : values) {
    if (!std::isfinite(value) || value < 0) {
      fail("{}: the importance of '{}' holds {}, but importances are finite and not negative", source, weight,
           value);
    }
  }
}

std::span<const float> f32_data(const GgufFile& file, const GgufTensor& tensor) {
  if (tensor.type != static_cast<uint32_t>(DType::F32)) {
    fail("{}: tensor '{}' must be F32 in an importance matrix", file.path().string(), tensor.name);
  }
  const auto bytes = file.data(tensor);
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}

ImportanceMatrix read_gguf_form(const std::filesystem::path& path) {
  constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
  const GgufFile file = GgufFile::open(path);
  const std::string source = path.string();
  const std::string* type = file.metadata().find<std::string>("general.type", source);
  if (!type || *type != "imatrix")
    fail("{}: this GGUF file is not an importance matrix (general.type)", source);
  ImportanceMatrix result;
  result.file = source;
  if (const auto* datasets = file.metadata().find<GgufArray>("imatrix.datasets", source)) {
    if (!datasets->strings.empty()) result.dataset = datasets->strings.front();
  }
  if (const auto* chunks = file.metadata().find<uint32_t>("imatrix.chunk_count", source))
    result.chunks = *chunks;
  for (const GgufTensor& sums : file.tensors()) {
    if (!sums.name.ends_with(kSums)) continue;
    const std::string weight = sums.name.substr(0, sums.name.size() - kSums.size());
    const GgufTensor* counts = file.find(weight + std::string(kCounts));
    if (!counts) fail("{}: '{}{}' is missing beside '{}'", source, weight, kCounts, sums.name);
    if (counts->shape.elements() != 1 || sums.shape.rows() != 1) {
      fail("{}: '{}' holds several matrices (a mixture of experts), which is not supported", source,
           sums.name);
    }
    const auto sum = f32_data(file, sums);
    const float count = f32_data(file, *counts)[0];
    // A count of 0: the weight was never used while calibrating; it counts as unweighted, as in llama.cpp.
    std::vector<float> values(sum.size(), 1.0f);
    for (size_t i = 0; count > 0 && i < sum.size(); ++i) values[i] = sum[i] / count;
    check_values(source, weight, values);
    result.values.emplace(weight, std::move(values));
  }
  return result;
}

// The older form: entries of (name, calls, n, n floats = mean * calls), then the number of chunks and the
// dataset's name.
ImportanceMatrix read_dat_form(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::string source = path.string();
  auto rest = file->bytes();
  const auto take = [&](int64_t count) {
    if (count < 0 || static_cast<uint64_t>(count) > rest.size()) {
      fail("{}: this is not an importance matrix, or it is truncated at byte {}", source,
           file->bytes().size() - rest.size());
    }
    const auto taken = rest.first(static_cast<size_t>(count));
    rest = rest.subspan(static_cast<size_t>(count));
    return taken;
  };
  const auto integer = [&] {
    int32_t value;
    std::memcpy(&value, take(4).data(), 4);
    return value;
  };
  const auto text = [&](int32_t length) {
    const auto bytes = take(length);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };

  ImportanceMatrix result;
  result.file = source;
  const int32_t entries = integer();
  if (entries < 1) fail("{}: it claims {} entries; this is not an importance matrix", source, entries);
  for (int32_t entry = 0; entry < entries; ++entry) {
    const std::string weight = text(integer());
    const int32_t calls = integer(), count = integer();
    if (count < 1) fail("{}: '{}' has {} values", source, weight, count);
    const auto bytes = take(int64_t{4} * count);
    std::vector<float> values(static_cast<size_t>(count));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    for (float& value : values) value = calls > 0 ? value / static_cast<float>(calls) : value;
    check_values(source, weight, values);
    if (!result.values.emplace(weight, std::move(values)).second)
      fail("{}: '{}' appears twice", source, weight);
  }
  if (!rest.empty()) {  // files of early versions end here
    const int32_t chunks = integer();
    if (chunks < 0) fail("{}: it claims {} chunks", source, chunks);
    result.chunks = static_cast<uint32_t>(chunks);
    result.dataset = text(integer());
  }
  return result;
}

}  // namespace

const std::vector<float>* ImportanceMatrix::find(std::string_view weight) const {
  const auto position = values.find(weight);
  return position == values.end() ? nullptr : &position->second;
}

ImportanceMatrix read_importance(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const bool gguf = file->bytes().size() >= 4 && std::memcmp(file->bytes().data(), "GGUF", 4) == 0;
  return gguf ? read_gguf_form(path) : read_dat_form(path);
}

}  // namespace gladius
