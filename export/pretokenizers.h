// The pre-tokenizers of byte-level BPE as tokenizer.json spells them, by their GGUF names. Internal to
// export/.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "export/json.h"

namespace gladius {

// The "pre_tokenizer" value for a GGUF name that the tokenizer knows. Throws Error for others.
nlohmann::ordered_json pretokenizer_json(const std::string& pre);

// The GGUF name of a "pre_tokenizer" value; empty when it is none of the known ones.
std::optional<std::string> pretokenizer_name(const nlohmann::json& pre_tokenizer);

// Whether a word that is a token as a whole is taken without merging.
bool pretokenizer_ignores_merges(std::string_view pre);

}  // namespace gladius
