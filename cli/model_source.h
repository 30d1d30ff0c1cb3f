// Models by the name or the path that a person gives.
#pragma once

#include <filesystem>
#include <string>

#include "cli/arguments.h"
#include "export/loaded_model.h"
#include "train/checkpoint.h"

namespace gladius::cli {

// A preset's name, or the path of a Hugging Face config.json (or of a folder that holds one).
Config config_from(const std::string& name);

struct SourceModel : LoadedModel {
  Provenance provenance;  // how a checkpoint was made; empty for other files
};

enum class WeightUse {
  inference,  // in the types that the file holds, in the form that products are fastest with
  rows,       // the same as they lie in the file, mapped where possible
  training,   // F32, in the pool's memory
};
inline WeightUse weight_use(const ComputeOptions& options) {
  return options.repack ? WeightUse::inference : WeightUse::rows;
}
// A GGUF file, a Hugging Face folder, a checkpoint, or a training folder (its newest checkpoint, or the one
// with the best validation loss). Throws Error when it is none.
SourceModel load_model(const std::string& path, Backend& backend, BufferPool& pool, WeightUse use,
                       bool best = false);

// The newest loadable checkpoint of a training folder. Throws Error when there is none.
FoundCheckpoint newest_checkpoint(const std::filesystem::path& folder);

// The tokenizer of any of these, or of a tokenizer.model file, without the weights.
Vocab load_vocab(const std::string& path);
// Writes a tokenizer as a GGUF file without tensors.
void save_vocab(const std::string& path, const Vocab& vocab);

}  // namespace gladius::cli
