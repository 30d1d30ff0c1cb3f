// tokenizer.json and tokenizer_config.json of the Hugging Face tokenizers library.
#pragma once

#include <filesystem>
#include <string>

#include "model/vocab.h"

namespace gladius {

// A file that gives the ids of our own tokenizers: for a llama vocabulary the "legacy" form of BPE with byte
// fallback (merges derived from the scores), for a gpt2 vocabulary byte-level BPE.
std::string tokenizer_json(const Vocab& vocab);
std::string tokenizer_config_json(const Vocab& vocab, int64_t context);

// The vocabulary of a folder with tokenizer.model or tokenizer.json, and tokenizer_config.json if there is
// one. Ids that no token has, up to `size`, become unused tokens (models are often padded); 0: as many as the
// files have. Throws Error naming the file and what is not supported.
Vocab read_hf_vocab(const std::filesystem::path& folder, int64_t size = 0);

// The Jinja text of a folder's chat template: chat_template.jinja, else that in tokenizer_config.json; empty
// when it has none.
std::string read_hf_chat_template(const std::filesystem::path& folder);

}  // namespace gladius
