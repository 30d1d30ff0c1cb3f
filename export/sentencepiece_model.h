// tokenizer.model: SentencePiece's protobuf (sentencepiece_model.proto), read and written without the
// protobuf library.
#pragma once

#include <filesystem>
#include <string>

#include "model/vocab.h"

namespace gladius {

// A BPE model with byte fallback and identity normalisation, as Llama uses. Throws Error naming the file for
// another model type, for normalisation that would have to be applied to texts, and for damage. add_bos is
// true, add_eos false.
Vocab read_sentencepiece_model(const std::filesystem::path& path);

// The file's bytes for a llama vocabulary, which must have an unknown token.
std::string sentencepiece_model_bytes(const Vocab& vocab);

}  // namespace gladius
