#include <array>
#include <cstring>
#include <limits>

#include "export/gguf.h"
#include "model/utf8.h"

namespace gladius {
namespace {

constexpr uint64_t kMaxStringBytes = uint64_t{1} << 30;
constexpr uint64_t kMaxArrayElements = uint64_t{1} << 30;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxNameBytes = 63;
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;           // key of one character, type, one-byte value
constexpr uint64_t kMinTensorBytes = 8 + 0 + 4 + 8 + 4 + 8;  // empty name, one dimension

// A cursor over the mapped bytes; every read is checked.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string path) : bytes_(bytes), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(uint64_t count, std::string_view what) {
    if (count > remaining()) {
      fail("{}: the file ends inside {}: {} bytes needed at byte {}, {} left; it is truncated or damaged",
           path_, what, count, position_, remaining());
    }
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <class T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string read_string(std::string_view what) {
    const auto length = read<uint64_t>(what);
    if (length > kMaxStringBytes) fail("{}: {} claims a length of {} bytes", path_, what, length);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  std::string path_;
  uint64_t position_ = 0;
};

void check_text(const Cursor& cursor, std::string_view text, std::string_view what) {
  if (!utf8_is_valid(text)) fail("{}: {} is not valid UTF-8", cursor.path(), what);
  if (text.find('\0') != std::string_view::npos) fail("{}: {} contains a NUL character", cursor.path(), what);
}

bool read_bool(Cursor& cursor, std::string_view what) {
  const auto byte = cursor.read<uint8_t>(what);
  if (byte > 1) fail("{}: {} holds {} where only 0 and 1 are allowed", cursor.path(), what, byte);
  return byte == 1;
}

uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::uint8:
    case GgufType::int8:
    case GgufType::boolean:
      return 1;
    case GgufType::uint16:
    case GgufType::int16:
      return 2;
    case GgufType::uint32:
    case GgufType::int32:
    case GgufType::float32:
      return 4;
    case GgufType::uint64:
    case GgufType::int64:
    case GgufType::float64:
      return 8;
    default:
      return 0;
  }
}

GgufArray read_array(Cursor& cursor, const std::string& what) {
  GgufArray array;
  const auto type = cursor.read<uint32_t>(what);
  const auto count = cursor.read<uint64_t>(what);
  array.type = static_cast<GgufType>(type);
  if (array.type == GgufType::array)
    fail("{}: {} is an array of arrays, which GGUF readers reject", cursor.path(), what);
  const bool strings = array.type == GgufType::string;
  const uint64_t element_bytes = strings ? 8 : scalar_bytes(array.type);
  if (element_bytes == 0) fail("{}: {} has the unknown element type {}", cursor.path(), what, type);
  if (count > kMaxArrayElements || count > cursor.remaining() / element_bytes) {
    fail("{}: {} claims {} elements, more than the rest of the file holds", cursor.path(), what, count);
  }
  if (strings) {
    array.strings.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      array.strings.push_back(cursor.read_string(what));
      check_text(cursor, array.strings.back(), what);
    }
    return array;
  }
  const auto bytes = cursor.take(count * element_bytes, what);
  array.scalars.assign(bytes.begin(), bytes.end());
  if (array.type == GgufType::boolean) {
    for (const std::byte value : bytes) {
      if (value > std::byte{1}) fail("{}: {} holds a boolean that is neither 0 nor 1", cursor.path(), what);
    }
  }
  return array;
}

GgufValue read_value(Cursor& cursor, GgufType type, const std::string& what) {
  switch (type) {
    case GgufType::uint8:
      return cursor.read<uint8_t>(what);
    case GgufType::int8:
      return cursor.read<int8_t>(what);
    case GgufType::uint16:
      return cursor.read<uint16_t>(what);
    case GgufType::int16:
      return cursor.read<int16_t>(what);
    case GgufType::uint32:
      return cursor.read<uint32_t>(what);
    case GgufType::int32:
      return cursor.read<int32_t>(what);
    case GgufType::float32:
      return cursor.read<float>(what);
    case GgufType::boolean:
      return read_bool(cursor, what);
    case GgufType::array:
      return read_array(cursor, what);
    case GgufType::uint64:
      return cursor.read<uint64_t>(what);
    case GgufType::int64:
      return cursor.read<int64_t>(what);
    case GgufType::float64:
      return cursor.read<double>(what);
    case GgufType::string: {
      std::string text = cursor.read_string(what);
      check_text(cursor, text, what);
      return text;
    }
  }
  fail("{}: {} has the unknown type {}", cursor.path(), what, static_cast<uint32_t>(type));
}

GgufMetadata read_metadata(Cursor& cursor, uint64_t count) {
  GgufMetadata metadata;
  for (uint64_t i = 0; i < count; ++i) {
    std::string key = cursor.read_string(fmt::format("metadata key {}", i));
    if (key.empty() || key.size() > kMaxKeyBytes) {
      fail("{}: metadata key {} has {} bytes; 1 to {} are allowed", cursor.path(), i, key.size(),
           kMaxKeyBytes);
    }
    for (const char c : key) {
      if (c < 0x20 || c > 0x7E)
        fail("{}: metadata key {} has characters that are not printable ASCII", cursor.path(), i);
    }
    if (metadata.find(key)) fail("{}: metadata key '{}' appears twice", cursor.path(), key);
    const std::string what = fmt::format("metadata key '{}'", key);
    const auto type = static_cast<GgufType>(cursor.read<uint32_t>(what));
    GgufValue value = read_value(cursor, type, what);
    metadata.set(std::move(key), std::move(value));
  }
  return metadata;
}

// Shape and bytes of one record; offset as the file says.
GgufTensor read_tensor_record(Cursor& cursor, uint64_t i) {
  GgufTensor tensor;
  tensor.name = cursor.read_string(fmt::format("the name of tensor {}", i));
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    fail("{}: the name of tensor {} has {} bytes; 1 to {} are allowed", cursor.path(), i, tensor.name.size(),
         kMaxNameBytes);
  }
  check_text(cursor, tensor.name, fmt::format("the name of tensor {}", i));
  const std::string what = fmt::format("the record of tensor '{}'", tensor.name);
  const auto rank = cursor.read<uint32_t>(what);
  if (rank < 1 || rank > 4)
    fail("{}: tensor '{}' has {} dimensions; 1 to 4 are allowed", cursor.path(), tensor.name, rank);
  std::array<int64_t, 4> dims{};
  int64_t elements = 1;
  for (uint32_t d = 0; d < rank; ++d) {
    dims[d] = cursor.read<int64_t>(what);
    if (dims[d] <= 0 || dims[d] > std::numeric_limits<int64_t>::max() / elements) {
      fail("{}: tensor '{}' has the impossible dimension {}", cursor.path(), tensor.name, dims[d]);
    }
    elements *= dims[d];
  }
  tensor.type = cursor.read<uint32_t>(what);
  tensor.offset = cursor.read<uint64_t>(what);
  const auto type = gguf_tensor_type(tensor.type);
  if (!type) fail("{}: tensor '{}' has the unknown type {}", cursor.path(), tensor.name, tensor.type);
  if (dims[0] % type->block_size != 0) {
    fail("{}: tensor '{}' of type {} has rows of {}, not a multiple of {}", cursor.path(), tensor.name,
         type->name, dims[0], type->block_size);
  }
  const int64_t blocks = elements / type->block_size;
  if (blocks > std::numeric_limits<int64_t>::max() / type->block_bytes) {
    fail("{}: tensor '{}' is larger than any file ({} elements)", cursor.path(), tensor.name, elements);
  }
  tensor.bytes = static_cast<uint64_t>(blocks * type->block_bytes);
  switch (rank) {
    case 1:
      tensor.shape = {dims[0]};
      break;
    case 2:
      tensor.shape = {dims[1], dims[0]};
      break;
    case 3:
      tensor.shape = {dims[2], dims[1], dims[0]};
      break;
    default:
      tensor.shape = {dims[3], dims[2], dims[1], dims[0]};
      break;
  }
  return tensor;
}

uint64_t read_alignment(const GgufMetadata& metadata, const std::string& path) {
  const uint32_t* alignment = metadata.find<uint32_t>("general.alignment", path);
  if (!alignment) return 32;
  if (*alignment < 8 || (*alignment & (*alignment - 1)) != 0) {
    fail("{}: general.alignment is {}, but must be a power of two of at least 8", path, *alignment);
  }
  return *alignment;
}

void refuse_splits(const GgufMetadata& metadata, const std::string& path) {
  const uint16_t* count = metadata.find<uint16_t>("split.count", path);
  if (count && *count > 1) {
    fail(
        "{}: this is one of {} parts of a split model, which cannot be read; merge them with "
        "llama-gguf-split --merge",
        path, *count);
  }
}

void check_version(uint32_t version, const std::string& path) {
  if (version != 0 && (version & 0xFFFF) == 0)
    fail("{}: the file is big-endian; only little-endian GGUF can be read", path);
  if (version != 2 && version != 3) fail("{}: GGUF version {} is not supported, only 2 and 3", path, version);
}

// Offsets must follow each other without holes, in the order of the records, and end inside the file.
void check_layout(const std::vector<GgufTensor>& tensors, uint64_t alignment, uint64_t data_start,
                  uint64_t file_bytes, const std::string& path) {
  uint64_t expected = 0;
  for (const GgufTensor& tensor : tensors) {
    if (tensor.offset != expected) {
      fail("{}: tensor '{}' starts at byte {} of the data, but {} was expected after the tensors before it",
           path, tensor.name, tensor.offset, expected);
    }
    if (data_start > file_bytes || tensor.offset > file_bytes - data_start ||
        tensor.bytes > file_bytes - data_start - tensor.offset) {
      fail(
          "{}: the data of tensor '{}' ({} bytes) goes beyond the end of the file ({} bytes); it is "
          "truncated",
          path, tensor.name, tensor.bytes, file_bytes);
    }
    expected += (tensor.bytes + alignment - 1) / alignment *
                alignment;  // no overflow: both are below the file's size
  }
}

}  // namespace

GgufFile GgufFile::open(const std::filesystem::path& path) {
  GgufFile file;
  file.file_ = MappedFile::open(path);
  Cursor cursor(file.file_->bytes(), path.string());
  const auto magic = cursor.take(4, "the magic number");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0)
    fail("{}: this is not a GGUF file (it does not start with 'GGUF')", path.string());
  file.version_ = cursor.read<uint32_t>("the version");
  check_version(file.version_, path.string());
  const auto tensor_count = cursor.read<uint64_t>("the tensor count");
  const auto entry_count = cursor.read<uint64_t>("the metadata count");
  if (entry_count > cursor.remaining() / kMinEntryBytes ||
      tensor_count > cursor.remaining() / kMinTensorBytes) {
    fail("{}: it claims {} metadata keys and {} tensors, more than {} bytes can hold", path.string(),
         entry_count, tensor_count, file.file_->bytes().size());
  }
  file.metadata_ = read_metadata(cursor, entry_count);
  refuse_splits(file.metadata_, path.string());
  const uint64_t alignment = read_alignment(file.metadata_, path.string());
  file.tensors_.reserve(tensor_count);
  for (uint64_t i = 0; i < tensor_count; ++i) {
    file.tensors_.push_back(read_tensor_record(cursor, i));
    if (!file.tensor_index_.emplace(file.tensors_.back().name, i).second) {
      fail("{}: tensor '{}' appears twice", path.string(), file.tensors_.back().name);
    }
  }
  file.data_start_ = (cursor.position() + alignment - 1) / alignment * alignment;
  check_layout(file.tensors_, alignment, file.data_start_, file.file_->bytes().size(), path.string());
  return file;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto position = tensor_index_.find(std::string(name));
  return position == tensor_index_.end() ? nullptr : &tensors_[position->second];
}

std::span<const std::byte> GgufFile::data(const GgufTensor& tensor) const {
  return file_->bytes().subspan(data_start_ + tensor.offset, tensor.bytes);
}

Tensor GgufFile::tensor(const GgufTensor& tensor) const {
  const auto dtype = dtype_from_id(tensor.type);
  if (!dtype || *dtype == DType::Q8_1 || *dtype == DType::Q8_K) {
    fail("{}: tensor '{}' has the type {}, which gladius cannot compute with", path().string(), tensor.name,
         gguf_tensor_type(tensor.type)->name);
  }
  return Tensor::view(*dtype, tensor.shape, data(tensor).data(), file_);
}

}  // namespace gladius
