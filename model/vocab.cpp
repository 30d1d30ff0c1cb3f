#include "model/vocab.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <unordered_map>

#include "engine/error.h"

namespace gladius {
namespace {

using TextIndex = std::unordered_map<std::string_view, int32_t>;

// Whether text reads <0xNN> with upper-case digits.
bool is_byte_text(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
         digits.find(text[3]) != digits.npos && digits.find(text[4]) != digits.npos;
}

TextIndex index_texts(const Vocab& vocab, const std::string& source) {
  TextIndex index;
  index.reserve(vocab.tokens.size());
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const Token& token = vocab.tokens[static_cast<size_t>(id)];
    if (token.text.empty()) fail("{}: vocabulary: token {} has no text", source, id);
    const auto [entry, is_new] = index.emplace(token.text, id);
    if (!is_new) {
      fail("{}: vocabulary: tokens {} and {} have the same text '{}'", source, entry->second, id, token.text);
    }
    const auto type = static_cast<int32_t>(token.type);
    if (type < 1 || type > 6) fail("{}: vocabulary: token {} has the unknown type {}", source, id, type);
    if (token.type == TokenType::byte && !is_byte_text(token.text)) {
      fail("{}: vocabulary: token {} is a byte token, but reads '{}' and not <0xNN>", source, id, token.text);
    }
    if (!std::isfinite(token.score))
      fail("{}: vocabulary: token {} has the score {}", source, id, token.score);
  }
  return index;
}

void validate_special_ids(const Vocab& vocab, const std::string& source) {
  const auto check = [&](std::optional<int32_t> id, const char* name) {
    if (id && (*id < 0 || *id >= vocab.size())) {
      fail("{}: vocabulary: the {} token is {}, but there are {} tokens", source, name, *id, vocab.size());
    }
  };
  check(vocab.bos, "beginning-of-sequence");
  check(vocab.eos, "end-of-sequence");
  check(vocab.unknown, "unknown");
  check(vocab.padding, "padding");
  for (const int32_t id : vocab.end_of_generation) check(id, "end-of-generation");
  if (vocab.add_bos && !vocab.bos) {
    fail("{}: vocabulary: texts are to begin with the beginning-of-sequence token, but its id is missing",
         source);
  }
  if (vocab.add_eos && !vocab.eos) {
    fail("{}: vocabulary: texts are to end with the end-of-sequence token, but its id is missing", source);
  }
}

void validate_llama(const Vocab& vocab, const TextIndex& index, const std::string& source) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = fmt::format("<0x{:02X}>", byte);
    const auto entry = index.find(text);
    if (entry == index.end() || vocab.tokens[static_cast<size_t>(entry->second)].type != TokenType::byte) {
      fail("{}: vocabulary: the byte token '{}' is missing: not every text could be encoded", source, text);
    }
  }
}

void validate_gpt2(const Vocab& vocab, const TextIndex& index, const std::string& source) {
  constexpr std::array known = {"gpt-2", "llama-bpe", "smollm", "qwen2"};
  if (std::find(known.begin(), known.end(), vocab.pre) == known.end()) {
    fail("{}: vocabulary: the pre-tokenizer '{}' is not supported; known are {}", source, vocab.pre,
         fmt::join(known, ", "));
  }
  for (size_t rank = 0; rank < vocab.merges.size(); ++rank) {
    const std::string_view merge = vocab.merges[rank];
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
      fail("{}: vocabulary: merge {} is '{}', not two pieces with a space between them", source, rank, merge);
    }
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    const std::string merged = std::string(left) + std::string(right);
    for (const std::string_view part : {left, right, std::string_view(merged)}) {
      if (!index.contains(part)) {
        fail("{}: vocabulary: merge {} is '{}', but there is no token '{}'", source, rank, merge, part);
      }
    }
  }
}

}  // namespace

void validate(const Vocab& vocab, const std::string& source) {
  if (vocab.tokens.empty()) fail("{}: the vocabulary has no tokens", source);
  const TextIndex index = index_texts(vocab, source);
  validate_special_ids(vocab, source);
  if (vocab.kind == TokenizerKind::llama) {
    validate_llama(vocab, index, source);
  } else {
    validate_gpt2(vocab, index, source);
  }
}

}  // namespace gladius
