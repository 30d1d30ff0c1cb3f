// A tokenizer's data as files carry it: pieces, scores, merges and special tokens. No algorithm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gladius {

// The numbers are GGUF's tokenizer.ggml.token_type values (and SentencePiece's piece types).
enum class TokenType : int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

struct Token {
  std::string text;  // llama: U+2581 for a space, "<0xNN>" for a byte; gpt2: GPT-2's byte-to-unicode alphabet
  float score = 0;   // llama only: higher merges earlier
  TokenType type = TokenType::normal;
};

enum class TokenizerKind {
  llama,  // SentencePiece BPE with byte fallback (GGUF tokenizer.ggml.model "llama")
  gpt2,   // byte-level BPE (GGUF "gpt2")
};

struct Vocab {
  TokenizerKind kind = TokenizerKind::llama;
  std::string pre;  // gpt2: pre-tokenizer name ("gpt-2", "llama-bpe", "smollm", "qwen2"); llama: "default"
  std::vector<Token> tokens;        // by id
  std::vector<std::string> merges;  // gpt2: "left right" in rank order
  std::optional<int32_t> bos, eos, unknown, padding;
  std::vector<int32_t> end_of_generation;  // every token that ends generation, eos included
  bool add_bos = true;
  bool add_eos = false;
  bool add_space_prefix = true;  // llama only
  std::string chat_template;     // Jinja source; empty when the file has none

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
};

// Throws Error naming what is wrong: no tokens, empty or duplicate texts, special ids out of range, a missing
// byte token (llama), an unknown pre-tokenizer or a malformed merge (gpt2), add_bos without a bos id.
// `source` names the file.
void validate(const Vocab& vocab, const std::string& source);

}  // namespace gladius
