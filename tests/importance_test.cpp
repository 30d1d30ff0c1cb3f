// The files of importance matrices: both forms, written again bit for bit, and what is refused.
#include "export/importance.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "export/gguf.h"
#include "tests/train_support.h"

using namespace gladius;
using test::contains;
using test::message_of;
using test::TemporaryFolder;

namespace {

// Sums of all sizes, over 3 chunks of 100 tokens and an entry whose last chunk was cut short.
ImportanceMatrix sample() {
  ImportanceMatrix matrix;
  matrix.datasets = {"Grüße.txt"};
  matrix.chunks = 3;
  matrix.chunk_size = 100;
  matrix.entries["blk.0.attn_q.weight"] = {{0, 1e-30f, 0.1f, 7.3f, 123456.7f, 3e30f}, 300};
  matrix.entries["blk.0.ffn_down.weight"] = {{1.0f / 3, 2.0f / 3}, 250};
  matrix.entries["output.weight"] = {{5, 6, 7}, 0};
  return matrix;
}

void check_equal(const ImportanceMatrix& a, const ImportanceMatrix& b) {
  CHECK(a.datasets == b.datasets);
  CHECK(a.chunks == b.chunks);
  CHECK(a.chunk_size == b.chunk_size);
  REQUIRE(a.entries.size() == b.entries.size());
  for (const auto& [name, entry] : a.entries) {
    CAPTURE(name);
    CHECK(entry.count == b.entries.at(name).count);
    CHECK(entry.sums == b.entries.at(name).sums);
  }
}

std::string refusal(const std::filesystem::path& path) {
  return message_of([&] { read_importance(path); });
}

}  // namespace

TEST_CASE("the GGUF form gives back what was written, and the same file again") {
  const TemporaryFolder folder;
  write_importance(folder / "a.gguf", sample(), ImportanceForm::gguf);
  const ImportanceMatrix again = read_importance(folder / "a.gguf");
  check_equal(again, sample());
  CHECK(again.file == (folder / "a.gguf").string());
  write_importance(folder / "b.gguf", again, ImportanceForm::gguf);
  CHECK(test::read(folder / "a.gguf") == test::read(folder / "b.gguf"));

  // What llama.cpp's readers look for.
  const GgufFile file = GgufFile::open(folder / "a.gguf");
  CHECK(file.metadata().get<std::string>("general.type", "a") == "imatrix");
  CHECK(file.metadata().get<GgufArray>("imatrix.datasets", "a").strings.size() == 1);
  CHECK(file.metadata().get<uint32_t>("imatrix.chunk_count", "a") == 3);
  CHECK(file.metadata().get<uint32_t>("imatrix.chunk_size", "a") == 100);
  CHECK(file.tensor(*file.find("blk.0.attn_q.weight.in_sum2")).f32()[3] == 7.3f);
  CHECK(file.tensor(*file.find("blk.0.attn_q.weight.counts")).f32()[0] == 300);
}

TEST_CASE("the .dat form holds mean * chunks, and gives the same file again") {
  const TemporaryFolder folder;
  const ImportanceMatrix matrix = sample();
  write_importance(folder / "a.dat", matrix, ImportanceForm::dat);
  const ImportanceMatrix again = read_importance(folder / "a.dat");
  CHECK(again.datasets == matrix.datasets);
  CHECK(again.chunks == 3);
  CHECK(again.entries.at("blk.0.attn_q.weight").count == 3);
  CHECK(again.entries.at("blk.0.ffn_down.weight").count == 3);  // 250 tokens are two chunks and a part
  for (const auto& [name, entry] : matrix.entries) {
    CAPTURE(name);
    const std::vector<float> means = matrix.means(name), read = again.means(name);
    REQUIRE(read.size() == means.size());
    for (size_t i = 0; i < means.size(); ++i)  // the product and the quotient are rounded, by half an epsilon
      CHECK(std::fabs(read[i] - means[i]) <= means[i] * std::numeric_limits<float>::epsilon());
  }
  write_importance(folder / "b.dat", again, ImportanceForm::dat);
  CHECK(test::read(folder / "a.dat") == test::read(folder / "b.dat"));

  // The bytes of a small one, by hand.
  ImportanceMatrix small;
  small.datasets = {"t"};
  small.chunks = 2, small.chunk_size = 4;
  small.entries["w"] = {{8, 4}, 8};
  write_importance(folder / "small.dat", small, ImportanceForm::dat);
  std::string expected;
  const auto put = [&](auto value) { expected.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const int32_t value : {1, 1}) put(value);  // entries, length of the name
  expected += "w";
  for (const int32_t value : {2, 2}) put(value);  // chunks, values
  put(2.0f), put(1.0f);                           // 8 / 8 * 2, 4 / 8 * 2
  for (const int32_t value : {2, 1}) put(value);  // chunks, length of the dataset's name
  expected += "t";
  CHECK(test::read(folder / "small.dat") == expected);
}

TEST_CASE("either form can be written in the other, with the same means") {
  const TemporaryFolder folder;
  write_importance(folder / "a.dat", sample(), ImportanceForm::dat);
  const ImportanceMatrix dat = read_importance(folder / "a.dat");
  write_importance(folder / "a.gguf", dat, ImportanceForm::gguf);
  check_equal(read_importance(folder / "a.gguf"), dat);
}

TEST_CASE("a weight that no token reached counts as unweighted, an unknown one has no means") {
  CHECK(sample().means("output.weight") == std::vector<float>{1, 1, 1});
  CHECK(sample().means("blk.7.attn_q.weight").empty());
}

TEST_CASE("truncated files are refused, wherever they end") {
  const TemporaryFolder folder;
  for (const ImportanceForm form : {ImportanceForm::gguf, ImportanceForm::dat}) {
    write_importance(folder / "whole", sample(), form);
    const std::string bytes = test::read(folder / "whole");
    // Two ends are no damage: the last tensor's padding, and where early .dat files end.
    const size_t harmless_dat = bytes.size() - 8 - std::strlen("Grüße.txt"), padding = 28;
    for (size_t length = 0; length < bytes.size(); ++length) {
      if (form == ImportanceForm::dat ? length == harmless_dat : length >= bytes.size() - padding) continue;
      CAPTURE(length);
      test::write(folder / "cut", bytes.substr(0, length));
      const std::string message = refusal(folder / "cut");
      CHECK_MESSAGE(contains(message, (folder / "cut").string()), message);
    }
  }
}

TEST_CASE("damaged values are refused by name, when reading and before writing") {
  const TemporaryFolder folder;
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -1.0f}) {
    CAPTURE(bad);
    for (const ImportanceForm form : {ImportanceForm::gguf, ImportanceForm::dat}) {
      ImportanceMatrix matrix = sample();
      matrix.chunk_size = 300;  // so that the .dat form holds sums / 300
      write_importance(folder / "good", matrix, form);
      std::string bytes = test::read(folder / "good");
      const float good = form == ImportanceForm::gguf ? 7.3f : 7.3f / 300;
      const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&good), sizeof good));
      REQUIRE(at != std::string::npos);
      std::memcpy(bytes.data() + at, &bad, sizeof bad);
      test::write(folder / "bad", bytes);
      const std::string message = refusal(folder / "bad");
      CHECK_MESSAGE(contains(message, "blk.0.attn_q.weight"), message);
      CHECK_MESSAGE(contains(message, (folder / "bad").string()), message);

      matrix.entries.at("blk.0.attn_q.weight").sums[3] = bad;
      const std::string unwritten = message_of([&] { write_importance(folder / "never", matrix, form); });
      CHECK_MESSAGE(contains(unwritten, "blk.0.attn_q.weight"), unwritten);
      CHECK_FALSE(std::filesystem::exists(folder / "never"));
    }
  }
}

TEST_CASE("counts that are no number of tokens, files without entries, and other files are refused") {
  const TemporaryFolder folder;
  write_importance(folder / "good", sample(), ImportanceForm::gguf);
  const float good = 300;
  for (const float bad : {-1.0f, 0.5f, std::nanf(""), 1e30f}) {
    std::string bytes = test::read(folder / "good");
    const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&good), sizeof good));
    REQUIRE(at != std::string::npos);
    std::memcpy(bytes.data() + at, &bad, sizeof bad);
    test::write(folder / "bad", bytes);
    CHECK(contains(refusal(folder / "bad"), "blk.0.attn_q.weight.counts"));
  }
  GgufMetadata metadata;
  GgufWriter(folder / "model.gguf", metadata, {}).finish();
  CHECK(contains(refusal(folder / "model.gguf"), "not an importance matrix"));
  metadata.set("general.type", std::string("imatrix"));
  GgufWriter(folder / "none.gguf", metadata, {}).finish();
  CHECK(contains(refusal(folder / "none.gguf"), "no entries"));
  test::write(folder / "text", "this is a text, not an importance matrix");
  CHECK(contains(refusal(folder / "text"), "text"));
  CHECK(contains(message_of([&] { write_importance(folder / "x", {}, ImportanceForm::dat); }), "no entries"));
}
