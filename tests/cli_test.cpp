// The command as people meet it: help, wrong arguments, bad input, exit codes, and what is on the disk
// afterwards.
#include <sched.h>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "export/gguf.h"
#include "kernels/backend.h"
#include "tests/cli_support.h"
#include "train/folder_lock.h"

namespace gladius::test {
namespace {

const std::vector<std::vector<std::string>> kCommands = {{"tokenizer"},
                                                         {"tokenizer", "train"},
                                                         {"tokenizer", "encode"},
                                                         {"tokenizer", "decode"},
                                                         {"train"},
                                                         {"generate"},
                                                         {"chat"},
                                                         {"export"},
                                                         {"imatrix"},
                                                         {"quantize"},
                                                         {"inspect"},
                                                         {"plan"},
                                                         {"doctor"},
                                                         {"evaluate"},
                                                         {"perplexity"},
                                                         {"validate"},
                                                         {"logits"},
                                                         {"bench"}};

TEST_CASE("every command has help with an example") {
  for (const auto& command : kCommands) {
    const Outcome outcome = run(with(command, {"--help"}));
    INFO(joined(command) << "\n" << outcome.out);
    CHECK(outcome.code == 0);
    CHECK(outcome.err.empty());
    CHECK(contains(outcome.out, "Example:\n  "));
    CHECK(contains(outcome.out, joined(command)));
  }
}

TEST_CASE("the help of the program names every command") {
  const Outcome outcome = run({"--help"});
  CHECK(outcome.code == 0);
  for (const auto& command : kCommands) CHECK(contains(outcome.out, "\n  " + command.front()));
}

TEST_CASE("wrong arguments: one line that names them, exit code 2") {
  check_refused({}, 2, {"--help"});
  check_refused({"fly"}, 2, {"fly"});
  check_refused({"train"}, 2, {"gladius train", "--help"});
  check_refused({"train", "text.txt", "--out", "run", "--no-such-option"}, 2, {"--no-such-option"});
  check_refused({"train", "text.txt", "--out", "run", "--batch", "0"}, 2, {"--batch", "0"});
  check_refused({"train", "text.txt", "--out", "run", "--steps", "many"}, 2, {"--steps", "many"});
  for (const char* option : {"--lr", "--min-lr", "--beta1", "--beta2", "--eps", "--clip", "--weight-decay"}) {
    check_refused({"train", "text.txt", "--out", "run", option, "nan"}, 2, {option, "nan"});
    check_refused({"train", "text.txt", "--out", "run", option, "-1"}, 2, {option, "-1"});
  }
  check_refused({"train", "text.txt", "--out", "run", "--beta1", "1"}, 2, {"--beta1"});
  check_refused({"train", "text.txt", "--out", "run", "--export-gguf", "Q9_X"}, 2,
                {"--export-gguf", "Q9_X", "Q4_K_M"});
  check_refused({"generate", "m.gguf", "--device", "tpu"}, 2, {"--device", "tpu"});
  check_refused({"generate", "m.gguf", "--threads", "-3"}, 2, {"--threads", "-3"});
  check_refused({"generate", "m.gguf", "--prompt", "a", "--prompt-file", "b"}, 2, {"--prompt"});
  check_refused({"chat", "m.gguf", "--template", "chatlm"}, 2, {"--template", "chatlm", "chatml"});
  check_refused({"chat", "m.gguf", "--tokens", "0"}, 2, {"--tokens", "0"});
  check_refused({"quantize", "a.gguf", "b.gguf", "Q9_X"}, 2, {"Q9_X", "Q4_K_M"});
  check_refused({"imatrix", "m.gguf", "--data", "a", "--out", "b", "--form", "csv"}, 2, {"--form", "csv"});
  check_refused({"imatrix", "m.gguf", "--data", "a"}, 2, {"--out"});
  check_refused({"export", "run", "--out", "folder"}, 2, {"--gguf", "--hf"});
  check_refused({"export", "run", "--out", "folder", "--gguf", "Q9_X"}, 2, {"--gguf", "Q9_X", "Q4_K_M"});
  check_refused({"plan", "--context", "0"}, 2, {"--context"});
  check_refused({"tokenizer"}, 2, {"gladius tokenizer"});
  check_refused({"tokenizer", "encode", "t.gguf"}, 2, {"text"});
  check_refused({"tokenizer", "encode", "t.gguf", "a", "--file", "b"}, 2, {"text"});
  check_refused({"train", "text.txt", "--out", "run", "--lr", "1e-3", "--min-lr", "2e-3"}, 2,
                {"--min-lr", "0.002"});
  check_refused({"train", "text.txt", "--out", "run", "--steps", "5", "--warmup", "6"}, 2, {"--warmup", "6"});
  check_refused({"train", "text.txt", "--out", "run", "--validation", "nan"}, 2, {"--validation"});
  check_refused({"train", "text.txt", "--out", "run", "--steps", "0"}, 2, {"--steps", "0"});
  check_refused({"train", "text.txt", "--out", "run", "--steps", "1.5"}, 2, {"--steps", "1.5", "whole"});
  check_refused({"train", "text.txt", "--out", "run", "--steps", "5", "--epochs", "2"}, 2,
                {"--steps", "--epochs"});
  check_refused({"train", "text.txt", "--out", "run", "--init-from", "m", "--model", "c"}, 2,
                {"--init-from", "--model"});
  check_refused({"tokenizer", "train", "a.txt", "--out", "t.gguf", "--coverage", "0.5"}, 2, {"--coverage"});
  check_refused({"bench", "m.gguf", "-p", "1,x"}, 2, {"--n-prompt", "x", "whole"});
  check_refused({"bench", "m.gguf", "-t", "-1"}, 2, {"--threads", "-1"});
  check_refused({"bench", "m.gguf", "-r", "0"}, 2, {"--repetitions", "0"});
  check_refused({"bench", "m.gguf", "-o", "sql"}, 2, {"--output", "sql"});
  check_refused({"bench", "m.gguf", "--pg", "5"}, 2, {"--pg", "as in"});
  check_refused({"bench", "m.gguf", "-p", "0", "-n", "0"}, 2, {"--n-prompt", "nothing to measure"});
  const Material& m = material();
  check_refused({"bench", m.path("m-F32.gguf"), "-p", "49"}, 2,
                {"--n-prompt", "49", "context of 48", "fewer"});
  check_refused({"bench", m.path("m-F32.gguf"), "-p", "8", "-n", "40", "-d", "9"}, 2,
                {"-n", "40", "9", "48"});
  for (const char* option : {"--temperature", "--top-p", "--min-p", "--repeat-penalty"}) {
    check_refused({"generate", m.path("m-F32.gguf"), "--prompt", "a", option, "nan"}, 2, {option});
    check_refused({"generate", m.path("m-F32.gguf"), "--prompt", "a", option, "-0.5"}, 2, {option});
  }
}

TEST_CASE("an instruction set that cannot be used is an error, not a crash") {
  ::setenv("GLADIUS_ISA", "z80", 1);
  check_refused({"doctor"}, 1, {"GLADIUS_ISA", "z80"});
  ::unsetenv("GLADIUS_ISA");
}

TEST_CASE("oneDNN's products where they are built, else an error that says so") {
  const std::vector<std::string> plan = {"plan",      "--model", "gladius-tiny", "--batch", "1",
                                         "--context", "8",       "--threads",    "1",       "--backend"};
  const auto with = [&](const std::string& backend) {
    std::vector<std::string> arguments = plan;
    arguments.push_back(backend);
    return arguments;
  };
  check_refused(with("blas"), 2, {"--backend", "blas"});
  const std::string version = onednn_version(), doctor = run({"doctor"}).out;
  if (version.empty()) {
    CHECK(contains(doctor, "onednn       not built"));
    check_refused(with("onednn"), 1, {"this build has no oneDNN", "GLADIUS_ONEDNN=ON"});
  } else {
    CHECK(contains(doctor, "onednn       " + version));
    CHECK(contains(run(with("onednn")).out, "onednn " + version));
  }
  CHECK_FALSE(contains(run(with("cpu")).out, "onednn"));
}

TEST_CASE("files that are missing or something else are named, exit code 1") {
  const Material& m = material();
  const TemporaryFolder folder;
  write(folder / "noise.gguf", "this is no model");
  write(folder / "noise.safetensors", "this is no checkpoint, although it is long enough");
  write(folder / "empty.gguf", "");
  write(folder / "noise.json", "[1, 2");
  const std::string missing = (folder / "missing.gguf").string(), out = (folder / "out").string();
  for (const char* name : {"noise.gguf", "empty.gguf", "noise.safetensors", "missing.gguf", "."}) {
    const std::string path = (folder / name).string();
    check_refused({"inspect", path}, 1, {path});
    check_refused({"generate", path, "--prompt", "a"}, 1, {path});
    check_refused({"chat", path, "--template", "chatml"}, 1, {path});
    check_refused({"evaluate", path, "--data", m.path("text.txt")}, 1, {path});
    check_refused({"export", path, "--gguf", "F32", "--out", out}, 1, {path});
    check_refused({"tokenizer", "encode", path, "a"}, 1, {path});
    check_refused({"bench", path}, 1, {path});
  }
  check_refused({"quantize", missing, out, "Q8_0"}, 1, {missing});
  check_refused({"train", (folder / "missing.txt").string(), "--out", out}, 1, {"missing.txt"});
  check_refused({"evaluate", m.path("m-F32.gguf"), "--data", (folder / "missing.txt").string()}, 1,
                {"missing.txt"});
  check_refused({"generate", m.path("m-F32.gguf"), "--prompt-file", (folder / "missing.txt").string()}, 1,
                {"missing.txt"});
  check_refused(
      {"logits", m.path("m-F32.gguf"), "--ids-json", (folder / "noise.json").string(), "--out", out}, 1,
      {"noise.json"});
  check_refused({"plan", "--model", (folder / "noise.json").string()}, 1, {"noise.json"});
  check_refused({"generate", m.path("tokenizer.gguf"), "--prompt", "a"}, 1, {m.path("tokenizer.gguf")});
  check_refused({"tokenizer", "decode", m.path("tokenizer.gguf"), "300"}, 1, {"300"});
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("empty texts, and a vocabulary larger than the text allows") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string empty = (folder / "empty.txt").string(), out = (folder / "run").string();
  write(empty, "");
  check_refused({"train", empty, "--tokenizer", m.path("tokenizer.gguf"), "--model", m.path("config.json"),
                 "--out", out},
                1, {"empty.txt"});
  check_refused({"evaluate", m.path("m-F32.gguf"), "--data", empty}, 1, {"empty.txt"});
  check_refused({"tokenizer", "train", empty, "--out", (folder / "t.gguf").string()}, 1, {"empty.txt"});
  write(folder / "short.txt", "a short text");
  check_refused({"tokenizer", "train", (folder / "short.txt").string(), "--vocab", "32000", "--out",
                 (folder / "t.gguf").string()},
                1, {"32000", "at most"});
  CHECK_FALSE(fs::exists(folder / "t.gguf"));
}

TEST_CASE("bytes that are no UTF-8 are text like any other") {
  const Material& m = material();
  const TemporaryFolder folder;
  write(folder / "bytes.bin", "king \xFF\xFE\xC3 \xF0\x9F Rome");
  const Outcome encoded =
      run({"tokenizer", "encode", m.path("tokenizer.gguf"), "--file", (folder / "bytes.bin").string()});
  REQUIRE_MESSAGE(encoded.code == 0, encoded.err);
  std::vector<std::string> arguments = {"tokenizer", "decode", m.path("tokenizer.gguf")};
  std::istringstream ids(encoded.out);
  for (std::string id; ids >> id;) arguments.push_back(id);
  const Outcome decoded = run(arguments);
  REQUIRE_MESSAGE(decoded.code == 0, decoded.err);
  CHECK(decoded.out == read(folder / "bytes.bin") + "\n");
  const Outcome generated = run(
      {"generate", m.path("m-F32.gguf"), "--prompt-file", (folder / "bytes.bin").string(), "--tokens", "2"});
  CHECK_MESSAGE(generated.code == 0, generated.err);
}

TEST_CASE("weights that are not finite: no token is drawn, no quantised file is made") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string damaged = (folder / "nan.gguf").string(), out = (folder / "out.gguf").string();
  std::string bytes = read(m.path("m-F32.gguf"));
  const float nan = std::nanf("");
  std::memcpy(bytes.data() + bytes.size() - sizeof nan, &nan,
              sizeof nan);  // the last value of the last tensor
  write(damaged, bytes);
  check_refused({"quantize", damaged, out, "Q8_0"}, 1, {"nan.gguf", "blk.0.ffn_up.weight", "NaN"});
  CHECK_FALSE(fs::exists(out));
  const Outcome outcome = run({"generate", damaged, "--prompt", "the king", "--quiet"});
  CHECK(outcome.code == 1);
  CHECK_MESSAGE(contains(outcome.err, "nan"), outcome.err);
}

TEST_CASE("a full disk: an error that names the file, and nothing half-written") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string out = (folder / "out").string();
  fs::create_directories(out);
  {
    const FileSizeLimit disk(4096);
    check_refused({"quantize", m.path("m-F32.gguf"), out + "/q.gguf", "Q8_0"}, 1, {"q.gguf"});
    check_refused({"export", m.path("run"), "--hf", "--name", "m", "--out", out}, 1, {"m-hf"});
    check_refused({"export", m.path("run"), "--gguf", "F32", "--name", "m", "--out", out}, 1, {"m-F32.gguf"});
    check_refused({"tokenizer", "train", m.path("text.txt"), "--vocab", "300", "--out", out + "/t.gguf"}, 1,
                  {"t.gguf"});
  }
  CHECK(names_in(out).empty());
}

TEST_CASE("folders that are missing or cannot be written are named") {
  const Material& m = material();
  const TemporaryFolder folder;
  write(folder / "file", "not a folder");
  const std::string inside = (folder / "file" / "x").string();
  check_refused({"quantize", m.path("m-F32.gguf"), (folder / "no" / "q.gguf").string(), "Q8_0"}, 1,
                {"q.gguf"});
  check_refused({"export", m.path("run"), "--gguf", "F32", "--out", inside}, 1, {inside});
  check_refused(with({"train", m.path("text.txt")}, {"--tokenizer", m.path("tokenizer.gguf"), "--model",
                                                     m.path("config.json"), "--out", inside}),
                1, {inside});
}

TEST_CASE("a quantised file is never written over its own source") {
  const Material& m = material();
  const std::string path = m.path("m-Q8_0.gguf"), before = read(path);
  check_refused({"quantize", "--requantize", path, path, "Q4_0"}, 1, {"m-Q8_0.gguf"});
  CHECK(read(path) == before);
}

TEST_CASE("a run's folder is kept from other processes and from other models") {
  const Material& m = material();
  const TemporaryFolder folder;
  write(folder / "wider.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_act": "silu", "max_position_embeddings": 48,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false})");
  check_refused(m.training("run"), 1, {m.path("run"), "--resume"});
  std::vector<std::string> wider = with(m.training("run"), {"--resume", "--allow-changes"});
  std::replace(wider.begin(), wider.end(), m.path("config.json"), (folder / "wider.json").string());
  check_refused(wider, 1, {"weights"});
  const FolderLock lock(m.path("run"));
  check_refused(with(m.training("run"), {"--resume"}), 1, {m.path("run"), "another process"});
}

TEST_CASE("a name in a file's metadata does not lead out of the folder") {
  const Material& m = material();
  const TemporaryFolder folder;
  write_with(folder / "named.gguf", "general.name", "../../esc\x1b[31maped");
  const Outcome exported =
      run({"export", (folder / "named.gguf").string(), "--gguf", "F32", "--out", (folder / "out").string()});
  CHECK_MESSAGE(exported.code == 0, exported.err);
  CHECK(names_in(folder / "out") == std::vector<std::string>{"..-..-esc-[31maped-F32.gguf"});
  const Outcome shown = run({"inspect", (folder / "named.gguf").string()});
  CHECK(contains(shown.out, "\\x1b[31m"));
  CHECK_FALSE(contains(shown.out, "\x1b"));
  check_refused({"export", m.path("run"), "--hf", "--name", "a/b", "--out", (folder / "out").string()}, 2,
                {"--name", "a/b"});
}

TEST_CASE("token ids that are none") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string ids = (folder / "ids.json").string(), out = (folder / "out").string();
  for (const char* wrong : {"[1, 300]", "[-1]", "[1.5]", "[true]", "[]", "{\"a\": 1", "[4294967297]"}) {
    write(ids, wrong);
    check_refused({"logits", m.path("m-F32.gguf"), "--ids-json", ids, "--out", out}, 1, {ids});
  }
  CHECK_FALSE(fs::exists(out));
  write(ids, "[1, 299]");
  const Outcome outcome = run({"logits", m.path("m-F32.gguf"), "--ids-json", ids, "--out", out});
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(fs::file_size(out) == 2 * 300 * sizeof(float));
}

TEST_CASE("threads: as many as the process may use, told by doctor; more than that are noticed") {
  cpu_set_t before, one;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  const Outcome doctor = run({"doctor"});
  const Outcome crowded = run({"plan", "--model", "gladius-tiny", "--no-measure", "--threads", "2"});
  const Outcome fitting = run({"plan", "--model", "gladius-tiny", "--no-measure", "--threads", "1"});
  REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(doctor.out.find("threads    1: of 1 processor that this process may use, on 1 core") !=
        std::string::npos);
  CHECK(crowded.code == 0);
  CHECK(crowded.err.find("2 threads on one core") != std::string::npos);
  CHECK(fitting.err.empty());
}

TEST_CASE("threads that are kept on processors are as many as those that are not") {
  const auto threads_line = [](const std::string& text) {
    const size_t begin = text.find("threads "), end = text.find('\n', begin);
    return begin == text.npos ? std::string() : text.substr(begin, end - begin);
  };
  const std::string free = threads_line(run({"doctor"}).out);
  CHECK(!free.empty());
  REQUIRE(::setenv("OMP_PROC_BIND", "true", 1) == 0);
  const char* const policy = std::getenv("OMP_WAIT_POLICY");
  const std::string before = policy ? policy : "";
  for (const bool chosen : {true, false}) {  // without a choice the program starts itself again
    CAPTURE(chosen);
    REQUIRE((chosen ? ::setenv("OMP_WAIT_POLICY", "passive", 1) : ::unsetenv("OMP_WAIT_POLICY")) == 0);
    const Outcome bound = run({"doctor"});
    CHECK(threads_line(bound.out) == free);
    CHECK(bound.out.find("OMP_PROC_BIND") != std::string::npos);
  }
  if (policy) ::setenv("OMP_WAIT_POLICY", before.c_str(), 1);
  ::unsetenv("OMP_PROC_BIND");
  const Outcome pinned = run({"plan", "--model", "gladius-tiny", "--batch", "1", "--context", "16", "--pin"});
  CHECK(pinned.code == 0);
  CHECK(pinned.err.empty());
}

TEST_CASE("results that cannot be printed are an error") {
  const std::string command = std::string(GLADIUS_BINARY) + " doctor > /dev/full 2> /dev/null";
  const int status = std::system(command.c_str());
  CHECK(WEXITSTATUS(status) == 1);
}

TEST_CASE("a status line that nobody reads stops no training") {
  const Material& m = material();
  const TemporaryFolder folder;
  for (const char* lost : {"2> /dev/full", "2>&-", "2>&1 | head -n 1 > /dev/null"}) {
    CAPTURE(lost);
    const std::string out = (folder / "run").string();
    std::string command = "set -o pipefail; '" GLADIUS_BINARY "'";
    for (const std::string& argument : m.training(out)) command += " '" + argument + "'";
    command += std::string(" ") + lost;
    const int status = std::system(("bash -c \"" + command + "\"").c_str());
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(fs::exists(folder / "run" / "step-00000002.safetensors"));
    fs::remove_all(folder / "run");
  }
}

TEST_CASE("a tokenizer's size can be chosen for a new run") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string out = (folder / "run").string();
  std::vector<std::string> arguments = {
      "train", m.path("text.txt"), "--model", m.path("config.json"), "--out", out,         "--steps",
      "2",     "--batch",          "2",       "--context",           "32",    "--threads", "1"};
  check_refused(with(arguments, {"--vocab", "9000"}), 1, {"9000", "--vocab"});
  const Outcome outcome = run(with(arguments, {"--vocab", "280"}));
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(contains(outcome.err, "280"));
  const Outcome again = run(with(arguments, {"--vocab", "280", "--resume"}));
  CHECK_MESSAGE(again.code == 0, again.err);
}

TEST_CASE("devices are not replaced by files") {
  const Material& m = material();
  check_refused({"quantize", m.path("m-F32.gguf"), "/dev/null", "Q8_0"}, 1, {"/dev/null"});
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("Ctrl-C ends a generation with what there is, exit code 130") {
  const Material& m = material();
  const Outcome outcome = run({"generate", m.path("m-F32.gguf"), "--prompt", "the king", "--tokens",
                               "1000000000", "--context", "100000", "--ignore-end", "--temperature", "0"},
                              once_printed, SIGINT);
  CHECK(outcome.code == 130);
  CHECK(outcome.signal == 0);
  CHECK(contains(outcome.out, "the king"));
}

TEST_CASE("a full context ends the text with a message, and a prompt that does not fit is refused") {
  const Material& m = material();
  const Outcome outcome =
      run({"generate", m.path("m-F32.gguf"), "--prompt", "the king", "--tokens", "1000", "--ignore-end"});
  CHECK(outcome.code == 0);
  CHECK(contains(outcome.err, "the context is full"));
  check_refused({"generate", m.path("m-F32.gguf"), "--prompt", "the king speaks", "--context", "2"}, 1,
                {"context"});
}

}  // namespace
}  // namespace gladius::test
