#include "export/importance.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "export/atomic_file.h"
#include "export/gguf.h"

namespace gladius {
namespace {

using Entry = ImportanceMatrix::Entry;

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr const char *kType = "general.type", *kDatasets = "imatrix.datasets",
                     *kChunks = "imatrix.chunk_count", *kChunkSize = "imatrix.chunk_size";

void check_sums(const std::string& source, const std::string& weight, const Entry& entry) {
  for (const float sum : entry.sums) {
    if (!std::isfinite(sum) || sum < 0) {
      fail("{}: the importance of '{}' holds {}, but importances are finite and not negative", source, weight,
           sum);
    }
  }
}

// ---- the GGUF form ----

std::span<const float> f32_data(const GgufFile& file, const GgufTensor& tensor) {
  if (tensor.type != static_cast<uint32_t>(DType::F32)) {
    fail("{}: tensor '{}' must be F32 in an importance matrix", file.path().string(), tensor.name);
  }
  const auto bytes = file.data(tensor);
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}

// A count is a float in the file, rounded where it is above 2^24.
int64_t whole_count(const std::string& source, const std::string& tensor, float count) {
  if (!(count >= 0 && count <= 0x1p53f) || count != std::floor(count))
    fail("{}: '{}' holds {}, which is no number of tokens", source, tensor, count);
  return static_cast<int64_t>(count);
}

ImportanceMatrix read_gguf_form(const std::filesystem::path& path) {
  const GgufFile file = GgufFile::open(path);
  const std::string source = path.string();
  const std::string* type = file.metadata().find<std::string>(kType, source);
  if (!type || *type != "imatrix")
    fail("{}: this GGUF file is not an importance matrix (general.type)", source);
  ImportanceMatrix result;
  result.file = source;
  if (const auto* datasets = file.metadata().find<GgufArray>(kDatasets, source))
    result.datasets = datasets->strings;
  if (const auto* chunks = file.metadata().find<uint32_t>(kChunks, source)) result.chunks = *chunks;
  if (const auto* size = file.metadata().find<uint32_t>(kChunkSize, source))
    result.chunk_size = std::max(*size, 1u);
  for (const GgufTensor& sums : file.tensors()) {
    if (!sums.name.ends_with(kSums)) continue;
    const std::string weight = sums.name.substr(0, sums.name.size() - kSums.size());
    const GgufTensor* counts = file.find(weight + std::string(kCounts));
    if (!counts) fail("{}: '{}{}' is missing beside '{}'", source, weight, kCounts, sums.name);
    if (counts->shape.elements() != 1 || sums.shape.rows() != 1) {
      fail("{}: '{}' holds several matrices (a mixture of experts), which is not supported", source,
           sums.name);
    }
    const auto values = f32_data(file, sums);
    Entry entry{{values.begin(), values.end()},
                whole_count(source, counts->name, f32_data(file, *counts)[0])};
    check_sums(source, weight, entry);
    result.entries.emplace(weight, std::move(entry));
  }
  if (result.entries.empty()) fail("{}: this importance matrix has no entries (NAME{})", source, kSums);
  return result;
}

void write_gguf_form(const std::filesystem::path& path, const ImportanceMatrix& matrix) {
  GgufMetadata metadata;
  metadata.set(kType, std::string("imatrix"));
  metadata.set(kDatasets, GgufArray::of(matrix.datasets));
  metadata.set(kChunks, matrix.chunks);
  metadata.set(kChunkSize, matrix.chunk_size);
  std::vector<GgufTensor> records;
  for (const auto& [weight, entry] : matrix.entries) {
    records.push_back(
        gguf_tensor(weight + std::string(kSums), DType::F32, {static_cast<int64_t>(entry.sums.size())}));
    records.push_back(gguf_tensor(weight + std::string(kCounts), DType::F32, {1}));
  }
  GgufWriter writer(path, metadata, std::move(records));
  for (const auto& [weight, entry] : matrix.entries) {
    const auto count = static_cast<float>(entry.count);
    writer.append(std::as_bytes(std::span(entry.sums)));
    writer.append(std::as_bytes(std::span(&count, 1)));
  }
  writer.finish();
}

// ---- the older form: entries of (name, chunks, n, n floats = mean * chunks), then the number of chunks and
// ---- the dataset's name; every number and length is an int32

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
  for (int32_t i = 0; i < entries; ++i) {
    const std::string weight = text(integer());
    const int32_t chunks = integer(), count = integer();
    if (chunks < 0) fail("{}: '{}' claims {} chunks", source, weight, chunks);
    if (count < 1) fail("{}: '{}' has {} values", source, weight, count);
    const auto bytes = take(int64_t{4} * count);
    Entry entry{std::vector<float>(static_cast<size_t>(count)), std::max(chunks, 1)};
    std::memcpy(entry.sums.data(), bytes.data(), bytes.size());
    check_sums(source, weight, entry);
    if (!result.entries.emplace(weight, std::move(entry)).second)
      fail("{}: '{}' appears twice", source, weight);
  }
  if (!rest.empty()) {  // files of early versions end here
    const int32_t chunks = integer();
    if (chunks < 0) fail("{}: it claims {} chunks", source, chunks);
    result.chunks = static_cast<uint32_t>(chunks);
    result.datasets = {text(integer())};
  }
  return result;
}

void write_dat_form(const std::filesystem::path& path, const ImportanceMatrix& matrix) {
  AtomicFile file(path);
  const auto integer = [&](uint64_t value) {
    if (value > std::numeric_limits<int32_t>::max())
      fail("cannot write {}: {} is more than its form can hold", path.string(), value);
    const auto number = static_cast<int32_t>(value);
    file.write(std::as_bytes(std::span(&number, 1)));
  };
  const auto text = [&](const std::string& value) {
    integer(value.size());
    file.write(value);
  };
  integer(matrix.entries.size());
  for (const auto& [weight, entry] : matrix.entries) {
    const int64_t size = matrix.chunk_size, chunks = std::max<int64_t>(1, (entry.count + size - 1) / size);
    text(weight);
    integer(static_cast<uint64_t>(chunks));
    integer(entry.sums.size());
    std::vector<float> values = chunks == entry.count ? entry.sums : matrix.means(weight);
    if (chunks != entry.count) {
      for (float& value : values) value *= static_cast<float>(chunks);
    }
    file.write(std::as_bytes(std::span(values)));
  }
  integer(matrix.chunks);
  text(matrix.datasets.empty() ? std::string() : matrix.datasets.back());
  file.commit();
}

}  // namespace

std::vector<float> ImportanceMatrix::means(std::string_view weight) const {
  const auto position = entries.find(weight);
  if (position == entries.end()) return {};
  const Entry& entry = position->second;
  std::vector<float> result(entry.sums.size(), 1.0f);
  if (entry.count == 0) return result;
  const auto count = static_cast<float>(entry.count);
  std::transform(entry.sums.begin(), entry.sums.end(), result.begin(),
                 [=](float sum) { return sum / count; });
  return result;
}

ImportanceMatrix read_importance(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const bool gguf = file->bytes().size() >= 4 && std::memcmp(file->bytes().data(), "GGUF", 4) == 0;
  return gguf ? read_gguf_form(path) : read_dat_form(path);
}

void write_importance(const std::filesystem::path& path, const ImportanceMatrix& matrix,
                      ImportanceForm form) {
  if (matrix.entries.empty()) fail("cannot write {}: the importance matrix has no entries", path.string());
  for (const auto& [weight, entry] : matrix.entries) {
    if (weight.empty() || entry.sums.empty() || entry.count < 0)
      fail("cannot write {}: the entry '{}' is incomplete", path.string(), weight);
    check_sums(path.string(), weight, entry);
  }
  form == ImportanceForm::gguf ? write_gguf_form(path, matrix) : write_dat_form(path, matrix);
}

}  // namespace gladius
