#include "model/tokenizer.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"
#include "model/tokenizer_gpt2.h"
#include "model/tokenizer_llama.h"
#include "model/utf8.h"

namespace gladius {
namespace {

std::string piece_bytes(const Vocab& vocab, const Token& token) {
  switch (token.type) {
    case TokenType::byte:
      return {static_cast<char>(std::stoi(token.text.substr(3, 2), nullptr, 16))};
    case TokenType::control:
    case TokenType::unknown:
    case TokenType::user_defined:
      return token.text;
    default:
      break;
  }
  return vocab.kind == TokenizerKind::llama ? llama_piece_bytes(token.text) : gpt2_piece_bytes(token.text);
}

bool special_type(TokenType type) {
  return type == TokenType::control || type == TokenType::unknown || type == TokenType::user_defined;
}

}  // namespace

Tokenizer::Tokenizer(Vocab vocab) : vocab_(std::move(vocab)), ends_generation_(vocab_.tokens.size()) {
  piece_end_.reserve(vocab_.tokens.size());
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    const Token& token = vocab_.tokens[static_cast<size_t>(id)];
    bytes_ += piece_bytes(vocab_, token);
    piece_end_.push_back(bytes_.size());
    if (special_type(token.type)) special_.push_back(id);
  }
  std::sort(special_.begin(), special_.end(), [&](int32_t a, int32_t b) {
    const size_t length_a = vocab_.tokens[static_cast<size_t>(a)].text.size();
    const size_t length_b = vocab_.tokens[static_cast<size_t>(b)].text.size();
    return length_a > length_b || (length_a == length_b && a < b);
  });
  for (const int32_t id : vocab_.end_of_generation) ends_generation_[static_cast<size_t>(id)] = true;
  if (vocab_.eos) ends_generation_[static_cast<size_t>(*vocab_.eos)] = true;
}

// As llama.cpp: each special token in turn, the longest first, is cut out of what earlier ones have left as
// text.
template <class Allowed>
std::vector<Tokenizer::Fragment> Tokenizer::cut_special(std::string_view text, bool parse_special,
                                                        const Allowed& allowed) const {
  std::vector<Fragment> fragments;
  if (!text.empty()) fragments.push_back({text, -1});
  for (const int32_t id : special_) {
    const auto& [special, score, type] = vocab_.tokens[static_cast<size_t>(id)];
    if (type != TokenType::user_defined && !parse_special) continue;
    if (text.find(special) == std::string_view::npos) continue;
    std::vector<Fragment> cut;
    for (const Fragment& fragment : fragments) {
      std::string_view rest = fragment.text;
      if (fragment.token < 0) {
        for (size_t from = 0, at; (at = rest.find(special, from)) != std::string_view::npos;) {
          from = at + 1;
          if (!allowed(id, static_cast<size_t>(rest.data() - text.data()) + at)) continue;
          if (at > 0) cut.push_back({rest.substr(0, at), -1});
          cut.push_back({rest.substr(at, special.size()), id});
          rest.remove_prefix(at + special.size());
          from = 0;
        }
      }
      if (!rest.empty()) cut.push_back({rest, fragment.token});
    }
    fragments = std::move(cut);
  }
  return fragments;
}

void Tokenizer::encode_fragments(std::span<const Fragment> fragments, const std::vector<bool>* barred,
                                 std::vector<int32_t>& ids) const {
  bool first = true;
  for (const Fragment& fragment : fragments) {
    first = first || fragment.token >= 0;
    if (fragment.token >= 0) {
      ids.push_back(fragment.token);
    } else {
      barred ? encode_without(*barred, fragment.text, first, ids)
             : encode_fragment(fragment.text, first, ids);
      first = false;
    }
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  std::vector<int32_t> ids;
  if (add_special && vocab_.add_bos) ids.push_back(*vocab_.bos);
  encode_fragments(cut_special(text, parse_special, [](int32_t, size_t) { return true; }), nullptr, ids);
  if (add_special && vocab_.add_eos) ids.push_back(*vocab_.eos);
  return ids;
}

std::vector<int32_t> Tokenizer::encode(std::span<const TextPart> parts,
                                       std::span<const int32_t> reserved) const {
  std::string text;
  std::vector<size_t> ends;  // of the parts, in text
  for (const TextPart& part : parts) {
    text += part.text;
    ends.push_back(text.size());
  }
  const auto allowed = [&](int32_t id, size_t at) {
    const Token& token = vocab_.tokens[static_cast<size_t>(id)];
    const auto part = std::upper_bound(ends.begin(), ends.end(), at);
    if (at + token.text.size() > *part) return false;
    return parts[static_cast<size_t>(part - ends.begin())].special ||
           (token.type == TokenType::user_defined &&
            std::find(reserved.begin(), reserved.end(), id) == reserved.end());
  };
  std::vector<int32_t> ids;
  std::vector<bool> barred(vocab_.tokens.size());
  for (const int32_t id : special_)
    barred[static_cast<size_t>(id)] = vocab_.tokens[static_cast<size_t>(id)].type == TokenType::control;
  for (const int32_t id : reserved) barred[static_cast<size_t>(id)] = true;
  encode_fragments(cut_special(text, true, allowed), &barred, ids);
  return ids;
}

// llama.cpp's merges can make any token of its text's characters. Where a barred one comes out, its text is
// encoded anew in two pieces: no merge reaches across. (A barred token of one character stays.)
void Tokenizer::encode_without(const std::vector<bool>& barred, std::string_view text, bool first,
                               std::vector<int32_t>& ids) const {
  std::vector<int32_t> encoded;
  encode_fragment(text, first, encoded);
  for (const int32_t id : encoded) {
    const std::string_view whole = piece(id, true);
    const size_t one = whole.empty() ? 0 : utf8_length(whole[0]);
    if (!barred[static_cast<size_t>(id)] || whole.size() <= one) {
      ids.push_back(id);
    } else {
      encode_without(barred, whole.substr(0, one), false, ids);
      encode_without(barred, whole.substr(one), false, ids);
    }
  }
}

std::string_view Tokenizer::piece(int32_t token, bool special) const {
  if (token < 0 || token >= vocab_.size()) {
    fail("tokenizer: there is no token {}; the vocabulary has {}", token, vocab_.size());
  }
  const auto id = static_cast<size_t>(token);
  const TokenType type = vocab_.tokens[id].type;
  if (!special && (type == TokenType::control || type == TokenType::unknown)) return {};
  const size_t begin = id == 0 ? 0 : piece_end_[id - 1];
  return std::string_view(bytes_).substr(begin, piece_end_[id] - begin);
}

// Appends the piece. When an invalid byte has kept llama's U+2581 from being a character of its own, its
// three bytes come as byte tokens: they too are a space.
void Tokenizer::append_piece(int32_t token, bool special, std::string& out) const {
  out += piece(token, special);
  if (vocab_.kind == TokenizerKind::llama &&
      vocab_.tokens[static_cast<size_t>(token)].type == TokenType::byte && out.ends_with(space_mark)) {
    out.resize(out.size() - space_mark.size());
    out += ' ';
  }
}

bool Tokenizer::drops_leading_space() const {
  return vocab_.kind == TokenizerKind::llama && vocab_.add_space_prefix;
}

std::string Tokenizer::decode(std::span<const int32_t> tokens, bool special) const {
  std::string out;
  bool at_start = drops_leading_space();
  for (const int32_t token : tokens) {
    append_piece(token, special, out);
    if (at_start && utf8_incomplete_suffix(out) < out.size()) {  // the space may come byte by byte
      if (out[0] == ' ') out.erase(0, 1);
      at_start = false;
    }
  }
  return out;
}

bool Tokenizer::ends_generation(int32_t token) const {
  return token >= 0 && token < vocab_.size() && ends_generation_[static_cast<size_t>(token)];
}

bool Tokenizer::is_special(int32_t token) const {
  return token >= 0 && token < vocab_.size() && special_type(vocab_.tokens[static_cast<size_t>(token)].type);
}

std::unique_ptr<Tokenizer> make_tokenizer(Vocab vocab, const std::string& source) {
  validate(vocab, source);
  return vocab.kind == TokenizerKind::llama ? make_llama_tokenizer(std::move(vocab))
                                            : make_gpt2_tokenizer(std::move(vocab));
}

std::string StreamDecoder::push(int32_t token) {
  tokenizer_.append_piece(token, false, pending_);
  if (at_start_ && utf8_incomplete_suffix(pending_) < pending_.size()) {
    if (tokenizer_.drops_leading_space() && pending_[0] == ' ') pending_.erase(0, 1);
    at_start_ = false;
  }
  const size_t complete = pending_.size() - utf8_incomplete_suffix(pending_);
  std::string out = pending_.substr(0, complete);
  pending_.erase(0, complete);
  return out;
}

std::string StreamDecoder::finish() { return std::exchange(pending_, {}); }

}  // namespace gladius
