#include "cli/model_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "cli/terminal.h"
#include "export/hf.h"
#include "export/model_gguf.h"
#include "export/sentencepiece_model.h"
#include "export/tokenizer_json.h"
#include "export/vocab_gguf.h"
#include "train/checkpoint.h"
#include "train/checkpoint_json.h"

namespace gladius::cli {
namespace {

namespace fs = std::filesystem;

enum class Kind { gguf, hugging_face, checkpoint, training_folder, sentencepiece };

bool starts_with(const fs::path& path, std::string_view magic) {
  std::string start(magic.size(), '\0');
  std::ifstream(path, std::ios::binary).read(start.data(), static_cast<std::streamsize>(start.size()));
  return start == magic;
}

Kind kind_of(const fs::path& path) {
  if (!fs::exists(path)) fail("there is no {}", path.string());
  if (fs::is_directory(path)) {
    return fs::exists(path / "config.json") || fs::exists(path / "tokenizer.json") ? Kind::hugging_face
                                                                                   : Kind::training_folder;
  }
  if (starts_with(path, "GGUF")) return Kind::gguf;
  if (path.extension() == ".gguf") fail("{} is no GGUF file: it does not start with \"GGUF\"", path.string());
  if (path.extension() == ".safetensors") return Kind::checkpoint;
  if (path.extension() == ".model") return Kind::sentencepiece;
  fail("{} is no GGUF file, Hugging Face folder, checkpoint (.safetensors) or training folder",
       path.string());
}

Checkpoint read_run(const fs::path& folder, bool best) {
  FoundCheckpoint found = newest_checkpoint(folder);
  const TrainState& state = found.checkpoint.state;
  if (best && state.best_step >= 0 && state.best_step != state.step) {
    return read_checkpoint(checkpoint_path(folder, state.best_step));
  }
  return std::move(found.checkpoint);
}

SourceModel from_checkpoint(Checkpoint checkpoint, BufferPool& pool, WeightUse use) {
  SourceModel source;
  source.provenance = {{"training", state_to_json(checkpoint.state)}, {"data", checkpoint.state.data}};
  source.vocab = std::move(checkpoint.vocab);
  if (use == WeightUse::training) {
    source.model = blank_model(checkpoint.config, pool);
    for (size_t i = 0; i < source.model.weights.size(); ++i) {
      std::memcpy(source.model.weights[i].data(), checkpoint.weights[i].data(),
                  checkpoint.weights[i].bytes());
    }
  } else {
    source.model = {checkpoint.config, parameter_table(checkpoint.config), std::move(checkpoint.weights)};
  }
  return source;
}

LoadedModel load_gguf_for(WeightUse use, const std::string& path, Backend& backend, BufferPool& pool) {
  switch (use) {
    case WeightUse::inference:
      return load_gguf_panels(path, backend, pool);
    case WeightUse::training:
      return load_gguf_f32(path, backend, pool);
    case WeightUse::rows:
      break;
  }
  return load_gguf(path, backend.threads());
}

}  // namespace

Config config_from(const std::string& name) {
  const std::vector<std::string> presets = preset_names();
  if (std::find(presets.begin(), presets.end(), name) != presets.end()) return preset(name);
  if (fs::exists(name)) return read_hf_config(name);
  fail("{} is neither a preset (gladius-125m, gladius-tiny) nor a config.json", name);
}

FoundCheckpoint newest_checkpoint(const fs::path& folder) {
  std::vector<std::string> damaged;
  auto found = find_newest_checkpoint(folder, damaged);
  if (found) {
    for (const std::string& line : damaged) note("{}; {} is used\n", line, found->path.string());
    return std::move(*found);
  }
  if (damaged.empty())
    fail("{} holds neither a Hugging Face model (config.json) nor a checkpoint", folder.string());
  fail("{} holds no loadable checkpoint: {}", folder.string(), damaged.front());
}

SourceModel load_model(const std::string& path, Backend& backend, BufferPool& pool, WeightUse use,
                       bool best) {
  switch (kind_of(path)) {
    case Kind::gguf:
      return {load_gguf_for(use, path, backend, pool), {}};
    case Kind::hugging_face:
      return {load_hf(path, backend, pool), {}};
    case Kind::checkpoint:
      return from_checkpoint(read_checkpoint(path), pool, use);
    case Kind::training_folder:
      return from_checkpoint(read_run(path, best), pool, use);
    case Kind::sentencepiece:
      break;
  }
  fail("{} holds a tokenizer, but no model", path);
}

Vocab load_vocab(const std::string& path) {
  switch (kind_of(path)) {
    case Kind::gguf:
      return read_gguf_vocab(GgufFile::open(path).metadata(), path);
    case Kind::hugging_face:
      return read_hf_vocab(path);
    case Kind::checkpoint:
      return read_checkpoint(path).vocab;
    case Kind::training_folder:
      return read_run(path, false).vocab;
    case Kind::sentencepiece:
      return read_sentencepiece_model(path);
  }
  return {};
}

void save_vocab(const std::string& path, const Vocab& vocab) {
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("general.type", std::string("vocab"));
  write_gguf_vocab(vocab, metadata);
  GgufWriter(path, metadata, {}).finish();
}

}  // namespace gladius::cli
