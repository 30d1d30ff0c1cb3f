#include "model/tokenizer_gpt2.h"

#include <array>
#include <unordered_map>

#include "engine/error.h"
#include "model/pretokenizer.h"
#include "model/tokenizer_bpe.h"
#include "model/utf8.h"

namespace gladius {
namespace {

// The character of each byte.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    append_utf8(printable ? byte : next++, alphabet[byte]);
  }
  return alphabet;
}

class Gpt2Tokenizer final : public Tokenizer {
 public:
  explicit Gpt2Tokenizer(Vocab vocabulary);

 private:
  void encode_fragment(std::string_view text, bool first, std::vector<int32_t>& ids) const override;

  int32_t whole_word(std::string_view word) const;

  Pretokenizer pretokenizer_;
  std::array<std::string, 256> alphabet_ = byte_alphabet();
  std::array<Symbol, 256> bytes_;
  bool ignore_merges_;  // a word that is a token is not merged, but taken as it is
  std::unordered_map<std::string_view, int32_t> ids_;
  BpeMerger merger_;
};

Gpt2Tokenizer::Gpt2Tokenizer(Vocab vocabulary)
    : Tokenizer(std::move(vocabulary)),
      pretokenizer_(vocab().pre),
      ignore_merges_(vocab().pre == "llama-bpe"),
      merger_(vocab().merges.size()) {
  ids_.reserve(vocab().tokens.size());
  for (int32_t id = 0; id < vocab().size(); ++id)
    ids_.emplace(vocab().tokens[static_cast<size_t>(id)].text, id);
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto entry = ids_.find(alphabet_[byte]);
    bytes_[byte] = entry == ids_.end() ? no_symbol : entry->second;
  }
  for (size_t rank = 0; rank < vocab().merges.size(); ++rank) {
    const std::string_view merge = vocab().merges[rank];
    const size_t space = merge.find(' ');
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    const std::string merged = std::string(left) + std::string(right);
    merger_.add(ids_.at(left), ids_.at(right), static_cast<uint32_t>(rank), ids_.at(merged));
  }
}

// The token of a word, or no_symbol.
int32_t Gpt2Tokenizer::whole_word(std::string_view word) const {
  std::string text;
  for (const char byte : word) text += alphabet_[static_cast<unsigned char>(byte)];
  const auto entry = ids_.find(text);
  return entry == ids_.end() ? no_symbol : entry->second;
}

void Gpt2Tokenizer::encode_fragment(std::string_view text, bool, std::vector<int32_t>& ids) const {
  WordCache cache(text.size());
  BpeMerger::Workspace workspace;
  std::vector<Symbol> symbols;
  pretokenizer_.split(text, [&](std::string_view word) {
    if (cache.copy(word, ids)) return;
    const size_t start = ids.size();
    const int32_t whole = ignore_merges_ ? whole_word(word) : no_symbol;
    if (whole != no_symbol) {
      ids.push_back(whole);
    } else {
      if (word.size() >= UINT32_MAX) fail("tokenizer: a word of {} bytes is too long", word.size());
      symbols.clear();
      for (const char byte : word) symbols.push_back(bytes_[static_cast<unsigned char>(byte)]);
      merger_.merge(symbols, workspace);
      for (const Symbol symbol : symbols) {
        if (symbol != no_symbol) ids.push_back(symbol);
      }
    }
    cache.remember(word, start, ids);
  });
}

}  // namespace

std::string gpt2_piece_bytes(std::string_view text) {
  static const auto byte_of = [] {
    std::unordered_map<std::string, char> map;
    const auto alphabet = byte_alphabet();
    for (size_t byte = 0; byte < 256; ++byte) map.emplace(alphabet[byte], static_cast<char>(byte));
    return map;
  }();
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const std::string character(text.substr(at, utf8_length(text[at])));
    const auto entry = byte_of.find(character);
    if (entry == byte_of.end()) {
      bytes += character;
    } else {
      bytes += entry->second;
    }
    at += character.size();
  }
  return bytes;
}

std::unique_ptr<Tokenizer> make_gpt2_tokenizer(Vocab vocab) {
  return std::make_unique<Gpt2Tokenizer>(std::move(vocab));
}

}  // namespace gladius
