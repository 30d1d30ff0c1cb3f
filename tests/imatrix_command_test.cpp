// `gladius imatrix` and `gladius quantize --imatrix` as processes of their own.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "export/importance.h"
#include "export/model_gguf.h"
#include "tests/export_support.h"
#include "tests/process.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// A small model and a text.
struct Material : Fixture {
  Material() {
    save_gguf(folder / "m.gguf", model, vocab, {}, {.type = FileType::F32}, *backend);
    std::string text;
    for (int i = 0; i < 20000; ++i) text += i % 7 == 6 ? "night falls on Rome.\n" : "the king speaks ";
    write(folder / "long.txt", text);
    write(folder / "text.txt", text.substr(0, 3000));
  }
  std::string path(const char* name) const { return (folder / name).string(); }
  std::vector<std::string> collecting(const char* text, const char* out) const {
    return {"imatrix", path("m.gguf"), "--data", path(text), "--out", path(out)};
  }
};

}  // namespace

TEST_CASE("an importance matrix, in both forms, weighs the quantiser's errors alike") {
  const Material m;
  std::vector<std::string> tensors;
  for (const char* name : {"i.gguf", "i.dat"}) {
    const Outcome outcome = run(with(m.collecting("text.txt", name), {"--chunks", "4", "--context", "32"}));
    CHECK_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(contains(outcome.out, "14 matrices, 4 chunks of 32 tokens"));
    const ImportanceMatrix matrix = read_importance(m.path(name));
    CHECK(matrix.chunks == 4);
    CHECK(matrix.datasets == std::vector<std::string>{m.path("text.txt")});
    const Outcome quantised =
        run({"quantize", m.path("m.gguf"), m.path("q.gguf"), "Q4_0", "--imatrix", m.path(name)});
    CHECK_MESSAGE(quantised.code == 0, quantised.err);
    CHECK(contains(quantised.err,
                   "rows of 32 are no multiple of Q6_K's 256: Q8_0 instead for output.weight\n"));
    const GgufFile file = GgufFile::open(m.path("q.gguf"));
    const auto bytes = file.data(*file.find("blk.0.attn_q.weight"));
    tensors.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  CHECK(tensors[0] == tensors[1]);
}

TEST_CASE("a model's own context is the chunk where it is shorter than 512; --form goes before the ending") {
  const Material m;
  const Outcome outcome =
      run(with(m.collecting("text.txt", "i.gguf"), {"--process-output", "--form", "dat"}));
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(contains(outcome.out, "15 matrices"));
  CHECK(contains(outcome.out, "of 64 tokens"));
  CHECK_FALSE(read(m.path("i.gguf")).starts_with("GGUF"));
  CHECK(read_importance(m.path("i.gguf")).entries.contains("output.weight"));
}

TEST_CASE("what cannot be done is said in one line, and no file is left") {
  const Material m;
  write(m.folder / "short.txt", "the");
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& part) {
    const Outcome outcome = run(arguments);
    CHECK(outcome.code == 1);
    CHECK(outcome.out.empty());
    CHECK_MESSAGE(contains(outcome.err, part), outcome.err);
  };
  refused(m.collecting("text.txt", "missing/i.gguf"), "missing/i.gguf");
  refused(m.collecting("missing.txt", "i.gguf"), "missing.txt");
  refused(m.collecting("short.txt", "i.gguf"), "fewer than the 64 of a chunk");
  CHECK_FALSE(fs::exists(m.path("i.gguf")));
}

TEST_CASE("Ctrl-C ends the collection with what there is, exit code 130") {
  const Material m;
  // It says how long the text is when it starts on it.
  const auto started = [](const fs::path& out) { return once_printed(out.parent_path() / "err"); };
  const Outcome outcome = run(with(m.collecting("long.txt", "i.gguf"), {"--context", "2"}), started, SIGINT);
  CHECK(outcome.code == 130);
  const ImportanceMatrix matrix = read_importance(m.path("i.gguf"));
  CHECK(matrix.chunks > 0);
  CHECK(matrix.entries.at("blk.0.attn_q.weight").count == 2 * int64_t{matrix.chunks});
  const Outcome whole = run(with(m.collecting("text.txt", "whole.gguf"), {"--context", "2"}));
  CHECK(whole.code == 0);
}
