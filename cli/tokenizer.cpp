#include "model/tokenizer.h"

#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "export/vocab_gguf.h"
#include "train/tokenizer_train.h"

namespace gladius::cli {
namespace {

// ---- train ----

struct TrainCommand {
  std::vector<std::filesystem::path> inputs;
  std::string out;
  TokenizerTrainOptions options;
};

void run_train(const TrainCommand& o) {
  const Corpus corpus = Corpus::open(o.inputs);
  note("training a tokenizer of {} pieces on {} of text\n", grouped(o.options.vocab_size),
       human_bytes(corpus.bytes()));
  const Vocab vocab = train_tokenizer(texts_of(corpus), o.options);
  save_vocab(o.out, vocab);
  fmt::print("{}: {} tokens\n", o.out, grouped(vocab.size()));
}

void add_train_command(CLI::App& tokenizer) {
  auto o = std::make_shared<TrainCommand>();
  CLI::App* command =
      tokenizer.add_subcommand("train", "Makes a tokenizer from text (SentencePiece BPE with byte fallback)");
  command->add_option("input", o->inputs, ".txt and .jsonl files, or folders of them")->required();
  command->add_option("--vocab", o->options.vocab_size, "Number of tokens")->capture_default_str();
  command->add_option("--out", o->out, "GGUF file to write")->required();
  command
      ->add_option("--coverage", o->options.character_coverage,
                   "Share of the characters that get tokens of their own")
      ->check(number(0.98, 1, "between 0.98 and 1"))
      ->capture_default_str();
  command->add_option("--seed", o->options.seed, "Of the sample that is taken from a large text")
      ->check(whole(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command->footer("Example:\n  gladius tokenizer train corpus.txt --vocab 32000 --out tokenizer.gguf");
  command->callback([o] { run_train(*o); });
}

// ---- encode and decode ----

struct CodecCommand {
  std::string model, file;
  std::optional<std::string> text;
  std::vector<int32_t> ids;
  bool json = false, special = false, parse_special = false;
};

// Each line of standard input is a JSON string; each line of output the JSON array of its ids.
void encode_json_lines(const Tokenizer& tokenizer, const CodecCommand& o) {
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    try {
      const auto text = nlohmann::json::parse(line).get<std::string>();
      fmt::print("{}\n", nlohmann::json(tokenizer.encode(text, o.special, o.parse_special)).dump());
    } catch (const nlohmann::json::exception& error) {
      fail("standard input, line {}: not a JSON string: {}", number, error.what());
    }
  }
}

void run_encode(const CodecCommand& o) {
  if ((o.text.has_value() ? 1 : 0) + (o.file.empty() ? 0 : 1) + (o.json ? 1 : 0) != 1)
    wrong_argument("text", "give one text: as an argument, with --file, or as --ids-json lines");
  const auto tokenizer = make_tokenizer(load_vocab(o.model), o.model);
  if (o.json) return encode_json_lines(*tokenizer, o);
  const std::string text = o.text ? *o.text : read_text(o.file);
  std::string line;
  for (const int32_t id : tokenizer->encode(text, o.special, o.parse_special)) {
    line += (line.empty() ? "" : " ") + std::to_string(id);
  }
  fmt::print("{}\n", line);
}

void run_decode(const CodecCommand& o) {
  const auto tokenizer = make_tokenizer(load_vocab(o.model), o.model);
  for (const int32_t id : o.ids) {
    if (id < 0 || id >= tokenizer->vocab().size()) {
      fail("token {} is not in the vocabulary of {}, 0 to {}", id, o.model, tokenizer->vocab().size() - 1);
    }
  }
  const std::string text = tokenizer->decode(o.ids, o.special);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

void add_encode_command(CLI::App& tokenizer) {
  auto o = std::make_shared<CodecCommand>();
  CLI::App* command = tokenizer.add_subcommand("encode", "Text to token ids");
  command
      ->add_option("model", o->model,
                   "Tokenizer or model: GGUF, Hugging Face folder, tokenizer.model, checkpoint")
      ->required();
  command->add_option("text", o->text, "Text to encode");
  command->add_option("--file", o->file, "File to encode; - for standard input");
  command->add_flag("--ids-json", o->json,
                    "Read a JSON string per line of standard input, print a JSON array per line");
  command->add_flag("--special", o->special, "Add BOS and EOS where the tokenizer does");
  command->add_flag("--parse-special", o->parse_special, "Texts of control tokens become those tokens");
  command->footer("Example:\n  gladius tokenizer encode model.gguf \"To be, or not to be\"");
  command->callback([o] { run_encode(*o); });
}

void add_decode_command(CLI::App& tokenizer) {
  auto o = std::make_shared<CodecCommand>();
  CLI::App* command = tokenizer.add_subcommand("decode", "Token ids to text");
  command->add_option("model", o->model, "Tokenizer or model, as for encode")->required();
  command->add_option("ids", o->ids, "Token ids")->required();
  command->add_flag("--special", o->special, "Show control tokens, too");
  command->footer("Example:\n  gladius tokenizer decode model.gguf 306 626 29889");
  command->callback([o] { run_decode(*o); });
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "Trains a tokenizer; encodes and decodes text");
  tokenizer->require_subcommand(1);
  tokenizer->footer("Example:\n  gladius tokenizer train corpus.txt --vocab 32000 --out tokenizer.gguf");
  add_train_command(*tokenizer);
  add_encode_command(*tokenizer);
  add_decode_command(*tokenizer);
}

}  // namespace gladius::cli
