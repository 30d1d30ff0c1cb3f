// Text to token ids and back, over the vocabulary of the file.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/vocab.h"

namespace gladius {

// A piece of a text that is put together from a template and from what people write.
struct TextPart {
  std::string text;
  bool special = false;  // texts of special tokens become those tokens
};

// Immutable and thread-safe after construction.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  const Vocab& vocab() const { return vocab_; }

  // Ids of text, which may be any bytes. add_special: BOS and EOS where the vocabulary says so.
  // parse_special: texts of control tokens in the input become those tokens (user-defined tokens always do).
  std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special = false) const;
  // Ids of the parts' joined text, without BOS and EOS. Control tokens come from special parts alone, and so
  // do the `reserved` user-defined ones; no special token reaches from one part into another.
  std::vector<int32_t> encode(std::span<const TextPart> parts, std::span<const int32_t> reserved) const;

  // The exact bytes of one token; empty for control tokens unless `special`. No space is dropped.
  std::string_view piece(int32_t token, bool special = false) const;
  // Bytes of a whole sequence: llama's leading space (add_space_prefix) is dropped. Gives back every text
  // without special tokens that was encoded, whatever its bytes, but that llama's U+2581 becomes a space.
  std::string decode(std::span<const int32_t> tokens, bool special = false) const;

  bool ends_generation(int32_t token) const;
  bool is_special(int32_t token) const;  // a control, unknown or user-defined token

 protected:
  explicit Tokenizer(Vocab vocab);
  // Appends the ids of a text without special tokens. `first`: nothing but BOS or a special token stands
  // before it.
  virtual void encode_fragment(std::string_view text, bool first, std::vector<int32_t>& ids) const = 0;

 private:
  friend class StreamDecoder;
  struct Fragment {
    std::string_view text;
    int32_t token;  // the special token that the text is; -1: none
  };
  // allowed(token, offset): whether the text of this special token at this offset is to become the token.
  template <class Allowed>
  std::vector<Fragment> cut_special(std::string_view text, bool parse_special, const Allowed& allowed) const;
  // barred: tokens, by id, that must not come from the fragments' texts; null: none.
  void encode_fragments(std::span<const Fragment> fragments, const std::vector<bool>* barred,
                        std::vector<int32_t>& ids) const;
  void encode_without(const std::vector<bool>& barred, std::string_view text, bool first,
                      std::vector<int32_t>& ids) const;
  void append_piece(int32_t token, bool special, std::string& out) const;
  bool drops_leading_space() const;

  Vocab vocab_;
  std::string bytes_;              // of all pieces
  std::vector<size_t> piece_end_;  // in bytes_, by id
  std::vector<int32_t> special_;   // user-defined, control and unknown tokens, longest text first
  std::vector<bool> ends_generation_;
};

// Validates the vocabulary and builds its tokenizer. Throws Error.
std::unique_ptr<Tokenizer> make_tokenizer(Vocab vocab, const std::string& source);

// Joins streamed pieces so that no output ever ends inside a UTF-8 character. All outputs joined are what
// decode() gives for the same tokens.
class StreamDecoder {
 public:
  // continues: the tokens follow a text, so that llama's leading space is not dropped.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool continues = false)
      : tokenizer_(tokenizer), at_start_(!continues) {}
  std::string push(int32_t token);  // the text that is complete now; may be empty
  std::string finish();             // what is left, an incomplete character included

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
  bool at_start_;
};

}  // namespace gladius
