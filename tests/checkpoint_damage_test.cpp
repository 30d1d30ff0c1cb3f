// Damaged checkpoint files: what is wrong is named, and nothing damaged is ever loaded.
#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "export/checksum.h"
#include "tests/checkpoint_support.h"

using namespace gladius;
using namespace gladius::test;
using nlohmann::json;

namespace {

// A checkpoint file taken apart, to be put together again with changes.
struct Parts {
  json header;
  std::string data;

  explicit Parts(const std::string& file) {
    uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    header = json::parse(file.substr(8, length));
    data = file.substr(8 + length);
  }
  json& metadata() { return header["__metadata__"]; }
  // Changes a metadata field that holds JSON.
  template <class F>
  void edit(const char* name, F&& change) {
    json value = json::parse(metadata()[name].get<std::string>());
    change(value);
    metadata()[name] = value.dump();
  }
  // Makes the metadata's checksum right again, so that what lies behind it is tested.
  void sign() {
    Checksum checksum;
    for (const auto& [name, value] : metadata().items()) {
      if (name == "gladius.checksum") continue;
      const auto text = value.get<std::string>();
      checksum.update(std::to_string(name.size()) + ":" + std::to_string(text.size()) + ":" + name + text);
    }
    metadata()["gladius.checksum"] = checksum.hex();
  }
  std::string file() const {
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
  }
};

// The file of a good checkpoint, and ways to damage it.
struct GoodFile {
  TemporaryFolder folder;
  fs::path path = checkpoint_path(folder.path(), 7);
  std::string bytes;
  size_t data_start;  // of the tensors

  GoodFile() {
    write_checkpoint(path, sample());
    bytes = read(path);
    data_start = bytes.size() - Parts(bytes).data.size();
  }
  std::string edited(const std::function<void(Parts&)>& change) const {
    Parts parts(bytes);
    change(parts);
    return parts.file();
  }
  std::string signed_edit(const char* field, const std::function<void(json&)>& change) const {
    return edited([&](Parts& parts) {
      parts.edit(field, change);
      parts.sign();
    });
  }
  std::string flipped(size_t at) const {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    return damaged;
  }
  std::string swap_offsets(const char* a, const char* b) const {
    return edited([&](Parts& p) { std::swap(p.header[a]["data_offsets"], p.header[b]["data_offsets"]); });
  }

  // Bytes, and what the message of reading them must say beside the file's name.
  using Damages = std::vector<std::pair<std::string, std::string>>;
  void check_refused(const Damages& damages) const {
    for (size_t i = 0; i < damages.size(); ++i) {
      CAPTURE(i);
      const auto& [damaged, reason] = damages[i];
      CHECK(damaged != bytes);
      write(path, damaged);
      const std::string message = message_of([&] { read_checkpoint(path); });
      CAPTURE(message);
      CHECK(contains(message, path.string()));
      CHECK(contains(message, reason));
    }
  }
};

}  // namespace

TEST_CASE("taking a checkpoint's file apart and signing it does no damage") {
  const GoodFile file;
  write(file.path, file.edited([](Parts& p) { p.sign(); }));
  CHECK(same(read_checkpoint(file.path), sample()));
  CHECK(contains(message_of([&] { read_checkpoint(file.folder / "none.safetensors"); }), "none.safetensors"));
}

TEST_CASE("a file that is no whole container is refused") {
  const GoodFile file;
  file.check_refused({
      {"", ""},
      {file.bytes.substr(0, 7), ""},
      {file.bytes.substr(0, 200), ""},
      {file.bytes.substr(0, file.data_start), ""},
      {file.bytes.substr(0, file.bytes.size() - 1), ""},
      {file.bytes + '\0', ""},
      {std::string(file.bytes.size(), '\0'), ""},
      {"GGUF" + file.bytes.substr(4), ""},
  });
}

TEST_CASE("damaged tensors are named") {
  const GoodFile file;
  file.check_refused({
      {file.flipped(file.data_start), "token_embd.weight is damaged"},
      {file.flipped(file.bytes.size() - 1), "is damaged"},
      {file.flipped(file.data_start + (file.bytes.size() - file.data_start) / 2), "is damaged"},
      {file.swap_offsets("blk.0.attn_k.weight", "blk.0.attn_v.weight"), "blk.0.attn_k.weight is damaged"},
      {file.swap_offsets("adam.m.output_norm.weight", "adam.v.output_norm.weight"),
       "adam.m.output_norm.weight is damaged"},
      {file.edited([](Parts& p) { p.header["output_norm.weight"]["dtype"] = "I32"; }),
       "output_norm.weight holds I32"},
      {file.edited([](Parts& p) { p.header["output_norm.weight"]["shape"] = {2, 4}; }),
       "output_norm.weight has the shape"},
      {file.edited([](Parts& p) {
         p.header["blk.9.x"] = p.header["blk.0.attn_k.weight"];
         p.header.erase("blk.0.attn_k.weight");
       }),
       "blk.0.attn_k.weight is missing"},
      {file.edited([](Parts& p) {
         p.header["more"] = {
             {"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {p.data.size(), p.data.size() + 4}}};
         p.data += std::string(4, '\0');
       }),
       "tensors; the configuration says"},
  });
}

TEST_CASE("damaged metadata are refused") {
  const GoodFile file;
  file.check_refused({
      {file.edited([](Parts& p) { p.header.erase("__metadata__"); }), "no checkpoint"},
      {file.edited([](Parts& p) { p.metadata().erase("gladius.checkpoint"); }), "no checkpoint"},
      {file.edited([](Parts& p) { p.metadata().erase("gladius.checksum"); }),
       "'gladius.checksum' is missing"},
      {file.edited([](Parts& p) { p.metadata().erase("gladius.state"); }), "metadata is damaged"},
      {file.edited([](Parts& p) { p.metadata()["note"] = "added"; }), "metadata is damaged"},
      {file.edited([](Parts& p) { p.edit("gladius.state", [](json& s) { s["step"] = 8; }); }),
       "metadata is damaged"},
      {file.edited(
           [](Parts& p) { std::swap(p.metadata()["gladius.state"], p.metadata()["gladius.config"]); }),
       "metadata is damaged"},
  });
}

TEST_CASE("metadata of another program or version, with the right checksum, are refused") {
  const GoodFile file;
  file.check_refused({
      {file.edited([](Parts& p) { p.metadata()["gladius.checkpoint"] = "2", p.sign(); }), "version 2"},
      {file.edited([](Parts& p) { p.metadata().erase("gladius.state"), p.sign(); }),
       "'gladius.state' is missing"},
      {file.edited([](Parts& p) { p.metadata()["gladius.state"] = "{", p.sign(); }), "state cannot be read"},
      {file.edited([](Parts& p) { p.metadata()["gladius.checksums"] = "[]", p.sign(); }),
       "checksums cannot be read"},
      {file.signed_edit("gladius.checksums", [](json& c) { c.erase("output.weight"); }),
       "output.weight has no checksum"},
      {file.signed_edit("gladius.checksums", [](json& c) { c["output.weight"] = "0"; }),
       "output.weight is damaged"},
      {file.signed_edit("gladius.state", [](json& s) { s.erase("seed"); }), "seed"},
      {file.signed_edit("gladius.state", [](json& s) { s["step"] = 1.5; }), "step is no integer"},
      {file.signed_edit("gladius.state", [](json& s) { s["step"] = -1; }), "below zero"},
      {file.signed_edit("gladius.state", [](json& s) { s["seed"] = -1; }), "seed is no count"},
      {file.signed_edit("gladius.state", [](json& s) { s["data"] = 1; }), "state cannot be read"},
      {file.signed_edit("gladius.state", [](json& s) { s["options"]["x"] = nullptr; }),
       "state cannot be read"},
      {file.signed_edit("gladius.config", [](json& c) { c["layers"] = 3; }),
       "blk.2.attn_norm.weight is missing"},
      {file.signed_edit("gladius.config", [](json& c) { c["layers"] = 1; }), "the configuration says"},
      {file.signed_edit("gladius.config", [](json& c) { c["intermediate"] = 16; }),
       "blk.0.ffn_gate.weight has the shape"},
      {file.signed_edit("gladius.config", [](json& c) { c["heads"] = 0; }), file.path.string()},
      {file.signed_edit("gladius.config", [](json& c) { c["tied"] = true; }), "the configuration says"},
      {file.signed_edit("gladius.config", [](json& c) { c.erase("rope_theta"); }), "rope_theta"},
      {file.signed_edit("gladius.config", [](json& c) { c["vocab"] = 100; }), "267 tokens, the model 100"},
      {file.signed_edit("gladius.tokenizer", [](json& t) { t["kind"] = "other"; }), "kind is 'other'"},
      {file.signed_edit("gladius.tokenizer", [](json& t) { t["scores"].erase(0); }), "266 scores"},
      {file.signed_edit("gladius.tokenizer", [](json& t) { t["types"][0] = 9; }), "token 0 has the type 9"},
      {file.signed_edit("gladius.tokenizer", [](json& t) { t["texts"][3] = "x"; }), file.path.string()},
      {file.signed_edit("gladius.tokenizer", [](json& t) { t["bos"] = 5000; }), file.path.string()},
  });
}

TEST_CASE("a checkpoint cut anywhere gives an error") {
  const GoodFile file;
  std::mt19937 random(5);
  for (int i = 0; i < 100; ++i) {
    write(file.path, file.bytes.substr(0, random() % file.bytes.size()));
    CHECK(contains(message_of([&] { read_checkpoint(file.path); }), file.path.string()));
  }
}

// White space between the JSON tokens of the header may change without harm, and nothing else.
TEST_CASE("a checkpoint with a byte changed anywhere gives an error, or is the same") {
  const GoodFile file;
  std::mt19937 random(2);
  for (int i = 0; i < 600; ++i) {
    const size_t at = i % 2 ? random() % file.data_start : random() % file.bytes.size();
    std::string bytes = file.bytes;
    bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ (1 + random() % 255));
    write(file.path, bytes);
    bool unchanged = false;
    const std::string message = message_of([&] { unchanged = same(read_checkpoint(file.path), sample()); });
    CAPTURE(at);
    CHECK((unchanged ? at < file.data_start : contains(message, file.path.string())));
  }
}

TEST_CASE("a checkpoint with a bit of a tensor changed gives an error") {
  const GoodFile file;
  std::mt19937 random(5);
  for (int i = 0; i < 100; ++i) {
    std::string bytes = file.bytes;
    char& byte = bytes[file.data_start + random() % (bytes.size() - file.data_start)];
    byte = static_cast<char>(byte ^ (1 << random() % 8));
    write(file.path, bytes);
    CHECK(contains(message_of([&] { read_checkpoint(file.path); }), file.path.string()));
  }
}
