// What the tests of the command share: refusals, and a model made once.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "export/gguf.h"
#include "tests/process.h"

namespace gladius::test {

inline std::string joined(const std::vector<std::string>& arguments) {
  std::string line = "gladius";
  for (const std::string& argument : arguments) line += " " + argument;
  return line;
}

// The command fails with this exit code, prints no result, and its last line on standard error, before which
// only progress may stand, is "gladius…: " and a message that holds all of `parts`.
inline void check_refused(const std::vector<std::string>& arguments, int code,
                          const std::vector<std::string>& parts) {
  const Outcome outcome = run(arguments);
  INFO(joined(arguments) << "\nexit code " << outcome.code << ", signal " << outcome.signal << "\n"
                         << outcome.err);
  CHECK(outcome.code == code);
  CHECK(outcome.out.empty());
  REQUIRE(outcome.err.ends_with('\n'));
  const std::string lines = fmt::format("\n{}", outcome.err.substr(0, outcome.err.size() - 1));
  const std::string message = lines.substr(lines.rfind('\n') + 1);
  CHECK(message.starts_with("gladius"));
  if (code == 2) CHECK(message + "\n" == outcome.err);
  for (const std::string& part : parts) CHECK_MESSAGE(contains(message, part), part);
}

// A text, a tokenizer and a model trained for two steps, made once for all tests.
class Material {
 public:
  Material() {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += i % 7 == 6 ? "night falls on Rome.\n" : "the king speaks ";
    write(folder_ / "text.txt", text);
    write(folder_ / "config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
      "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
      "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_act": "silu", "max_position_embeddings": 48,
      "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false})");
    must({"tokenizer", "train", path("text.txt"), "--vocab", "300", "--out", path("tokenizer.gguf")});
    must(training("run"));
    must({"export", path("run"), "--gguf", "F32,Q8_0", "--hf", "--name", "m", "--out", path("")});
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::vector<std::string> training(const std::string& out) const {
    return with(training_arguments(folder_.path(), out), {"--steps", "2", "--batch", "2", "--context", "32",
                                                          "--threads", "1", "--validation-windows", "2"});
  }

 private:
  static void must(const std::vector<std::string>& arguments) {
    const Outcome outcome = run(arguments);
    if (outcome.code != 0) throw std::runtime_error(joined(arguments) + ": " + outcome.err);
  }

  TemporaryFolder folder_;
};

inline const Material& material() {
  static const Material made;
  return made;
}

// The model's F32 file with one more metadata entry.
inline void write_with(const fs::path& path, const std::string& key, const std::string& value) {
  const GgufFile original = GgufFile::open(material().path("m-F32.gguf"));
  GgufMetadata metadata = original.metadata();
  metadata.set(key, value);
  GgufWriter writer(path, metadata, original.tensors());
  for (const GgufTensor& tensor : original.tensors()) writer.append(original.data(tensor));
  writer.finish();
}

}  // namespace gladius::test
