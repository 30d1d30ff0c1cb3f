// `gladius export --verify`, its certificate in `gladius inspect`, and damage named by `gladius validate`.
#include <nlohmann/json.hpp>

#include "tests/cli_support.h"

namespace gladius::test {
namespace {

// The model's file of a type with a tensor's bytes changed.
void write_damaged(const std::string& from, const fs::path& to,
                   const std::function<std::string(const GgufFile&, const std::string& name)>& bytes_of) {
  const GgufFile file = GgufFile::open(material().path(from));
  GgufWriter writer(to, file.metadata(), file.tensors());
  for (const GgufTensor& tensor : file.tensors()) {
    const std::string bytes = bytes_of(file, tensor.name);
    writer.append(std::as_bytes(std::span(bytes)));
  }
  writer.finish();
}

std::string bytes(const GgufFile& file, const std::string& name) {
  const auto data = file.data(*file.find(name));
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

TEST_CASE("export --verify: a certificate, which inspect checks against the tensors") {
  const Material& m = material();
  const TemporaryFolder folder;
  const auto exporting = [&](const std::vector<std::string>& more) {
    return run(with({"export", m.path("run"), "--gguf", "F32,Q4_K_M", "--hf", "--name", "v", "--verify",
                     "--out", folder.path().string()},
                    more));
  };
  const Outcome outcome = exporting({"--threads", "1"});
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(
      contains(outcome.out, "verified: 12 tensors as they must be; logits of 48 tokens the same to the bit"));
  CHECK(contains(outcome.out, "KL divergence"));  // of the quantised one
  const std::string file = (folder / "v-Q4_K_M.gguf").string(), first = read(file);
  CHECK(exporting({"--threads", "2"}).code == 0);
  CHECK(read(file) == first);

  const Outcome shown = run({"inspect", file, "--no-metadata"});
  CHECK(shown.code == 0);
  CHECK(contains(shown.out, "certificate: gladius "));
  CHECK(contains(shown.out, "certificate: fits the tensor data"));
  CHECK_FALSE(contains(run({"inspect", m.path("m-F32.gguf")}).out, "certificate"));

  std::string damaged = first;
  damaged[damaged.size() - 1000] = static_cast<char>(damaged[damaged.size() - 1000] ^ 1);
  write(file, damaged);
  const Outcome refused = run({"inspect", file});
  CHECK(refused.code == 1);
  CHECK(contains(refused.err, "v-Q4_K_M.gguf: the certificate does not fit the tensor data"));
}

TEST_CASE("export --verify: a text in place of drawn ids; wrong arguments") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::vector<std::string> exporting = {"export", m.path("run"), "--gguf",
                                              "Q8_0",   "--out",       folder.path().string()};
  const Outcome outcome =
      run(with(exporting, {"--verify", "--verify-text", m.path("text.txt"), "--verify-tokens", "20"}));
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(contains(outcome.out, "logits of 20 tokens differ by"));
  check_refused(with(exporting, {"--verify-tokens", "20"}), 2, {"--verify"});
  check_refused(with(exporting, {"--verify", "--verify-tokens", "1"}), 2, {"--verify-tokens"});
  check_refused(with(exporting, {"--verify", "--verify-text", (folder / "none").string()}), 1, {"none"});
  write(folder / "empty", "");
  check_refused(with(exporting, {"--verify", "--verify-text", (folder / "empty").string()}), 1, {"empty"});
}

TEST_CASE("validate names the tensor that is not the base's, exit code 1") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string broken = (folder / "broken.gguf").string();
  const auto validate = [&](const std::vector<std::string>& more = {}) {
    return run(with({"validate", m.path("m-F32.gguf"), broken, "--data", m.path("text.txt"), "--context",
                     "48", "--chunks", "5"},
                    more));
  };
  const auto check_named = [&](const std::vector<std::string>& names) {
    const Outcome outcome = validate();
    CHECK(outcome.code == 1);
    CHECK(contains(outcome.out, "tensors that are not the base's, converted"));
    for (const std::string& name : names)
      CHECK_MESSAGE(contains(outcome.out, "  " + name + " "), outcome.out);
    CHECK(contains(outcome.err, fmt::format("{} of 12 tensors are not the base's, converted: {} differs by ",
                                            names.size(), names.front())));
  };
  for (const std::string from : {"m-F32.gguf", "m-Q8_0.gguf"}) {
    CAPTURE(from);
    write_damaged(from, broken, [](const GgufFile& file, const std::string& name) {
      return bytes(file, name == "blk.0.ffn_up.weight"     ? "blk.0.ffn_gate.weight"
                         : name == "blk.0.ffn_gate.weight" ? "blk.0.ffn_up.weight"
                                                           : name);
    });
    check_named({"blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"});
    write_damaged(from, broken, [](const GgufFile& file, const std::string& name) {
      std::string data = bytes(file, name);
      if (name != "blk.0.attn_q.weight") return data;
      const size_t row = data.size() / 32, head = 16;  // rows in Hugging Face's order
      const std::string rows = data;
      for (size_t r = 0; r < 32; ++r) {
        const size_t g = r % head, to = r - g + head / 2 * (g % 2) + g / 2;
        data.replace(to * row, row, rows, r * row, row);
      }
      return data;
    });
    check_named({"blk.0.attn_q.weight"});
    write_damaged(from, broken, [&](const GgufFile& file, const std::string& name) {
      std::string data = bytes(file, name);
      const size_t sign = from == "m-F32.gguf" ? 3 : 1;  // of the first value, of the first block's scale
      if (name == "blk.0.attn_v.weight") data[sign] = static_cast<char>(data[sign] ^ 0x80);
      return data;
    });
    check_named({"blk.0.attn_v.weight"});
  }
  CHECK(validate({"--no-weight-check"}).code == 0);
  const auto json = nlohmann::json::parse(validate({"--json", "-"}).out)["weights"];
  CHECK(json["faults"].size() == 1);
  CHECK(json["faults"][0]["name"] == "blk.0.attn_v.weight");
  CHECK(json["tensors"].size() == 12);
}

TEST_CASE(
    "validate: other weights altogether are no damage; another configuration with the same weights is") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string other = (folder / "other.gguf").string();
  const auto validate = [&] {
    return run({"validate", m.path("m-F32.gguf"), other, "--data", m.path("text.txt"), "--context", "48"});
  };
  write_damaged("m-F32.gguf", other, [](const GgufFile& file, const std::string& name) {
    std::string data = bytes(file, name);
    for (size_t i = 0; i < data.size(); i += 4) data[i] = static_cast<char>(data[i] ^ 1);  // the last bits
    return data;
  });
  Outcome outcome = validate();
  CHECK(outcome.code == 0);
  CHECK(contains(outcome.out, "the weights are other ones than the base's: 12 of 12 tensors"));

  const GgufFile file = GgufFile::open(m.path("m-F32.gguf"));
  GgufMetadata metadata = file.metadata();
  metadata.set("llama.rope.freq_base", 500000.0f);
  GgufWriter writer(other, metadata, file.tensors());
  for (const GgufTensor& tensor : file.tensors()) writer.append(file.data(tensor));
  writer.finish();
  outcome = validate();
  CHECK(outcome.code == 1);
  CHECK(contains(outcome.err, "differ in heads, RoPE or the norms' epsilon"));
}

TEST_CASE("logits --layers: all of them are the model, none is the embedding alone") {
  const Material& m = material();
  const TemporaryFolder folder;
  write(folder / "ids.json", "[1, 260, 270]");
  const std::string out = (folder / "out.f32").string();
  const std::vector<std::string> arguments = {
      "logits", m.path("m-F32.gguf"), "--ids-json", (folder / "ids.json").string(), "--out", out};
  REQUIRE(run(arguments).code == 0);
  const std::string whole = read(out);
  CHECK(whole.size() == 3 * 300 * sizeof(float));
  CHECK(run(with(arguments, {"--layers", "1"})).code == 0);
  CHECK(read(out) == whole);
  CHECK(run(with(arguments, {"--layers", "0"})).code == 0);
  const std::string none = read(out);
  CHECK(none != whole);
  write(folder / "ids.json", "[5, 270, 270]");  // without attention, what stands before does not matter
  CHECK(run(with(arguments, {"--layers", "0"})).code == 0);
  CHECK(read(out).substr(2400) == none.substr(2400));
  check_refused(with(arguments, {"--layers", "2"}), 1, {"1 layers", "--layers is 2"});
}

}  // namespace
}  // namespace gladius::test
