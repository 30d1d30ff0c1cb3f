// The certificate of a verified GGUF file: written, read, and no longer fitting.
#include "export/certificate.h"

#include "export/checksum.h"
#include "export/model_gguf.h"
#include "export/quantize.h"
#include "tests/export_support.h"

namespace gladius::test {
namespace {

Certificate sample() {
  Certificate c;
  c.version = "1.2.3", c.engine = "cpu (avx2)";
  c.tensors = 21, c.tokens = 3, c.tokens_checksum = tokens_checksum(std::vector<int32_t>{1, 2, 300});
  c.logits_largest = 0.25, c.logits_rms = 1e-3, c.kl_mean = 1e-5, c.kl_max = 2e-5, c.same_top = 0.5;
  return c;
}

struct Certified : Fixture {
  fs::path path = folder / "x.gguf";
  explicit Certified(FileType type = FileType::Q4_K_M) {
    save_gguf(path, model, vocab, {}, {.type = type}, *backend);
  }
};

TEST_CASE("certificate: what is written is read, and nothing else changes") {
  Certified f;
  const std::string before = read(f.path);
  CHECK_FALSE(read_certificate(GgufFile::open(f.path)));
  certify(f.path, sample());
  Certificate expected = sample();
  expected.tensors_checksum = tensors_checksum(GgufFile::open(f.path));
  expected.file_type = 15;  // MOSTLY_Q4_K_M
  CHECK(expected.tensors_checksum.size() == 32);
  CHECK(read_certificate(GgufFile::open(f.path)) == expected);
  load_gguf(f.path);

  const std::string once = read(f.path);
  certify(f.path, sample());  // in place of the first
  CHECK(read(f.path) == once);
  const GgufFile file = GgufFile::open(f.path);
  GgufMetadata metadata = file.metadata();
  erase_certificate(metadata);
  GgufWriter writer(f.folder / "without.gguf", metadata, file.tensors());
  for (const GgufTensor& tensor : file.tensors()) writer.append(file.data(tensor));
  writer.finish();
  CHECK(read(f.folder / "without.gguf") == before);
}

TEST_CASE("certificate: one that another program kept is told from damage") {
  Certified f(FileType::F32);
  certify(f.path, sample());
  const auto state_of = [](const fs::path& path) {
    const GgufFile file = GgufFile::open(path);
    return check_certificate(file, *read_certificate(file));
  };
  CHECK(state_of(f.path) == CertificateState::fits);
  const GgufFile file = GgufFile::open(f.path);
  const fs::path other = f.folder / "other.gguf";
  for (const bool requantised : {true, false}) {
    GgufMetadata metadata = file.metadata();
    if (requantised) metadata.set("general.file_type", uint32_t{15});
    GgufWriter writer(other, metadata, file.tensors());
    for (const GgufTensor& tensor : file.tensors()) {
      std::vector<std::byte> bytes(file.data(tensor).begin(), file.data(tensor).end());
      bytes[5] ^= std::byte{1};
      writer.append(bytes);
    }
    writer.finish();
    CHECK(state_of(other) == (requantised ? CertificateState::other_type : CertificateState::damaged));
  }
}

TEST_CASE("certificate: the checksum is of names, types, shapes and bytes") {
  const TemporaryFolder folder;
  const auto checksum = [&](std::vector<GgufTensor> records, const std::vector<std::string>& data) {
    GgufMetadata metadata;
    metadata.set("general.architecture", std::string("llama"));
    GgufWriter writer(folder / "t.gguf", metadata, std::move(records));
    for (const std::string& bytes : data) writer.append(std::as_bytes(std::span(bytes)));
    writer.finish();
    return tensors_checksum(GgufFile::open(folder / "t.gguf"));
  };
  const std::string a(32, 'a'), b(16, 'b');
  const std::string first =
      checksum({gguf_tensor("x", DType::F32, {2, 4}), gguf_tensor("y", DType::F32, {4})}, {a, b});
  Checksum expected;
  for (const std::string& part : {std::string("x F32 [2, 4]\n"), a, std::string("y F32 [4]\n"), b})
    expected.update(part);
  CHECK(first == expected.hex());
  const std::vector<std::pair<std::vector<GgufTensor>, std::vector<std::string>>> others = {
      {{gguf_tensor("y", DType::F32, {2, 4}), gguf_tensor("x", DType::F32, {4})}, {a, b}},
      {{gguf_tensor("x", DType::F32, {4, 2}), gguf_tensor("y", DType::F32, {4})}, {a, b}},
      {{gguf_tensor("x", DType::F16, {2, 8}), gguf_tensor("y", DType::F32, {4})}, {a, b}},
      {{gguf_tensor("x", DType::F32, {2, 4}), gguf_tensor("y", DType::F32, {4})}, {a, b.substr(1) + "c"}}};
  for (const auto& [records, data] : others) CHECK(checksum(records, data) != first);
}

TEST_CASE("certificate: what has other tensors has none; a damaged one is refused by the key") {
  Certified f(FileType::F32);
  certify(f.path, sample());
  quantize_file(f.path, f.folder / "q.gguf", {.type = FileType::Q8_0}, *f.backend);
  CHECK_FALSE(read_certificate(GgufFile::open(f.folder / "q.gguf")));
  save_gguf(f.folder / "direct.gguf", f.model, f.vocab, {}, {.type = FileType::Q8_0}, *f.backend);
  CHECK(read(f.folder / "q.gguf") == read(f.folder / "direct.gguf"));

  const GgufFile file = GgufFile::open(f.path);
  for (const bool missing : {true, false}) {
    GgufMetadata metadata = file.metadata();
    missing ? metadata.erase("gladius.verify.kl_max") : metadata.set("gladius.verify.kl_max", uint32_t{1});
    GgufWriter writer(f.folder / "damaged.gguf", metadata, file.tensors());
    for (const GgufTensor& tensor : file.tensors()) writer.append(file.data(tensor));
    writer.finish();
    const std::string message =
        message_of([&] { read_certificate(GgufFile::open(f.folder / "damaged.gguf")); });
    CHECK(contains(message, "damaged.gguf"));
    CHECK(contains(message, "gladius.verify.kl_max"));
  }
}

}  // namespace
}  // namespace gladius::test
