// Vocabularies of tests/data/tokenizers and random texts.
#pragma once

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "model/utf8.h"

namespace gladius::test {

inline std::string read_data(const std::string& name) {
  std::ifstream file(std::string(GLADIUS_TEST_DATA "/tokenizers/") + name, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), name);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct VocabularyFile {
  Vocab vocab;
  nlohmann::json cases;  // [{"text", "ids"}]
};

// Pairs of 16-bit ids, little-endian.
inline std::vector<std::pair<size_t, size_t>> read_merges(const std::string& name) {
  const std::string bytes = read_data(name);
  const auto id = [&](size_t at) {
    return static_cast<size_t>(static_cast<unsigned char>(bytes[at])) |
           static_cast<size_t>(static_cast<unsigned char>(bytes[at + 1])) << 8;
  };
  std::vector<std::pair<size_t, size_t>> merges;
  for (size_t at = 0; at + 4 <= bytes.size(); at += 4) merges.emplace_back(id(at), id(at + 2));
  return merges;
}

inline std::vector<std::string> characters_of(const std::string& text) {
  std::vector<std::string> characters;
  for (size_t at = 0; at < text.size(); at += utf8_length(text[at]))
    characters.push_back(text.substr(at, utf8_length(text[at])));
  return characters;
}

// Text of token `id` from the texts that are known and the merges of the tokens from `first` on.
inline const std::string& merged_text(std::vector<Token>& tokens,
                                      const std::vector<std::pair<size_t, size_t>>& merges, size_t first,
                                      size_t id) {
  std::string& text = tokens[id].text;
  if (text.empty()) {
    const auto [left, right] = merges[id - first];
    text = merged_text(tokens, merges, first, left) + merged_text(tokens, merges, first, right);
  }
  return text;
}

inline VocabularyFile llama_vocabulary() {
  const auto file = nlohmann::json::parse(read_data("llama.json"));
  const auto merges = read_merges("llama.merges");
  const auto characters = characters_of(file["characters"]);
  Vocab vocab;
  vocab.pre = "default";
  vocab.tokens = {
      {"<unk>", 0, TokenType::unknown}, {"<s>", 0, TokenType::control}, {"</s>", 0, TokenType::control}};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    vocab.tokens.push_back({text, 0, TokenType::byte});
  }
  const size_t first = vocab.tokens.size();
  vocab.tokens.resize(first + merges.size());
  for (const std::string& character : characters) vocab.tokens.push_back({character, 0, TokenType::normal});
  for (size_t id = first; id < vocab.tokens.size(); ++id) {
    const std::string& text = merged_text(vocab.tokens, merges, first, id);
    bool spaces = text.size() % 3 == 0;
    for (size_t at = 0; spaces && at < text.size(); at += 3)
      spaces = text.compare(at, 3, "\xE2\x96\x81") == 0;
    vocab.tokens[id].score = spaces ? -1e9f : -static_cast<float>(id - first);
  }
  vocab.unknown = 0, vocab.bos = 1, vocab.eos = 2;
  vocab.end_of_generation = {2};
  return {vocab, file["cases"]};
}

inline VocabularyFile gpt2_vocabulary() {
  const auto file = nlohmann::json::parse(read_data("gpt2.json"));
  const auto merges = read_merges("gpt2.merges");
  Vocab vocab;
  vocab.kind = TokenizerKind::gpt2;
  vocab.pre = "gpt-2";
  for (const std::string& character : characters_of(file["characters"])) {
    vocab.tokens.push_back({character, 0, TokenType::normal});
  }
  for (const auto& [left, right] : merges) {
    const std::string left_text = vocab.tokens[left].text, right_text = vocab.tokens[right].text;
    vocab.merges.push_back(left_text + " " + right_text);
    vocab.tokens.push_back({left_text + right_text, 0, TokenType::normal});
  }
  vocab.tokens.push_back({"<|endoftext|>", 0, TokenType::control});
  vocab.bos = vocab.eos = vocab.size() - 1;
  vocab.end_of_generation = {*vocab.eos};
  vocab.add_bos = false;
  return {vocab, file["cases"]};
}

// Texts of mixed scripts, emoji, control characters, runs of spaces and, if wanted, bytes that are no UTF-8.
class RandomTexts {
 public:
  explicit RandomTexts(uint64_t seed) : engine_(seed) {}

  uint64_t below(uint64_t bound) { return engine_() % bound; }

  std::string text(size_t parts, bool any_bytes) {
    std::string out;
    for (size_t i = 0; i < parts; ++i) {
      const uint64_t kind = below(any_bytes ? 12 : 9);
      if (kind < 2) {
        out += words_[below(std::size(words_))];
      } else if (kind == 2) {
        out.append(1 + below(20), ' ');
      } else if (kind < 9) {
        append_utf8(character(), out);
      } else if (kind < 11) {
        out += static_cast<char>(below(256));
      } else {
        out += broken_[below(std::size(broken_))];
      }
    }
    return out;
  }

 private:
  uint32_t character() {
    const auto& [first, last] = ranges_[below(std::size(ranges_))];
    const uint32_t code = first + static_cast<uint32_t>(below(last - first + 1));
    return code >= 0xD800 && code < 0xE000 ? 0x61 : code;
  }

  static constexpr std::pair<uint32_t, uint32_t> ranges_[] = {
      {0x61, 0x7A},       {0x61, 0x7A},       {0x41, 0x5A},     {0x30, 0x39},     {0x00, 0x20},
      {0x20, 0x7F},       {0xA0, 0x24F},      {0x300, 0x36F},   {0x391, 0x44F},   {0x5D0, 0x669},
      {0x900, 0xE5B},     {0x2000, 0x2BFF},   {0x3000, 0x30FF}, {0x4E00, 0x9FFF}, {0xAC00, 0xD7A3},
      {0x1F300, 0x1FAFF}, {0x0000, 0x10FFFF}, {0x2580, 0x2582}};
  static constexpr std::string_view words_[] = {"the ",
                                                " and",
                                                "ing",
                                                "'s",
                                                "'RE",
                                                "\n\n",
                                                "\r\n",
                                                "\t\t",
                                                "123",
                                                " 42",
                                                "</s>",
                                                "<s>",
                                                "<0x0A>",
                                                "nanana",
                                                "aaaaa",
                                                "\xE2\x96\x81",
                                                "\xC3\xA9",
                                                "e\xCC\x81",
                                                "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9",
                                                "\xE4\xBD\xA0\xE5\xA5\xBD"};
  // Lead bytes without their rest, overlong forms, a surrogate, a character above U+10FFFF; the first two
  // before a space.
  static constexpr std::string_view broken_[] = {"\xE2 ",    "\xF0 x",       "\xE2\x96",         "\xC3",
                                                 "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x81",
                                                 "\x96\x81", "\xFF\xFE"};
  std::mt19937_64 engine_;
};

inline std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

}  // namespace gladius::test
