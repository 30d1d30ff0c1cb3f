// Safetensors: round trips, shards, and damaged files of every kind.
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <functional>

#include "export/inspect.h"
#include "export/safetensors.h"
#include "tests/train_support.h"

using namespace gladius;
using test::contains;
using test::message_of;
using test::TemporaryFolder;

namespace {

std::string with_header(const std::string& json, const std::string& data,
                        std::optional<uint64_t> length = std::nullopt) {
  const uint64_t header = length.value_or(json.size());
  return std::string(reinterpret_cast<const char*>(&header), 8) + json + data;
}

const std::string kData(24, '\1');
const std::string kValid =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"F16","shape":[4],"data_offsets":[16,24]}})";

// kValid with one text replaced by another.
std::string changed(std::string_view from, std::string_view to) {
  std::string json = kValid;
  const size_t at = json.find(from);
  REQUIRE(at != std::string::npos);
  return json.replace(at, from.size(), to);
}

struct Corruption {
  const char* what;  // part of the expected message
  std::string bytes;
};

std::vector<Corruption> corruptions() {
  const auto json = [](std::string_view from, std::string_view to) {
    return with_header(changed(from, to), kData);
  };
  return {
      {"too few", ""},
      {"too few", std::string(7, '\0')},
      {"claims", with_header(kValid, kData, uint64_t{1} << 40)},
      {"claims", with_header(kValid, kData, ~uint64_t{0})},
      {"claims", with_header(kValid, kData, kValid.size() + 25)},
      {"claims", with_header(std::string(1000, ' '), "", 100'000'001)},
      {"does not start", with_header(" " + kValid, kData)},
      {"does not start", with_header("[]", kData)},
      {"does not start", with_header("", kData)},
      {"not valid JSON", with_header(kValid.substr(0, kValid.size() - 1), kData)},
      {"not valid JSON", with_header(kValid, kData, kValid.size() + 3)},  // data read as JSON
      {"not valid JSON", json("\"a\"", "\"a\xFF\"")},
      {"not valid JSON", json("[2,2]", "[2,,2]")},
      {"not valid JSON", json("[2,2]", "[2,1e999]")},
      {"appears twice", json("\"b\"", "\"a\"")},
      {"appears twice", json(R"("dtype":"F16")", R"("dtype":"F16","dtype":"F16")")},
      {"appears twice", json(R"("format":"pt")", R"("format":"pt","format":"np")")},
      {"nested deeper", json("[4]", "[[[[[[4]]]]]]")},
      {"unknown dtype", json("F16", "F12")},
      {"unknown dtype", json("F16", "Q4_0")},
      {"unknown dtype", json("\"dtype\":\"F16\",", "")},
      {"must be a string", json("\"F16\"", "16")},
      {"unknown key", json(R"("dtype":"F16")", R"("dtype":"F16","color":"red")")},
      {"not an array", json("[4]", "4")},
      {"non-negative integers", json("[4]", "[-4]")},
      {"non-negative integers", json("[4]", "[4.0]")},
      {"non-negative integers", json("[4]", "[\"4\"]")},
      {"impossible dimension", json("[4]", "[18446744073709551615]")},
      {"does not fit 64 bits", json("[4]", "[9223372036854775807,2]")},
      {"does not fit 64 bits", json("[4]", "[4294967296,4294967296,4294967296]")},
      {"its shape needs 10", json("[4]", "[5]")},
      {"its shape needs 0", json("[4]", "[4,0]")},
      {"its shape needs 8", json("[16,24]", "[24,16]")},
      {"two numbers", json("[16,24]", "[16]")},
      {"two numbers", json("[16,24]", "[16,24,32]")},
      {"two numbers", json("\"data_offsets\":[16,24]", "\"data_offsets\":null")},
      {"non-negative integers", json("[16,24]", "[-16,24]")},
      {"holes and overlaps", json("[16,24]", "[18,26]")},
      {"holes and overlaps", json("[16,24]", "[8,16]")},
      {"holes and overlaps", json("[0,16]", "[8,24]")},
      {"truncated or damaged", with_header(kValid, kData.substr(1))},
      {"truncated or damaged", with_header(kValid, kData + " ")},
      {"truncated or damaged", with_header(kValid, "")},
      {"a JSON object was expected", json(R"({"dtype":"F16","shape":[4],"data_offsets":[16,24]})", "[1]")},
      {"not an object", json(R"({"format":"pt"})", "\"pt\"")},
      {"not a string", json(R"("format":"pt")", R"("format":1)")},
  };
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void write_part(const std::filesystem::path& path, const std::vector<std::string>& names, float value) {
  std::vector<SafetensorsTensor> records;
  for (const std::string& name : names) records.push_back(safetensors_tensor(name, DType::F32, {2}));
  SafetensorsWriter writer(path, records, {});
  for (size_t i = 0; i < names.size(); ++i)
    writer.append(bytes_of(std::vector<float>{value, static_cast<float>(i)}));
  writer.finish();
}

}  // namespace

TEST_CASE("tensors and metadata come back; same input, same bytes") {
  const TemporaryFolder folder;
  const SafetensorsMetadata metadata = {
      {"format", "pt"}, {"state", R"({"step":3,"text":"zeile\n\"x\""})"}, {"z", ""}};
  const std::vector<SafetensorsTensor> records = {
      safetensors_tensor("step", "I64", {}), safetensors_tensor("w", DType::F32, {2, 3}),
      safetensors_tensor("ids", DType::I32, {2}), safetensors_tensor("h", DType::BF16, {1, 1, 2, 2}),
      safetensors_tensor("empty", "F16", {0, 7})};
  const std::vector<int64_t> step = {-7};
  const std::vector<float> w = {1, 2, 3, 4, 5, 6};
  const std::vector<int32_t> ids = {8, -9};
  const std::vector<uint16_t> h = {1, 2, 3, 4};
  for (const char* name : {"x.safetensors", "y.safetensors"}) {
    SafetensorsWriter writer(folder / name, records, metadata);
    writer.append(bytes_of(step));
    writer.append(bytes_of(w).first(5));  // pieces need not end with a tensor
    writer.append(bytes_of(w).subspan(5));
    writer.append(bytes_of(ids));
    writer.append(bytes_of(h));
    writer.finish();
  }
  CHECK(test::read(folder / "x.safetensors") == test::read(folder / "y.safetensors"));
  const SafetensorsFile file = SafetensorsFile::open(folder / "x.safetensors");
  CHECK(file.metadata() == metadata);
  CHECK(file.tensors().size() == 5);
  CHECK(std::memcmp(file.data(*file.find("step")).data(), step.data(), 8) == 0);
  const Tensor weight = file.tensor(*file.find("w"));
  CHECK(weight.shape() == Shape{2, 3});
  CHECK(std::equal(w.begin(), w.end(), weight.f32()));
  CHECK(file.tensor(*file.find("ids")).i32()[1] == -9);
  CHECK(file.tensor(*file.find("h")).shape() == Shape{1, 1, 2, 2});
  CHECK(file.find("none") == nullptr);
  CHECK(contains(message_of([&] { file.tensor(*file.find("step")); }), "I64"));
  CHECK(contains(message_of([&] { file.tensor(*file.find("empty")); }), "[0, 7]"));
  CHECK((8 + test::read(folder / "x.safetensors").find(std::string("\xF9\xFF\xFF", 3))) % 8 ==
        0);  // data is aligned
}

TEST_CASE("data that is not aligned is copied") {
  const TemporaryFolder folder;
  const std::vector<float> values = {1.5f, -2};
  const std::string json = R"({"o":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                           R"("w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  std::string data = "\7" + std::string(reinterpret_cast<const char*>(values.data()), 8);
  test::write(folder / "x", with_header(json, data));
  const SafetensorsFile file = SafetensorsFile::open(folder / "x");
  const Tensor tensor = file.tensor(*file.find("w"));
  CHECK(reinterpret_cast<uintptr_t>(tensor.data()) % 4 == 0);
  CHECK(tensor.f32()[1] == -2);
}

TEST_CASE("the hand-made file is valid") {
  const TemporaryFolder folder;
  test::write(folder / "x", with_header(kValid, kData));
  CHECK(SafetensorsFile::open(folder / "x").tensors().size() == 2);
  test::write(folder / "x", with_header("{}", ""));
  CHECK(SafetensorsFile::open(folder / "x").tensors().empty());
}

TEST_CASE("each kind of damage gives an error that names the file") {
  const TemporaryFolder folder;
  const std::vector<Corruption> all = corruptions();
  CHECK(all.size() >= 40);
  for (size_t i = 0; i < all.size(); ++i) {
    test::write(folder / "damaged.safetensors", all[i].bytes);
    const std::string message = message_of([&] { SafetensorsFile::open(folder / "damaged.safetensors"); });
    CAPTURE(i);
    CAPTURE(message);
    CHECK(contains(message, "damaged.safetensors"));
    CHECK(contains(message, all[i].what));
  }
}

TEST_CASE("a file cut anywhere gives an error") {
  const TemporaryFolder folder;
  const std::string whole = with_header(kValid, kData);
  for (size_t length = 0; length < whole.size(); ++length) {
    test::write(folder / "cut", whole.substr(0, length));
    CHECK_THROWS_AS(SafetensorsFile::open(folder / "cut"), Error);
  }
}

TEST_CASE("flipped bytes never crash the reader") {
  const TemporaryFolder folder;
  const std::string whole = with_header(kValid, kData);
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = whole;
    const uint32_t flips = 1 + random() % 3;
    for (uint32_t flip = 0; flip < flips; ++flip)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    test::write(folder / "flipped", bytes);
    try {
      const SafetensorsFile file = SafetensorsFile::open(folder / "flipped");
      for (const SafetensorsTensor& tensor : file.tensors()) message_of([&] { file.tensor(tensor); });
    } catch (const Error& error) {
      CHECK(contains(error.what(), "flipped"));
    }
  }
}

TEST_CASE("writing: misuse is refused and leaves nothing") {
  const TemporaryFolder folder;
  const auto two = safetensors_tensor("w", DType::F32, {2});
  CHECK(contains(message_of([&] { SafetensorsWriter(folder / "x", {two, two}, {}); }), "twice"));
  CHECK_THROWS_AS(SafetensorsWriter(folder / "x", {safetensors_tensor("w", "F12", {2})}, {}), Error);
  CHECK_THROWS_AS(SafetensorsWriter(folder / "x", {safetensors_tensor("w", "F32", {-2})}, {}), Error);
  CHECK_THROWS_AS(SafetensorsWriter(folder / "x", {safetensors_tensor("__metadata__", "F32", {2})}, {}),
                  Error);
  CHECK(contains(
      message_of([&] { SafetensorsWriter(folder / "x", {safetensors_tensor("h", "F16", {1}), two}, {}); }),
      "aligned"));
  CHECK(contains(message_of([&] { SafetensorsWriter(folder / "x", {two}, {{"k", "\xFF"}}); }), "UTF-8"));
  const std::vector<float> values = {1, 2, 3};
  {
    SafetensorsWriter writer(folder / "x", {two}, {});
    writer.append(bytes_of(values).first(4));
    CHECK(contains(message_of([&] { writer.finish(); }), "4 bytes of data are missing"));
    CHECK_THROWS_AS(writer.append(bytes_of(values)), Error);
  }
  CHECK(contains(message_of([&] { SafetensorsWriter(folder / "no/x", {two}, {}); }), "does not exist"));
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("a folder of shards, and what can be wrong with its index") {
  const TemporaryFolder folder;
  write_part(folder / "part-1.safetensors", {"a", "b"}, 1);
  write_part(folder / "part-2.safetensors", {"c"}, 2);
  const auto index = folder / "model.safetensors.index.json";
  const auto open = [&] { return SafetensorsFolder::open(folder.path()); };
  test::write(index, R"({"metadata":{"total_size":24},"weight_map":{"a":"part-1.safetensors",)"
                     R"("b":"part-1.safetensors","c":"part-2.safetensors"}})");
  const SafetensorsFolder parts = open();
  REQUIRE(parts.find("c"));
  const auto found = *parts.find("c");
  CHECK(found.file->tensor(*found.tensor).f32()[0] == 2);
  CHECK(!parts.find("d"));
  CHECK(parts.files().size() == 2);

  const std::vector<std::pair<const char*, const char*>> wrong = {
      {"'weight_map' is missing", R"({})"},
      {"'weight_map' is missing", R"({"weight_map":{}})"},
      {"'weight_map' is missing", R"({"weight_map":["a"]})"},
      {"is not a string", R"({"weight_map":{"a":1}})"},
      {"not the name of a file", R"({"weight_map":{"a":"../part-1.safetensors"}})"},
      {"not the name of a file", R"({"weight_map":{"a":"/etc/passwd"}})"},
      {"not the name of a file", R"({"weight_map":{"a":".."}})"},
      {"not the name of a file", R"({"weight_map":{"a":""}})"},
      {"should be in part-2", R"({"weight_map":{"a":"part-2.safetensors"}})"},
      {"missing.safetensors", R"({"weight_map":{"a":"missing.safetensors"}})"},
      {"appears twice", R"({"weight_map":{"a":"part-1.safetensors","a":"part-2.safetensors"}})"},
      {"not valid JSON", R"({"weight_map":)"},
      {"a JSON object was expected", R"([])"}};
  for (const auto& [what, json] : wrong) {
    test::write(index, json);
    const std::string message = message_of(open);
    CAPTURE(message);
    CHECK(contains(message, what));
  }
  write_part(folder / "part-2.safetensors", {"c", "a"}, 2);  // "a" in both
  test::write(index, R"({"weight_map":{"a":"part-1.safetensors","c":"part-2.safetensors"}})");
  CHECK(contains(message_of(open), "in two files"));
  std::filesystem::remove(index);
  CHECK(contains(message_of(open), "model.safetensors"));
}

TEST_CASE("inspecting safetensors files and checkpoints") {
  const TemporaryFolder folder;
  for (const bool checkpoint : {false, true}) {
    SafetensorsMetadata metadata;
    if (checkpoint) metadata["gladius.checkpoint"] = "1";
    SafetensorsWriter writer(
        folder / "x", {safetensors_tensor("w", DType::F32, {2, 2}), safetensors_tensor("h", "F16", {4})},
        metadata);
    writer.append(std::as_bytes(std::span(kData)));
    writer.finish();
    const FileDescription d = inspect(folder / "x");
    CHECK(d.format == (checkpoint ? "checkpoint" : "safetensors"));
    CHECK(d.parameters == 8);
    CHECK(d.tensor_bytes == 24);
    CHECK(d.bits_per_weight == 24);
  }
  test::write(folder / "text", "neither of them");
  CHECK(contains(message_of([&] { inspect(folder / "text"); }), "neither"));
}
