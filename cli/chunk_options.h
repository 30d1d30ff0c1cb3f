// What the commands share that score a text in chunks.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "eval/chunks.h"
#include "eval/statistics.h"
#include "export/atomic_file.h"
#include "model/tokenizer.h"

namespace gladius::cli {

// --data, --context, --chunks, --json.
struct ChunkOptions {
  std::string data, json;
  int64_t context = 0, chunks = 0;  // 0: chunk_context; all
};
CLI::Option* add_chunk_options(CLI::App& command, ChunkOptions& options);  // returns --data's
// Tokens of a chunk: `wanted`, or where that is 0, 512 or what the model was made for.
int64_t chunk_context(int64_t wanted, const Config& config);
inline constexpr char kUsualContext[] = "512, or the model's context length where that is less";

// The text's tokens, after BOS where the vocabulary adds one. Throws Error naming the file.
std::vector<int32_t> read_tokens(const Tokenizer& tokenizer, const std::string& path);
// What stands in place of a chunk's first token; negative: nothing.
int32_t added_bos(const Vocab& vocab);

// Says on standard error what is about to be scored.
void note_chunks(const Chunks& chunks);

// A file for results that come later, so that a wrong name is noticed before the work.
class JsonOutput {
 public:
  // Empty: nothing is written; "-": standard output. Throws Error where the file cannot be written.
  explicit JsonOutput(const std::string& path);
  bool to_stdout() const { return to_stdout_; }
  void write(const nlohmann::ordered_json& value);

 private:
  bool to_stdout_;
  std::unique_ptr<AtomicFile> file_;
};

nlohmann::ordered_json to_json(const Estimate& estimate);  // {"value": …, "error": …}

}  // namespace gladius::cli
