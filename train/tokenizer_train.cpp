#include "train/tokenizer_train.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <charconv>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "engine/random.h"
#include "model/tokenizer_llama.h"
#include "model/utf8.h"

namespace gladius {
namespace {

constexpr int32_t special_tokens = 3, byte_tokens = 256;
constexpr size_t longest_line = 4096;  // bytes; longer ones are cut, at a space if there is one

// Lines with their line feeds, a sample of all that were added.
class LineSample {
 public:
  LineSample(uint64_t limit, uint64_t seed) : limit_(limit), random_(seed, stream_of("tokenizer sample")) {}

  void add_text(std::string_view text) {
    size_t begin = 0, last_space = 0;
    bool line_ended = false;
    const auto cut = [&](size_t end) {
      add_line(text.substr(begin, end - begin));
      begin = last_space = end;
      line_ended = false;
    };
    for (size_t at = 0; at < text.size();) {
      const size_t length = utf8_valid_length(text.substr(at));
      const std::string_view character = text.substr(at, length);
      if (length == 0 || is_reserved(character)) {
        cut(at);
        at += std::max<size_t>(length, 1);
        begin = last_space = at;
        continue;
      }
      const bool line_end = character == "\n" || character == "\r";
      if (line_ended && !line_end) cut(at);
      line_ended = line_end;
      if (at - begin >= longest_line) cut(last_space > begin ? last_space : at);
      if (character == " ") last_space = at;
      at += length;
    }
    cut(text.size());
  }

  const std::vector<std::string>& lines() const { return lines_; }

 private:
  // Characters that the library keeps for itself.
  static bool is_reserved(std::string_view character) {
    return character == std::string_view("\0", 1) || character == space_mark || character == "\xE2\x96\x85";
  }

  // Each line has a uniform number of its own; those with a number below the threshold are kept, and the
  // threshold is halved whenever they have become too many.
  void add_line(std::string_view line) {
    if (line.empty()) return;
    const double number = random_.uniform(count_++);
    if (number >= threshold_) return;
    lines_.emplace_back(line);
    numbers_.push_back(number);
    bytes_ += line.size();
    while (bytes_ > limit_ && lines_.size() > 1) {
      threshold_ /= 2;
      size_t kept = 0;
      bytes_ = 0;
      for (size_t i = 0; i < lines_.size(); ++i) {
        if (numbers_[i] >= threshold_) continue;
        bytes_ += lines_[i].size();
        numbers_[kept] = numbers_[i];
        if (kept != i) lines_[kept] = std::move(lines_[i]);
        ++kept;
      }
      lines_.resize(kept);
      numbers_.resize(kept);
    }
  }

  uint64_t limit_, bytes_ = 0, count_ = 0;
  double threshold_ = 1;
  Random random_;
  std::vector<std::string> lines_;
  std::vector<double> numbers_;
};

class LineIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t at_ = 0;
};

void validate(const TokenizerTrainOptions& options) {
  if (options.vocab_size <= special_tokens + byte_tokens) {
    fail(
        "tokenizer training: a vocabulary of {} tokens is too small: {} special and {} byte tokens are "
        "always part of it",
        options.vocab_size, special_tokens, byte_tokens);
  }
  if (!(options.character_coverage >= 0.98 && options.character_coverage <= 1)) {
    fail("tokenizer training: character coverage is {}; it must be between 0.98 and 1",
         options.character_coverage);
  }
  if (options.sample_bytes == 0) fail("tokenizer training: a sample of 0 bytes has no text");
}

// The trained model as the library's protocol buffer.
std::string train(const std::vector<std::string>& lines, const TokenizerTrainOptions& options) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"hard_vocab_limit", "false"},  // so that a size out of reach is known afterwards
      {"character_coverage", fmt::format("{}", options.character_coverage)},
      {"byte_fallback", "true"},
      {"split_digits", flag(options.split_digits)},
      {"allow_whitespace_only_pieces", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", flag(options.add_space_prefix)},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"max_sentence_length", std::to_string(4 * longest_line)},
      {"num_threads", "1"},
      {"minloglevel", "4"},  // nothing
  };
  LineIterator iterator(lines);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &iterator, &model);
  if (status.ok()) return model;

  // "... smaller than required_chars. 300 vs 312. ..."
  const std::string_view message = status.message();
  const size_t versus = message.find(" vs ");
  int32_t needed = 0;
  if (message.find("required_chars") != message.npos && versus != message.npos) {
    std::from_chars(message.data() + versus + 4, message.data() + message.size(), needed);
  }
  if (needed > 0) {
    fail(
        "tokenizer training: a vocabulary of {} tokens is too small for the characters of the text: it takes "
        "at least {}",
        options.vocab_size, needed);
  }
  fail("tokenizer training: {}", message);
}

Vocab read_model(const std::string& model, const TokenizerTrainOptions& options) {
  sentencepiece::SentencePieceProcessor processor;
  const auto status = processor.LoadFromSerializedProto(model);
  if (!status.ok()) fail("tokenizer training: {}", status.message());
  Vocab vocab;
  vocab.kind = TokenizerKind::llama;
  vocab.pre = "default";
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    const TokenType type = processor.IsUnknown(id)   ? TokenType::unknown
                           : processor.IsControl(id) ? TokenType::control
                           : processor.IsByte(id)    ? TokenType::byte
                                                     : TokenType::normal;
    vocab.tokens.push_back({processor.IdToPiece(id), processor.GetScore(id), type});
  }
  vocab.unknown = 0;
  vocab.bos = 1;
  vocab.eos = 2;
  vocab.end_of_generation = {2};
  vocab.add_space_prefix = options.add_space_prefix;
  return vocab;
}

using Texts = std::unordered_set<std::string_view>;

// Whether merges can make text of two parts, each a character or made in the same way.
bool can_be_merged(std::string_view text, const Texts& tokens) {
  const auto can_appear = [&](std::string_view part) {
    return part.size() == utf8_length(part[0]) || (tokens.contains(part) && can_be_merged(part, tokens));
  };
  for (size_t cut = utf8_length(text[0]); cut < text.size(); cut += utf8_length(text[cut])) {
    if (can_appear(text.substr(0, cut)) && can_appear(text.substr(cut))) return true;
  }
  return false;
}

// Merging goes by texts and not by types: "<s" and ">" would become the token <s>. Pieces of one script
// cannot do this. And a piece's characters are tokens, or programs that look characters up first would spell
// them in bytes.
void check_pieces(const Vocab& vocab) {
  Texts texts;
  for (const Token& token : vocab.tokens) texts.insert(token.text);
  for (const Token& token : vocab.tokens) {
    if (token.type != TokenType::normal && can_be_merged(token.text, texts)) {
      fail("tokenizer training: the text would be read as the token '{}' by merging", token.text);
    }
    if (token.type != TokenType::normal) continue;
    const std::string_view text = token.text;
    for (size_t at = 0; at < text.size(); at += utf8_length(text[at])) {
      if (!texts.contains(text.substr(at, utf8_length(text[at])))) {
        fail("tokenizer training: a character of the token '{}' is no token", text);
      }
    }
  }
}

}  // namespace

TextSource texts_of(const Corpus& corpus) {
  return [&corpus](const std::function<void(std::string_view)>& visit) {
    std::string decoded;
    corpus.for_each([&](const Document& document, uint64_t) {
      visit(document_text(document, decoded));
      return true;
    });
  };
}

Vocab train_tokenizer(const TextSource& texts, const TokenizerTrainOptions& options) {
  validate(options);
  LineSample sample(options.sample_bytes, options.seed);
  texts([&](std::string_view text) { sample.add_text(text); });
  if (sample.lines().empty()) fail("tokenizer training: there is no text to train on");
  Vocab vocab = read_model(train(sample.lines(), options), options);
  if (vocab.size() < options.vocab_size) {
    fail("tokenizer training: a vocabulary of {} tokens is too large for the text: at most {} are possible",
         options.vocab_size, vocab.size());
  }
  check_pieces(vocab);
  validate(vocab, "tokenizer training");
  return vocab;
}

}  // namespace gladius
