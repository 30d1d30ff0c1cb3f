// Llama models in GGUF files.
#pragma once

#include <filesystem>

#include "export/loaded_model.h"
#include "export/quantize.h"

namespace gladius {

// Reads configuration, vocabulary and weights; the weights are views of the mapped file in its own types.
// Throws Error naming the file and what is wrong: another architecture, metadata that is missing or of
// another type, RoPE scaling or biases that are not supported, tensors that are missing, unexpected or of
// another shape, values that are not finite, which `threads` threads look for.
LoadedModel load_gguf(const std::filesystem::path& path, int threads = 1);

// The same with the weights of matrix products in the backend's own form (use_panels), in the pool's memory,
// where it has one; the file's pages are given back tensor by tensor.
LoadedModel load_gguf_panels(const std::filesystem::path& path, Backend& backend, BufferPool& pool);

// The same with F32 weights in the pool's memory, converted by the backend: for training on. They have no
// gradients yet (set_trainable).
LoadedModel load_gguf_f32(const std::filesystem::path& path, Backend& backend, BufferPool& pool);

// Writes a model as a file type. Weights may be of any type that quantize_file accepts. Same input, same
// bytes, and the same as quantize_file makes of the model's F32 file; so is what it returns.
std::vector<Fallback> save_gguf(const std::filesystem::path& path, const Model& model, const Vocab& vocab,
                                const Provenance& provenance, const QuantizeOptions& options,
                                Backend& backend);

// The configuration in a file's metadata, its tensors' presence included (tied head, RoPE divisors).
Config read_gguf_config(const GgufFile& file);

}  // namespace gladius
