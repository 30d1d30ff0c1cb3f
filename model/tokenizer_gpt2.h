// The GPT-2 kind of tokenizer: BPE on bytes inside the words of a pre-tokenizer (Radford et al. 2019).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "model/tokenizer.h"

namespace gladius {

// The vocabulary is valid (model/vocab.h). A byte that the vocabulary has no token for is left out, as in
// llama.cpp.
std::unique_ptr<Tokenizer> make_gpt2_tokenizer(Vocab vocab);

// The bytes that a normal piece stands for. Pieces are written in an alphabet of 256 printable characters,
// one per byte:
// '!' to '~', U+00A1 to U+00AC and U+00AE to U+00FF stand for the byte of their number, U+0100, U+0101 ...
// for the other 68 bytes in ascending order. Other characters stand for themselves.
std::string gpt2_piece_bytes(std::string_view text);

}  // namespace gladius
