// Pre-tokenizers: words equal to those of Hugging Face tokenizers, known properties, texts that are no UTF-8.
#include <doctest/doctest.h>

#include "engine/error.h"
#include "model/pretokenizer.h"
#include "tests/tokenizer_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

constexpr const char* names[] = {"gpt-2", "llama-bpe", "smollm", "qwen2"};

std::vector<std::string> words_of(const Pretokenizer& pretokenizer, std::string_view text) {
  std::vector<std::string> words;
  pretokenizer.split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("words are those of Hugging Face tokenizers") {
  const auto vectors = nlohmann::json::parse(read_data("pretokenizers.json"));
  for (const char* name : names) {
    const Pretokenizer pretokenizer(name);
    const auto& lengths = vectors["lengths"][name];
    REQUIRE(lengths.size() == vectors["texts"].size());
    REQUIRE(lengths.size() > 400);
    for (size_t i = 0; i < lengths.size(); ++i) {
      const std::string text = vectors["texts"][i];
      std::vector<size_t> got;
      for (const std::string& word : words_of(pretokenizer, text)) got.push_back(word.size());
      CAPTURE(name);
      CAPTURE(text);
      CHECK(got == lengths[i].get<std::vector<size_t>>());
    }
  }
}

TEST_CASE("examples, one per rule") {
  const Pretokenizer gpt2("gpt-2"), llama("llama-bpe"), smollm("smollm"), qwen("qwen2");
  CHECK(words_of(gpt2, "I'll IT'S 12345!?  x") ==
        Words{"I", "'ll", " IT", "'", "S", " 12345", "!?", " ", " x"});
  CHECK(words_of(llama, "I'll IT'S 12345!?  x") ==
        Words{"I", "'ll", " IT", "'S", " ", "123", "45", "!?", " ", " x"});
  CHECK(words_of(smollm, "I'll IT'S 123!?  x") ==
        Words{"I", "'ll", " IT", "'", "S", " ", "1", "2", "3", "!?", " ", " x"});
  CHECK(words_of(qwen, "I'll 123  4") == Words{"I", "'ll", " ", "1", "2", "3", " ", " ", "4"});
  CHECK(words_of(smollm, "a  1") == Words{"a", "  ", "1"});
  CHECK(words_of(gpt2, "a  1") == Words{"a", " ", " 1"});
  CHECK(words_of(llama, "(x)\n\n  y") == Words{"(x", ")\n\n", " ", " y"});
  CHECK(words_of(gpt2, "(x)\n\n  y") == Words{"(", "x", ")", "\n\n ", " y"});
  // U+180E has not been white space since Unicode 6.3; U+0085 and U+3000 are.
  CHECK(words_of(gpt2, "a\xE1\xA0\x8E!") == Words{"a", "\xE1\xA0\x8E!"});
  CHECK(words_of(gpt2, "a\xC2\x85\xE3\x80\x80!") == Words{"a", "\xC2\x85", "\xE3\x80\x80", "!"});
}

TEST_CASE("words joined are the text, whatever its bytes") {
  RandomTexts random(11);
  for (const char* name : names) {
    const Pretokenizer pretokenizer(name);
    for (int i = 0; i < 2500; ++i) {
      const std::string text = random.text(random.below(40), i % 2 == 0);
      std::string joined;
      for (const std::string& word : words_of(pretokenizer, text)) {
        CHECK_FALSE(word.empty());
        joined += word;
      }
      CHECK(joined == text);
    }
  }
}

TEST_CASE("bytes that are no character split as U+FFFD does") {
  RandomTexts random(12);
  for (const char* name : names) {
    const Pretokenizer pretokenizer(name);
    for (int i = 0; i < 1000; ++i) {
      // The same text, once with a stray byte and once with U+FFFD in its places.
      std::string broken, replaced;
      for (uint64_t parts = 1 + random.below(6); parts > 0; --parts) {
        const std::string text = random.text(random.below(4), false);
        broken += text + "\x80";
        replaced += text + "\xEF\xBF\xBD";
      }
      const Words a = words_of(pretokenizer, broken), b = words_of(pretokenizer, replaced);
      REQUIRE(a.size() == b.size());
      size_t shorter = 0;
      for (size_t w = 0; w < a.size(); ++w) shorter += b[w].size() - a[w].size();
      CHECK(shorter == replaced.size() - broken.size());
      CHECK(a.front().size() <= b.front().size());
    }
  }
}

TEST_CASE("long runs need no deep recursion") {
  for (const char* name : names) {
    const Pretokenizer pretokenizer(name);
    for (const std::string part : {"x", "7", " ", "\n", "!", "\xE4\xBD\xA0", "\x80"}) {
      std::string text;
      for (int i = 0; i < 100000; ++i) text += part;
      size_t bytes = 0;
      pretokenizer.split(text + "a", [&](std::string_view word) { bytes += word.size(); });
      CHECK(bytes == text.size() + 1);
    }
  }
}

TEST_CASE("an unknown name is refused with the known ones") {
  CHECK_THROWS_WITH_AS(Pretokenizer("bert"), doctest::Contains("gpt-2, llama-bpe, smollm, qwen2"), Error);
}
