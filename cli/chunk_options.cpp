#include "cli/chunk_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/arguments.h"
#include "cli/terminal.h"
#include "engine/error.h"

namespace gladius::cli {

CLI::Option* add_chunk_options(CLI::App& command, ChunkOptions& options) {
  CLI::Option* data = command.add_option("--data", options.data, "Text file; - for standard input");
  command.add_option("--context", options.context, "Tokens in a chunk; its second half is scored")
      ->check(whole(4, kMostContext))
      ->default_str(kUsualContext);
  command.add_option("--chunks", options.chunks, "Chunks to score, from the text's beginning; 0: all")
      ->check(whole(0, int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--json", options.json,
                     "File for the results as JSON; - for standard output instead of text");
  return data;
}

int64_t chunk_context(int64_t wanted, const Config& config) {
  return wanted > 0 ? wanted : std::min<int64_t>(512, config.context);
}

std::vector<int32_t> read_tokens(const Tokenizer& tokenizer, const std::string& path) {
  if (path.ends_with(".jsonl")) fail("{} is no plain text; give a text file", path);
  std::vector<int32_t> tokens = tokenizer.encode(read_text(path), false);
  if (tokens.empty()) fail("{} holds no text", path);
  if (const int32_t bos = added_bos(tokenizer.vocab()); bos >= 0) tokens.insert(tokens.begin(), bos);
  return tokens;
}

int32_t added_bos(const Vocab& vocab) { return vocab.add_bos ? vocab.bos.value_or(-1) : -1; }

void note_chunks(const Chunks& chunks) {
  note("scoring {} chunk{} of {} tokens\n", grouped(chunks.count), chunks.count == 1 ? "" : "s",
       chunks.context);
}

JsonOutput::JsonOutput(const std::string& path) : to_stdout_(path == "-") {
  if (!path.empty() && !to_stdout_) file_ = std::make_unique<AtomicFile>(path);
}

void JsonOutput::write(const nlohmann::ordered_json& value) {
  // Texts may hold any bytes; those that are no UTF-8 are replaced.
  const std::string text = value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (to_stdout_) fmt::print("{}", text);
  if (!file_) return;
  file_->write(text);
  file_->commit();
}

nlohmann::ordered_json to_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"error", estimate.error}};
}

}  // namespace gladius::cli
