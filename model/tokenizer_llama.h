// The SentencePiece kind of tokenizer: BPE on characters, spaces as U+2581, bytes for what has no token.
#pragma once

#include <memory>
#include <string>

#include "model/tokenizer.h"

namespace gladius {

// U+2581, which stands for a space in pieces.
inline constexpr std::string_view space_mark = "\xE2\x96\x81";

// The vocabulary is valid (model/vocab.h).
std::unique_ptr<Tokenizer> make_llama_tokenizer(Vocab vocab);

// The bytes that a normal piece stands for.
std::string llama_piece_bytes(std::string_view text);

}  // namespace gladius
