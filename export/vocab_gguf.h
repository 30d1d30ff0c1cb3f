// A tokenizer's data in GGUF metadata: the tokenizer.ggml.* keys.
#pragma once

#include <string>

#include "export/gguf.h"
#include "model/vocab.h"

namespace gladius {

// Throws Error naming the key that is missing, of another type, or wrong; the result passed validate().
Vocab read_gguf_vocab(const GgufMetadata& metadata, const std::string& source);
void write_gguf_vocab(const Vocab& vocab, GgufMetadata& metadata);

// The tokens that end generation: eos, those of `extra`, and every token with a text that llama.cpp takes for
// an end, such as "<|im_end|>". Ascending, each once.
std::vector<int32_t> end_of_generation_tokens(const Vocab& vocab, std::vector<int32_t> extra);

}  // namespace gladius
