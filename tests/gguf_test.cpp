// GGUF: round trips, and damaged files of every kind that must give an error naming the file, never a crash.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include <array>
#include <cstring>
#include <functional>
#include <limits>

#include "export/checksum.h"
#include "export/gguf.h"
#include "export/inspect.h"
#include "export/model_gguf.h"
#include "tests/train_support.h"

using namespace gladius;
using test::contains;
using test::FileSizeLimit;
using test::message_of;
using test::TemporaryFolder;

namespace {

const std::filesystem::path kQuant = GLADIUS_TEST_DATA "/quant";

// ---- files made by hand, so that each field can be wrong ----

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string text(std::string_view value) { return raw<uint64_t>(value.size()) + std::string(value); }
std::string entry(std::string_view key, uint32_t type, const std::string& value) {
  return text(key) + raw(type) + value;
}
std::string entry(std::string_view key, uint32_t value) { return entry(key, 4, raw(value)); }
std::string entry(std::string_view key, std::string_view value) { return entry(key, 8, text(value)); }
std::string record(std::string_view name, const std::vector<int64_t>& dims, uint32_t type, uint64_t offset) {
  std::string out = text(name) + raw(static_cast<uint32_t>(dims.size()));
  for (const int64_t dim : dims) out += raw(dim);
  return out + raw(type) + raw(offset);
}

struct RawFile {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> entries = {entry("general.architecture", "llama"), entry("general.name", "x")};
  std::vector<std::string> records = {record("a.weight", {4, 2}, 0, 0), record("b.weight", {32}, 8, 32)};
  std::string data = std::string(32 + 64, '\0');
  std::optional<uint64_t> tensor_count, entry_count;
  uint64_t alignment = 32;

  std::string bytes() const {
    std::string out = magic + raw(version) + raw(tensor_count.value_or(records.size())) +
                      raw(entry_count.value_or(entries.size()));
    for (const std::string& part : entries) out += part;
    for (const std::string& part : records) out += part;
    out.append((alignment - out.size() % alignment) % alignment, '\0');
    return out + data;
  }
};

struct Corruption {
  const char* what;  // part of the expected message
  std::function<void(RawFile&)> apply;
};

const std::vector<Corruption>& corruptions() {
  static const std::vector<Corruption> all = {
      {"not a GGUF file", [](RawFile& f) { f.magic = "GGML"; }},
      {"not a GGUF file", [](RawFile& f) { f.magic = "FUGG"; }},
      {"version 1", [](RawFile& f) { f.version = 1; }},
      {"version 0", [](RawFile& f) { f.version = 0; }},
      {"version 4", [](RawFile& f) { f.version = 4; }},
      {"big-endian", [](RawFile& f) { f.version = 0x03000000; }},
      {"claims", [](RawFile& f) { f.tensor_count = uint64_t{1} << 60; }},
      {"claims", [](RawFile& f) { f.tensor_count = ~uint64_t{0}; }},
      {"claims", [](RawFile& f) { f.entry_count = uint64_t{1} << 40; }},
      {"", [](RawFile& f) { f.tensor_count = 3; }},  // padding read as a record
      {"", [](RawFile& f) { f.entry_count = 3; }},   // a record read as metadata
      {"", [](RawFile& f) { f.entry_count = 1; }},   // metadata read as a record
      {"appears twice", [](RawFile& f) { f.entries.push_back(entry("general.name", "y")); }},
      {"metadata key 2 has 0 bytes", [](RawFile& f) { f.entries.push_back(entry("", 1u)); }},
      {"bytes; 1 to", [](RawFile& f) { f.entries.push_back(entry(std::string(65536, 'k'), 1u)); }},
      {"printable ASCII", [](RawFile& f) { f.entries.push_back(entry("ge\xC3\xB6", 1u)); }},
      {"printable ASCII", [](RawFile& f) { f.entries.push_back(entry(std::string_view("a\0b", 3), 1u)); }},
      {"unknown type 13", [](RawFile& f) { f.entries.push_back(entry("k", 13, raw(1))); }},
      {"unknown type", [](RawFile& f) { f.entries.push_back(entry("k", 0xFFFFFFFF, raw(1))); }},
      {"neither",
       [](RawFile& f) { f.entries.push_back(entry("k", 9, raw(7u) + raw(uint64_t{2}) + "\1\2")); }},
      {"only 0 and 1", [](RawFile& f) { f.entries.push_back(entry("k", 7, "\2")); }},
      {"not valid UTF-8", [](RawFile& f) { f.entries.push_back(entry("k", "\xFF")); }},
      {"not valid UTF-8", [](RawFile& f) { f.entries.push_back(entry("k", "\xC0\x80")); }},  // overlong
      {"not valid UTF-8",
       [](RawFile& f) { f.entries.push_back(entry("k", "\xED\xA0\x80")); }},  // a surrogate
      {"NUL", [](RawFile& f) { f.entries.push_back(entry("k", std::string_view("a\0b", 3))); }},
      {"claims a length", [](RawFile& f) { f.entries.push_back(entry("k", 8, raw(uint64_t{1} << 62))); }},
      {"truncated", [](RawFile& f) { f.entries.push_back(entry("k", 8, raw(uint64_t{100000}))); }},
      {"array of arrays", [](RawFile& f) { f.entries.push_back(entry("k", 9, raw(9u) + raw(uint64_t{0}))); }},
      {"unknown element type",
       [](RawFile& f) { f.entries.push_back(entry("k", 9, raw(77u) + raw(uint64_t{1}) + raw(1))); }},
      {"more than the rest",
       [](RawFile& f) { f.entries.push_back(entry("k", 9, raw(4u) + raw(uint64_t{1} << 29))); }},
      {"more than the rest",
       [](RawFile& f) { f.entries.push_back(entry("k", 9, raw(12u) + raw((uint64_t{1} << 61) + 1))); }},
      {"more than the rest",
       [](RawFile& f) { f.entries.push_back(entry("k", 9, raw(8u) + raw(uint64_t{1} << 25))); }},
      {"has type FLOAT32",
       [](RawFile& f) { f.entries.push_back(entry("general.alignment", 6, raw(32.0f))); }},
      {"power of two", [](RawFile& f) { f.entries.push_back(entry("general.alignment", 0u)); }},
      {"power of two", [](RawFile& f) { f.entries.push_back(entry("general.alignment", 48u)); }},
      {"power of two", [](RawFile& f) { f.entries.push_back(entry("general.alignment", 4u)); }},
      {"parts of a split",
       [](RawFile& f) { f.entries.push_back(entry("split.count", 2, raw(uint16_t{3}))); }},
      {"the name of tensor 0 has 0", [](RawFile& f) { f.records[0] = record("", {4, 2}, 0, 0); }},
      {"the name of tensor 0 has 64",
       [](RawFile& f) { f.records[0] = record(std::string(64, 'n'), {4, 2}, 0, 0); }},
      {"not valid UTF-8", [](RawFile& f) { f.records[0] = record("a\x80", {4, 2}, 0, 0); }},
      {"appears twice", [](RawFile& f) { f.records[1] = record("a.weight", {32}, 8, 32); }},
      {"0 dimensions", [](RawFile& f) { f.records[0] = record("a.weight", {}, 0, 0); }},
      {"5 dimensions", [](RawFile& f) { f.records[0] = record("a.weight", {4, 2, 1, 1, 1}, 0, 0); }},
      {"dimension 0", [](RawFile& f) { f.records[0] = record("a.weight", {4, 0}, 0, 0); }},
      {"dimension -2", [](RawFile& f) { f.records[0] = record("a.weight", {4, -2}, 0, 0); }},
      {"impossible dimension",
       [](RawFile& f) { f.records[0] = record("a.weight", {int64_t{1} << 32, int64_t{1} << 31}, 0, 0); }},
      {"larger than any file",
       [](RawFile& f) { f.records[0] = record("a.weight", {int64_t{1} << 31, int64_t{1} << 31}, 0, 0); }},
      {"unknown type 4", [](RawFile& f) { f.records[0] = record("a.weight", {4, 2}, 4, 0); }},  // withdrawn
      {"unknown type 1000", [](RawFile& f) { f.records[0] = record("a.weight", {4, 2}, 1000, 0); }},
      {"not a multiple of 32", [](RawFile& f) { f.records[1] = record("b.weight", {31}, 8, 32); }},
      {"starts at byte 64", [](RawFile& f) { f.records[1] = record("b.weight", {32}, 8, 64); }},
      {"starts at byte 0", [](RawFile& f) { f.records[1] = record("b.weight", {32}, 8, 0); }},
      {"starts at byte 33", [](RawFile& f) { f.records[1] = record("b.weight", {32}, 8, 33); }},
      {"starts at byte", [](RawFile& f) { f.records[1] = record("b.weight", {32}, 8, ~uint64_t{31}); }},
      {"starts at byte 32", [](RawFile& f) { std::swap(f.records[0], f.records[1]); }},
      {"beyond the end", [](RawFile& f) { f.records[1] = record("b.weight", {32, 1000}, 8, 32); }},
      {"beyond the end", [](RawFile& f) { f.data.resize(40); }},
      {"beyond the end", [](RawFile& f) { f.data.clear(); }},
  };
  return all;
}

// Reads everything that a reader of the file would touch.
void use(const std::filesystem::path& path) {
  const GgufFile file = GgufFile::open(path);
  check_tensor_values(file);
  inspect(path);
  try {
    load_gguf(path);
  } catch (const Error&) {  // it may be a valid container and no model
  }
}

GgufMetadata metadata_of_every_type() {
  GgufMetadata m;
  m.set("general.architecture", std::string("llama"));
  m.set("a.u8", uint8_t{255});
  m.set("a.i8", int8_t{-128});
  m.set("a.u16", uint16_t{65535});
  m.set("a.i16", int16_t{-32768});
  m.set("a.u32", uint32_t{4'000'000'000});
  m.set("a.i32", int32_t{-2'000'000'000});
  m.set("a.f32", -0.0f);
  m.set("a.true", true);
  m.set("a.false", false);
  m.set("a.text", std::string("zeile 1\nzeile 2 \xE2\x96\x81"));
  m.set("a.empty", std::string());
  m.set("a.u64", std::numeric_limits<uint64_t>::max());
  m.set("a.i64", std::numeric_limits<int64_t>::min());
  m.set("a.f64", 0.1);
  const std::array<float, 3> floats = {1.5f, -2.25f, 1e-40f};
  const std::array<uint64_t, 2> longs = {0, ~uint64_t{0}};
  m.set("b.floats", GgufArray::of(std::span<const float>(floats)));
  m.set("b.longs", GgufArray::of(std::span<const uint64_t>(longs)));
  m.set("b.none", GgufArray::of(std::span<const float>()));
  m.set("b.texts", GgufArray::of(std::vector<std::string>{"", "x", std::string(1000, 'y')}));
  return m;
}

}  // namespace

TEST_CASE("metadata of every type and tensors of every rank come back unchanged") {
  const TemporaryFolder folder;
  const GgufMetadata metadata = metadata_of_every_type();
  std::vector<GgufTensor> records = {
      gguf_tensor("one", DType::F32, {3}), gguf_tensor("two", DType::Q4_K, {3, 512}),
      gguf_tensor("three", DType::F16, {2, 3, 5}), gguf_tensor("four", DType::I32, {2, 1, 3, 7})};
  std::vector<std::string> contents;
  const auto write = [&](const std::string& name) {
    GgufWriter writer(folder / name, metadata, records);
    for (const std::string& bytes : contents) {  // in pieces, across no tensor's border
      const auto all = std::as_bytes(std::span(bytes));
      writer.append(all.first(all.size() / 3));
      writer.append(all.subspan(all.size() / 3));
    }
    writer.finish();
  };
  for (const GgufTensor& record : records) {
    std::string bytes(record.bytes, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + contents.size());
    contents.push_back(bytes);
  }
  write("x.gguf");
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  CHECK(file.metadata().entries() == metadata.entries());
  REQUIRE(file.tensors().size() == records.size());
  for (size_t i = 0; i < records.size(); ++i) {
    const GgufTensor& tensor = file.tensors()[i];
    CHECK(tensor.name == records[i].name);
    CHECK(tensor.shape == records[i].shape);
    CHECK(tensor.type == records[i].type);
    CHECK(std::memcmp(file.data(tensor).data(), contents[i].data(), contents[i].size()) == 0);
    CHECK(file.tensor(tensor).dtype() == *dtype_from_id(tensor.type));
  }
  write("y.gguf");
  CHECK(test::read(folder / "x.gguf") == test::read(folder / "y.gguf"));
}

TEST_CASE("llama.cpp's files come back byte for byte when they are written again") {
  const TemporaryFolder folder;
  for (const char* name : {"source.gguf", "odd-source.gguf", "imatrix.gguf"}) {
    const GgufFile file = GgufFile::open(kQuant / name);
    GgufWriter writer(folder / name, file.metadata(), file.tensors());
    for (const GgufTensor& tensor : file.tensors()) writer.append(file.data(tensor));
    writer.finish();
    CHECK(test::read(folder / name) == test::read(kQuant / name));
  }
}

TEST_CASE("another alignment is kept") {
  const TemporaryFolder folder;
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    GgufMetadata metadata;
    metadata.set("general.alignment", alignment);
    GgufWriter writer(folder / "x.gguf", metadata,
                      {gguf_tensor("a", DType::F32, {3}), gguf_tensor("b", DType::F32, {5})});
    const std::array<float, 8> values = {1, 2, 3, 4, 5, 6, 7, 8};
    writer.append(std::as_bytes(std::span(values).first(3)));
    writer.append(std::as_bytes(std::span(values).last(5)));
    writer.finish();
    const GgufFile file = GgufFile::open(folder / "x.gguf");
    CHECK(file.find("b")->offset == (12 + alignment - 1) / alignment * alignment);
    CHECK(file.tensor(*file.find("b")).f32()[4] == 8);
    CHECK(std::filesystem::file_size(folder / "x.gguf") % alignment == 0);
  }
}

TEST_CASE("the hand-made file is valid, and so is version 2") {
  const TemporaryFolder folder;
  RawFile file;
  test::write(folder / "x.gguf", file.bytes());
  CHECK(GgufFile::open(folder / "x.gguf").tensors().size() == 2);
  file.version = 2;
  test::write(folder / "x.gguf", file.bytes());
  CHECK(GgufFile::open(folder / "x.gguf").version() == 2);
  file.data.resize(32 + 34);  // the last tensor's padding may be missing
  test::write(folder / "x.gguf", file.bytes());
  CHECK(GgufFile::open(folder / "x.gguf").tensors().size() == 2);
}

TEST_CASE("each kind of damage gives an error that names the file") {
  const TemporaryFolder folder;
  CHECK(corruptions().size() >= 50);
  for (size_t i = 0; i < corruptions().size(); ++i) {
    RawFile file;
    corruptions()[i].apply(file);
    test::write(folder / "damaged.gguf", file.bytes());
    std::string message;
    try {
      use(folder / "damaged.gguf");
    } catch (const Error& error) {
      message = error.what();
    }
    CAPTURE(i);
    CAPTURE(message);
    CHECK(contains(message, "damaged.gguf"));
    CHECK(contains(message, corruptions()[i].what));
  }
}

TEST_CASE("a file cut anywhere gives an error") {
  const TemporaryFolder folder;
  RawFile file;
  file.entries.push_back(entry("list", 9, raw(8u) + raw(uint64_t{2}) + text("a") + text("bc")));
  const std::string whole = file.bytes();
  const size_t needed = whole.size() - 30;  // the padding after the last tensor (34 of 64 bytes) may go
  for (size_t length = 0; length < needed; ++length) {
    test::write(folder / "cut.gguf", whole.substr(0, length));
    CHECK_THROWS_AS(use(folder / "cut.gguf"), Error);
  }
  test::write(folder / "cut.gguf", whole.substr(0, needed));
  CHECK_NOTHROW(use(folder / "cut.gguf"));
}

TEST_CASE("flipped bytes never crash the reader") {
  const TemporaryFolder folder;
  const std::string whole =
      test::read(kQuant / "odd-source.gguf").substr(0, 8600);  // header and a little data
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 800; ++round) {
    std::string bytes = whole;
    const uint32_t flips = 1 + random() % 4;
    for (uint32_t flip = 0; flip < flips; ++flip)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    test::write(folder / "flipped.gguf", bytes);
    const std::string message = message_of([&] { use(folder / "flipped.gguf"); });
    if (!message.empty()) {
      ++refused;
      CHECK(contains(message, "flipped.gguf"));
    }
  }
  CHECK(refused == 800);  // the data is cut, so that none can be valid

  RawFile small;
  const std::string valid = small.bytes();
  for (int round = 0; round < 2000; ++round) {  // here some stay valid
    std::string bytes = valid;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    test::write(folder / "flipped.gguf", bytes);
    const std::string message = message_of([&] { use(folder / "flipped.gguf"); });
    if (!message.empty()) CHECK(contains(message, "flipped.gguf"));
  }
}

TEST_CASE("files that are not files") {
  const TemporaryFolder folder;
  CHECK(contains(message_of([&] { GgufFile::open(folder / "missing.gguf"); }), "missing.gguf"));
  CHECK(contains(message_of([&] { GgufFile::open(folder.path()); }), folder.path().string()));
  test::write(folder / "empty.gguf", "");
  CHECK(contains(message_of([&] { GgufFile::open(folder / "empty.gguf"); }), "empty.gguf"));
  test::write(folder / "text.gguf", "To be, or not to be, that is the question");
  CHECK(contains(message_of([&] { GgufFile::open(folder / "text.gguf"); }), "not a GGUF file"));
}

TEST_CASE("the scan finds a NaN or an infinity in every type") {
  const std::array<std::pair<DType, size_t>, 12> scales = {{{DType::F32, 0},
                                                            {DType::F16, 0},
                                                            {DType::BF16, 0},
                                                            {DType::Q4_0, 0},
                                                            {DType::Q4_1, 0},
                                                            {DType::Q4_1, 2},
                                                            {DType::Q5_0, 0},
                                                            {DType::Q5_1, 2},
                                                            {DType::Q8_0, 0},
                                                            {DType::Q4_K, 2},
                                                            {DType::Q5_K, 0},
                                                            {DType::Q6_K, 208}}};
  for (const auto& [dtype, offset] : scales) {
    const auto block = static_cast<size_t>(dtype_info(dtype).block_bytes);
    std::vector<std::byte> bytes(5 * block, std::byte{0x3B});  // finite in every type
    CHECK(!first_not_finite(dtype, bytes));
    const size_t at = 3 * block + offset;
    const auto put = [&](auto word) { std::memcpy(bytes.data() + at, &word, sizeof(word)); };
    for (const bool nan : {false, true}) {
      if (dtype == DType::F32)
        put(nan ? 0xFFC00000u : 0x7F800000u);
      else if (dtype == DType::BF16)
        put(static_cast<uint16_t>(nan ? 0x7FC0 : 0xFF80));
      else
        put(static_cast<uint16_t>(nan ? 0xFE00 : 0x7C00));
      CHECK_MESSAGE(first_not_finite(dtype, bytes) == size_t{3}, dtype_info(dtype).name);
    }
  }
}

TEST_CASE("the scan finds the first of several anywhere, on any number of threads") {
  constexpr size_t n = 200'000;
  for (const size_t at : {size_t{0}, size_t{2047}, size_t{2048}, size_t{65535}, size_t{65536}, n - 1})
    for (const int threads : {1, 3}) {
      CAPTURE(at);
      CAPTURE(threads);
      std::vector<float> x(n, 1.0f);
      CHECK(!first_not_finite(DType::F32, std::as_bytes(std::span(x)), threads));
      x[at] = std::numeric_limits<float>::infinity();
      x[std::max(at, size_t{150'000})] = std::numeric_limits<float>::quiet_NaN();
      CHECK(first_not_finite(DType::F32, std::as_bytes(std::span(x)), threads) == at);
      std::vector<uint16_t> halves(n, 0x3C00);
      halves[at] = 0xFC00;
      halves[n - 1] = 0x7E00;
      CHECK(first_not_finite(DType::F16, std::as_bytes(std::span(halves)), threads) == at);
    }
}

TEST_CASE("writing: misuse, a full disk, a missing folder") {
  const TemporaryFolder folder;
  const GgufMetadata metadata = metadata_of_every_type();
  const auto big = gguf_tensor("big", DType::F32, {4'000'000});
  const std::vector<std::byte> data(big.bytes);

  CHECK_THROWS_AS(GgufWriter(folder / "x.gguf", metadata, {big, big}), Error);
  CHECK_THROWS_AS(
      GgufWriter(folder / "x.gguf", metadata, {gguf_tensor(std::string(64, 'n'), DType::F32, {1})}), Error);
  {
    GgufWriter writer(folder / "x.gguf", metadata, {big});
    writer.append(std::span(data).first(100));
    CHECK(contains(message_of([&] { writer.finish(); }), "'big' is missing"));
    CHECK_THROWS_AS(writer.append(data), Error);
  }
  CHECK(std::filesystem::is_empty(folder.path()));

  const std::string missing = message_of([&] { GgufWriter(folder / "no/x.gguf", metadata, {big}); });
  CHECK(contains(missing, "no/x.gguf"));
  CHECK(contains(missing, "does not exist"));

  test::write(folder / "x.gguf", "the old contents");
  {
    const FileSizeLimit limit(1 << 20);
    const std::string full = message_of([&] {
      GgufWriter writer(folder / "x.gguf", metadata, {big});
      writer.append(data);
      writer.finish();
    });
    CHECK(contains(full, "x.gguf"));
    CHECK(contains(full, std::strerror(EFBIG)));
  }
  CHECK(test::read(folder / "x.gguf") == "the old contents");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);

  const auto impossible = gguf_tensor("big", DType::F32, {int64_t{1} << 50});
  CHECK(contains(message_of([&] { GgufWriter(folder / "x.gguf", metadata, {impossible}); }), "are free"));
}

TEST_CASE("what a killed writer left is removed by the next one") {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    AtomicFile file(folder / "x");
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  write_file(folder / "x", "new");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  CHECK(test::read(folder / "x") == "new");
}

TEST_CASE("inspecting a GGUF file") {
  const FileDescription d = inspect(kQuant / "source.gguf");
  CHECK(d.format == "GGUF v3");
  CHECK(d.tensors.size() == 21);
  CHECK(d.file_bytes == std::filesystem::file_size(kQuant / "source.gguf"));
  // 2 * 320*256 + 256 + 2 * (2*256 + 2*256*256 + 2*64*256 + 3*256*256)
  CHECK(d.parameters == 2 * 320 * 256 + 256 + 2 * (2 * 256 + 5 * 256 * 256 + 2 * 64 * 256));
  CHECK(d.bits_per_weight ==
        doctest::Approx(8.0 * static_cast<double>(d.tensor_bytes) / static_cast<double>(d.parameters)));
  bool tokens_shortened = false;
  for (const auto& [key, value] : d.metadata) {
    if (key == "tokenizer.ggml.tokens")
      tokens_shortened = value == "STRING[320] [\"<unk>\", \"<s>\", \"</s>\", \"<0x00>\", …]";
    if (key == "llama.block_count") CHECK(value == "UINT32 2");
  }
  CHECK(tokens_shortened);
}
