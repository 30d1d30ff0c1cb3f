// A model and its tokenizer's data, as every reader returns them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/model.h"
#include "model/vocab.h"

namespace gladius {

struct LoadedModel {
  Model model;
  Vocab vocab;
  bool importance = false;  // a GGUF file quantised with an importance matrix, says its metadata
};

// How a file was made, as (key, value): training configuration, data hash and the like. A key without
// "general." or "gladius." in front is written as "gladius.KEY"; gladius.version is always written.
using Provenance = std::vector<std::pair<std::string, std::string>>;

// The pairs as they are written: gladius.version first, then the given ones with their full keys.
Provenance full_provenance(const Provenance& given);

std::string_view version();  // of gladius, "1.1.0"

}  // namespace gladius
