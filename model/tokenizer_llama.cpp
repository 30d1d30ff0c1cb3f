#include "model/tokenizer_llama.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <unordered_map>

#include "engine/error.h"
#include "model/tokenizer_bpe.h"
#include "model/utf8.h"

namespace gladius {
namespace {

// The bytes of one character (at most 4) as a number. Different characters have different numbers, since the
// first byte tells the length.
uint32_t character_key(std::string_view character) {
  uint32_t key = 0;
  for (size_t i = 0; i < character.size(); ++i) {
    key |= uint32_t{static_cast<unsigned char>(character[i])} << (8 * i);
  }
  return key;
}

// The next character of text: as many bytes as its first byte announces, or what is left.
std::string_view character_at(std::string_view text, size_t at) {
  return text.substr(at, utf8_length(text[at]));
}

// The characters that words are cut between: ASCII and U+2581. All others are one kind, between which nothing
// is cut.
constexpr size_t kinds = 130;
size_t kind_of(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  return first < 128 ? first : character == space_mark ? 128 : 129;
}

std::string escape_spaces(std::string_view text, bool space_prefix) {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 2 + space_mark.size());
  if (space_prefix) escaped += space_mark;
  for (size_t at = 0; at < text.size();) {
    const size_t space = std::min(text.find(' ', at), text.size());
    escaped.append(text, at, space - at);
    if (space < text.size()) escaped += space_mark;
    at = space + 1;
  }
  return escaped;
}

class LlamaTokenizer final : public Tokenizer {
 public:
  explicit LlamaTokenizer(Vocab vocabulary);

 private:
  void encode_fragment(std::string_view text, bool first, std::vector<int32_t>& ids) const override;
  void encode_word(std::string_view word, std::vector<Symbol>& symbols, BpeMerger::Workspace& workspace,
                   std::vector<int32_t>& ids) const;
  size_t word_end(std::string_view text, size_t begin) const;
  Symbol symbol_of(std::string_view character) const;
  void add_merges();
  void append_bytes(std::string_view bytes, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_tokens_{};
  std::array<Symbol, 256> short_characters_;         // of one byte
  std::unordered_map<uint32_t, Symbol> characters_;  // of several bytes
  std::vector<std::string_view> tokenless_;          // characters with symbols from vocab().size() on
  // [left * kinds + right]: characters of these kinds are neighbours in some token's text.
  std::bitset<kinds * kinds> joined_;
  BpeMerger merger_;
};

// Every way to cut a token's text in two is a possible merge.
size_t count_cuts(const Vocab& vocab) {
  size_t cuts = 0;
  for (const Token& token : vocab.tokens) {
    for (size_t at = 0; at < token.text.size(); at += utf8_length(token.text[at])) ++cuts;
  }
  return cuts;
}

LlamaTokenizer::LlamaTokenizer(Vocab vocabulary)
    : Tokenizer(std::move(vocabulary)), merger_(count_cuts(vocab())) {
  short_characters_.fill(no_symbol);
  const auto add_character = [&](std::string_view character, Symbol symbol) {
    if (character.size() == 1) {
      short_characters_[static_cast<unsigned char>(character[0])] = symbol;
    } else {
      characters_.emplace(character_key(character), symbol);
    }
  };
  for (int32_t id = 0; id < vocab().size(); ++id) {
    const Token& token = vocab().tokens[static_cast<size_t>(id)];
    if (token.text.size() == utf8_length(token.text[0])) add_character(token.text, id);
    if (token.type == TokenType::byte) {
      const int byte = std::stoi(token.text.substr(3, 2), nullptr, 16);
      byte_tokens_[static_cast<size_t>(byte)] = id;
    }
  }
  for (const Token& token : vocab().tokens) {
    const std::string_view text = token.text;
    size_t previous = 0;
    for (size_t at = 0; at < text.size(); at += utf8_length(text[at])) {
      const std::string_view character = character_at(text, at);
      if (symbol_of(character) == no_symbol) {
        add_character(character, vocab().size() + static_cast<int32_t>(tokenless_.size()));
        tokenless_.push_back(character);
      }
      if (at > 0) joined_.set(previous * kinds + kind_of(character));
      previous = kind_of(character);
    }
  }
  for (size_t kind = 0; kind < kinds; ++kind)
    joined_.set(129 * kinds + kind), joined_.set(kind * kinds + 129);
  add_merges();
}

// llama.cpp merges two neighbours when their joined text is a token, the highest score first. So each token's
// text, cut in two symbols in every possible way, gives the pairs; equal scores share a rank.
void LlamaTokenizer::add_merges() {
  const auto& tokens = vocab().tokens;
  std::vector<int32_t> by_score(tokens.size());
  for (size_t i = 0; i < by_score.size(); ++i) by_score[i] = static_cast<int32_t>(i);
  const auto score = [&](int32_t id) { return tokens[static_cast<size_t>(id)].score; };
  std::sort(by_score.begin(), by_score.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });

  std::unordered_map<std::string_view, Symbol> symbols;
  symbols.reserve(tokens.size() + tokenless_.size());
  for (size_t id = 0; id < tokens.size(); ++id) symbols.emplace(tokens[id].text, static_cast<Symbol>(id));
  for (size_t i = 0; i < tokenless_.size(); ++i) {
    symbols.emplace(tokenless_[i], vocab().size() + static_cast<Symbol>(i));
  }

  uint32_t rank = 0;
  for (size_t i = 0; i < by_score.size(); ++i) {
    const int32_t id = by_score[i];
    if (i > 0 && score(id) < score(by_score[i - 1])) ++rank;
    const std::string_view text = tokens[static_cast<size_t>(id)].text;
    for (size_t cut = utf8_length(text[0]); cut < text.size(); cut += utf8_length(text[cut])) {
      const auto left = symbols.find(text.substr(0, cut)), right = symbols.find(text.substr(cut));
      if (left != symbols.end() && right != symbols.end()) merger_.add(left->second, right->second, rank, id);
    }
  }
}

Symbol LlamaTokenizer::symbol_of(std::string_view character) const {
  if (character.size() == 1) return short_characters_[static_cast<unsigned char>(character[0])];
  const auto entry = characters_.find(character_key(character));
  return entry == characters_.end() ? no_symbol : entry->second;
}

void LlamaTokenizer::append_bytes(std::string_view bytes, std::vector<int32_t>& ids) const {
  for (const char byte : bytes) ids.push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
}

// A merge across a border makes a token with the border's two characters side by side. Where no token has
// them, both sides can be merged on their own: these are the words. The result is exactly that of merging the
// whole text.
size_t LlamaTokenizer::word_end(std::string_view text, size_t begin) const {
  size_t previous = kind_of(character_at(text, begin));
  size_t at = begin + utf8_length(text[begin]);
  while (at < text.size()) {
    const size_t kind = kind_of(character_at(text, at));
    if (!joined_[previous * kinds + kind]) break;
    previous = kind;
    at += utf8_length(text[at]);
  }
  return std::min(at, text.size());
}

void LlamaTokenizer::encode_word(std::string_view word, std::vector<Symbol>& symbols,
                                 BpeMerger::Workspace& workspace, std::vector<int32_t>& ids) const {
  symbols.clear();
  for (size_t at = 0; at < word.size(); at += utf8_length(word[at])) {
    symbols.push_back(symbol_of(character_at(word, at)));
  }
  const size_t characters = symbols.size();
  if (characters >= UINT32_MAX) fail("tokenizer: a word of {} characters is too long", characters);
  merger_.merge(symbols, workspace);

  size_t at = 0;  // follows the text to find the bytes of characters without symbol
  for (const Symbol symbol : symbols) {
    if (symbol >= 0 && symbol < vocab().size()) {
      ids.push_back(symbol);
      at += vocab().tokens[static_cast<size_t>(symbol)].text.size();
    } else {
      const std::string_view character = character_at(word, at);
      append_bytes(character, ids);
      at += character.size();
    }
  }
}

void LlamaTokenizer::encode_fragment(std::string_view text, bool first, std::vector<int32_t>& ids) const {
  const std::string escaped = escape_spaces(text, first && vocab().add_space_prefix);
  WordCache cache(escaped.size());
  BpeMerger::Workspace workspace;
  std::vector<Symbol> symbols;
  for (size_t begin = 0; begin < escaped.size();) {
    const size_t end = word_end(escaped, begin);
    const std::string_view word = std::string_view(escaped).substr(begin, end - begin);
    if (!cache.copy(word, ids)) {
      const size_t start = ids.size();
      encode_word(word, symbols, workspace, ids);
      cache.remember(word, start, ids);
    }
    begin = end;
  }
}

}  // namespace

std::string llama_piece_bytes(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const size_t mark = std::min(text.find(space_mark, at), text.size());
    bytes.append(text, at, mark - at);
    if (mark < text.size()) bytes += ' ';
    at = mark + space_mark.size();
  }
  return bytes;
}

std::unique_ptr<Tokenizer> make_llama_tokenizer(Vocab vocab) {
  return std::make_unique<LlamaTokenizer>(std::move(vocab));
}

}  // namespace gladius
