// Tokenizer training: the vocabulary's form, exact round trips, compact text, determinism, sampling, clear
// errors.
#include <doctest/doctest.h>

#include <set>

#include "engine/error.h"
#include "tests/tokenizer_support.h"
#include "train/tokenizer_train.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// English-like lines with names, digits, indents and blank lines, always the same.
std::string sample_text(size_t lines) {
  static constexpr const char* words[] = {
      "the",  "and",   "speak", "before", "we",      "proceed", "any",  "further", "hear",
      "me",   "you",   "are",   "all",    "rather",  "to",      "die",  "than",    "famish",
      "king", "queen", "lord",  "first",  "citizen", "good",    "we'll"};
  RandomTexts random(21);
  std::string text;
  for (size_t i = 0; i < lines; ++i) {
    if (i % 5 == 0) text += "SPEAKER:\n";
    if (i % 7 == 0) text += "    ";
    for (uint64_t n = 3 + random.below(8); n > 0; --n)
      text += std::string(words[random.below(std::size(words))]) + (n > 1 ? " " : "");
    text += i % 5 == 4 ? ".\n\n" : ",\n";
    if (i % 11 == 0)
      text += "In " + std::to_string(1500 + random.below(100)) + " caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD\n";
  }
  return text;
}

TextSource source_of(std::vector<std::string> texts) {
  return [texts = std::move(texts)](const std::function<void(std::string_view)>& visit) {
    for (const std::string& text : texts) visit(text);
  };
}

TokenizerTrainOptions options_for(int32_t vocab_size) {
  TokenizerTrainOptions options;
  options.vocab_size = vocab_size;
  options.character_coverage = 1;
  return options;
}

std::string refusal(const TextSource& source, const TokenizerTrainOptions& options) {
  try {
    train_tokenizer(source, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool same(const Vocab& a, const Vocab& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    if (a.tokens[i].text != b.tokens[i].text || a.tokens[i].score != b.tokens[i].score ||
        a.tokens[i].type != b.tokens[i].type) {
      return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("ids, types and scores have the documented form") {
  const Vocab vocab = train_tokenizer(source_of({sample_text(2000)}), options_for(520));
  REQUIRE(vocab.size() == 520);
  CHECK(vocab.kind == TokenizerKind::llama);
  CHECK(vocab.tokens[0].text == "<unk>");
  CHECK(vocab.tokens[0].type == TokenType::unknown);
  CHECK(vocab.tokens[1].text == "<s>");
  CHECK(vocab.tokens[1].type == TokenType::control);
  CHECK(vocab.tokens[2].text == "</s>");
  CHECK(vocab.tokens[2].type == TokenType::control);
  CHECK(vocab.bos == 1);
  CHECK(vocab.eos == 2);
  CHECK(vocab.unknown == 0);
  CHECK(vocab.end_of_generation == std::vector<int32_t>{2});
  CHECK_FALSE(vocab.add_space_prefix);
  std::set<std::string> texts;
  for (int32_t id = 3; id < 259; ++id) {
    const Token& token = vocab.tokens[static_cast<size_t>(id)];
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", id - 3);
    CHECK(token.text == text);
    CHECK(token.type == TokenType::byte);
  }
  for (size_t id = 259; id < 520; ++id) {
    CHECK(vocab.tokens[id].type == TokenType::normal);
    CHECK(vocab.tokens[id].score == -static_cast<float>(id - 259));  // falling, each its own
    texts.insert(vocab.tokens[id].text);
  }
  for (const std::string& text : texts) {
    for (const std::string& character : characters_of(text)) CHECK(texts.contains(character));
    const bool digit = text.find_first_of("0123456789") != std::string::npos;
    CHECK((!digit || text.size() == 1));
    // Spaces only at the start, or alone.
    const std::string rest = replace_all(text, "\xE2\x96\x81", "");
    CHECK((rest.empty() || text.find("\xE2\x96\x81", 1) == std::string::npos));
  }
  // Line feeds do not cost bytes.
  const auto tokenizer = make_tokenizer(vocab, "test");
  for (const char* text : {"\n", ",\n", ".\n\n", ":\n"}) CHECK(tokenizer->encode(text, false).size() == 1);
  CHECK(tokenizer->encode("    the", false).size() == 2);
}

TEST_CASE("random byte strings come back, with and without the space prefix") {
  RandomTexts random(22);
  for (const bool prefix : {false, true}) {
    TokenizerTrainOptions options = options_for(500);
    options.add_space_prefix = prefix;
    const auto tokenizer = make_tokenizer(train_tokenizer(source_of({sample_text(2000)}), options), "test");
    CHECK(tokenizer->vocab().add_space_prefix == prefix);
    for (int i = 0; i < 5000; ++i) {
      const std::string text = random.text(random.below(40), i % 2 == 0);
      CHECK(tokenizer->decode(tokenizer->encode(text, true)) == replace_all(text, "\xE2\x96\x81", " "));
    }
  }
}

TEST_CASE("no text is read as a control or byte token") {
  // A text full of them, so that merging would pay.
  std::string text = sample_text(500);
  for (int i = 0; i < 3000; ++i) text += " <s>x</s> <unk> <0x0A><0xFF> <x> s> </x a<0 0A>\n";
  const Vocab vocab = train_tokenizer(source_of({text}), options_for(500));
  const auto tokenizer = make_tokenizer(vocab, "test");
  for (size_t id = 0; id < 259; ++id) {
    for (const char* before : {"", " ", "<", "x", "\n"}) {
      const std::string around = before + vocab.tokens[id].text + before;
      CHECK(tokenizer->decode(tokenizer->encode(around, false)) == around);
    }
  }
}

TEST_CASE("the same text gives the same tokenizer, however it is divided at blank lines") {
  const std::string text = sample_text(1500);
  const size_t cut = text.find(".\n\n", text.size() / 2) + 3;
  const Vocab whole = train_tokenizer(source_of({text}), options_for(500));
  CHECK(same(whole, train_tokenizer(source_of({text}), options_for(500))));
  CHECK(same(whole, train_tokenizer(source_of({text.substr(0, cut), text.substr(cut)}), options_for(500))));
}

TEST_CASE("a large text is sampled") {
  TokenizerTrainOptions options = options_for(450);
  options.sample_bytes = 20000;
  const std::string text = sample_text(20000);  // fifty times as much
  const Vocab sampled = train_tokenizer(source_of({text}), options);
  CHECK(same(sampled, train_tokenizer(source_of({text}), options)));
  options.seed = 1;
  CHECK_FALSE(same(sampled, train_tokenizer(source_of({text}), options)));
  // Lines from everywhere: words that only its end has are tokens too.
  std::string ending;
  for (int i = 0; i < 20000; ++i) ending += "zygomorphic\n";
  const Vocab vocab = train_tokenizer(source_of({text, ending}), options);
  CHECK(make_tokenizer(vocab, "test")->encode(" zygomorphic", false).size() <= 3);
}

TEST_CASE("bytes that are no UTF-8, reserved characters and long lines do no harm") {
  using namespace std::string_literals;
  std::string text = sample_text(500);
  text +=
      "broken \xFF\xC3 nul \0 end "s + "\xE2\x96\x81 \xE2\x96\x85 tab\tx\n" + std::string(50000, 'q') + "\n";
  for (int i = 0; i < 3000; ++i) text += "longword" + std::to_string(i) + " ";
  const Vocab vocab = train_tokenizer(source_of({text}), options_for(500));
  const auto tokenizer = make_tokenizer(vocab, "test");
  CHECK(tokenizer->decode(tokenizer->encode(text, false)) == replace_all(text, "\xE2\x96\x81", " "));
  CHECK(tokenizer->encode("\t", false).size() == 1);
}

TEST_CASE("sizes that the text does not allow are refused with those that it does") {
  const TextSource source = source_of({"to be, or not to be\n"});
  const std::string large = refusal(source, options_for(5000));
  CHECK(large.find("5000") != std::string::npos);
  const size_t at = large.find("at most ");
  REQUIRE_MESSAGE(at != std::string::npos, large);
  const int32_t largest = std::stoi(large.substr(at + 8));
  CHECK(train_tokenizer(source, options_for(largest)).size() == largest);
  CHECK(refusal(source, options_for(largest + 1)).find("at most " + std::to_string(largest)) !=
        std::string::npos);

  const std::string small = refusal(source, options_for(261));
  const size_t least_at = small.find("at least ");
  REQUIRE_MESSAGE(least_at != std::string::npos, small);
  const int32_t least = std::stoi(small.substr(least_at + 9));
  CHECK(train_tokenizer(source, options_for(least)).size() == least);
  CHECK(refusal(source, options_for(least - 1)).find("at least") != std::string::npos);

  CHECK(refusal(source, options_for(259)).find("too small") != std::string::npos);
  CHECK(refusal(source, options_for(-1)).find("too small") != std::string::npos);
}

TEST_CASE("there must be text") {
  for (const std::vector<std::string>& texts :
       {std::vector<std::string>{}, {""}, {"", std::string(3, '\0')}, {"\xFF\xFE"}}) {
    CHECK(refusal(source_of(texts), options_for(300)).find("no text") != std::string::npos);
  }
  TokenizerTrainOptions options = options_for(300);
  options.character_coverage = 0.5;
  CHECK(refusal(source_of({"abc"}), options).find("coverage") != std::string::npos);
}
