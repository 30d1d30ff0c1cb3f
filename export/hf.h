// Hugging Face model folders: config.json, generation_config.json, model.safetensors and the tokenizer's
// files, as stock transformers reads and writes them.
#pragma once

#include <filesystem>
#include <string>

#include "export/loaded_model.h"
#include "kernels/backend.h"

namespace gladius {

struct HfOptions {
  DType dtype = DType::F32;  // of the weights: F32, BF16 or F16
  Provenance provenance;     // written to the weights' __metadata__
};

// Writes a folder. A new one appears under its name when it is complete; in an existing one each file is
// replaced as a whole, the weights last. Throws Error naming the file: values that do not fit the dtype, RoPE
// divisors that Hugging Face cannot express, a folder that holds a sharded model, a full disk.
void save_hf(const std::filesystem::path& folder, const Model& model, const Vocab& vocab,
             const HfOptions& options, Backend& backend);

// Reads a folder; weights become F32 in the pool's memory (no gradients yet, see set_trainable). Throws Error
// naming the file and what is wrong: another architecture, biases or RoPE scaling that are not supported,
// tensors that are missing, unexpected or of another shape, values that are not finite, a tokenizer that is
// not supported.
LoadedModel load_hf(const std::filesystem::path& folder, Backend& backend, BufferPool& pool);

// The configuration in a config.json; `path` may be the folder.
Config read_hf_config(const std::filesystem::path& path);
std::string hf_config_json(const Config& config, const Vocab& vocab, DType dtype);

}  // namespace gladius
