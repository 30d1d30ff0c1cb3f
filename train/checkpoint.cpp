#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "export/checksum.h"
#include "export/safetensors.h"
#include "model/params.h"
#include "train/checkpoint_json.h"
#include "train/token_cache.h"

namespace gladius {

namespace fs = std::filesystem;

namespace {

constexpr const char* kVersion = "1";
constexpr const char* kChecksumKey = "gladius.checksum";

// The three sets of tensors, as they are called in the file.
struct TensorSet {
  const char* prefix;
  std::vector<Tensor> Checkpoint::* tensors;
};
constexpr TensorSet kSets[] = {
    {"", &Checkpoint::weights}, {"adam.m.", &Checkpoint::m}, {"adam.v.", &Checkpoint::v}};

std::span<const std::byte> bytes_of(const Tensor& tensor) { return {tensor.data(), tensor.bytes()}; }

// Of all metadata but the checksum itself. Lengths keep a name from running into its value.
std::string metadata_checksum(const SafetensorsMetadata& metadata) {
  Checksum checksum;
  for (const auto& [name, value] : metadata) {
    if (name == kChecksumKey) continue;
    checksum.update(fmt::format("{}:{}:", name.size(), value.size()));
    checksum.update(name);
    checksum.update(value);
  }
  return checksum.hex();
}

const std::string& field(const SafetensorsFile& file, const char* name) {
  const auto entry = file.metadata().find(name);
  if (entry == file.metadata().end()) fail("{}: the field '{}' is missing", file.path().string(), name);
  return entry->second;
}

std::map<std::string, std::string> tensor_checksums(const SafetensorsFile& file) {
  try {
    return nlohmann::json::parse(field(file, "gladius.checksums")).get<std::map<std::string, std::string>>();
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the checksums cannot be read: {}", file.path().string(), error.what());
  }
}

Tensor read_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape,
                   const std::map<std::string, std::string>& checksums) {
  const SafetensorsTensor* found = file.find(name);
  if (!found) fail("{}: the tensor {} is missing", file.path().string(), name);
  if (found->dtype != "F32") {
    fail("{}: the tensor {} holds {}; checkpoints hold F32", file.path().string(), name, found->dtype);
  }
  Tensor tensor = file.tensor(*found);
  if (tensor.shape() != shape) {
    fail("{}: the tensor {} has the shape {}; the configuration says {}", file.path().string(), name,
         tensor.shape().text(), shape.text());
  }
  const auto checksum = checksums.find(name);
  if (checksum == checksums.end()) fail("{}: the tensor {} has no checksum", file.path().string(), name);
  if (checksum_hex(file.data(*found)) != checksum->second) {
    fail("{}: the tensor {} is damaged: its checksum does not match", file.path().string(), name);
  }
  return tensor;
}

// The step in "step-NNNNNNNN.safetensors"; empty for any other name.
std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  constexpr std::string_view prefix = "step-", suffix = ".safetensors";
  if (!name.starts_with(prefix) || !name.ends_with(suffix) || name.size() <= prefix.size() + suffix.size())
    return {};
  const char *begin = name.data() + prefix.size(), *end = name.data() + name.size() - suffix.size();
  int64_t step = 0;
  const auto [stop, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || stop != end || name != checkpoint_path("", step).string()) return {};
  return step;
}

bool half_written(const fs::path& path) {
  const std::string name = path.filename().string();
  const size_t end = name.find(".safetensors.tmp");
  return end != name.npos && step_of(name.substr(0, end) + ".safetensors");
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    files.push_back(entry->path());
  }
  if (error) fail("cannot list the folder {}: {}", folder.string(), error.message());
  return files;
}

// Steps of the checkpoints in a folder, the highest first.
std::vector<int64_t> steps_in(const std::vector<fs::path>& files) {
  std::vector<int64_t> steps;
  for (const fs::path& file : files) {
    if (const auto step = step_of(file)) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) fail("cannot remove {}: {}", path.string(), error.message());
}

}  // namespace

bool has_checkpoints(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_directory(folder, ignored) && !steps_in(files_in(folder)).empty();
}

fs::path checkpoint_path(const fs::path& folder, int64_t step) {
  return folder / fmt::format("step-{:08}.safetensors", step);
}

void write_checkpoint(const fs::path& path, const Checkpoint& checkpoint) {
  const std::vector<ParamSpec> specs = parameter_table(checkpoint.config);
  std::vector<SafetensorsTensor> records;
  nlohmann::ordered_json checksums = nlohmann::ordered_json::object();
  for (const TensorSet& set : kSets) {
    const std::vector<Tensor>& tensors = checkpoint.*set.tensors;
    if (tensors.size() != specs.size()) {
      fail("cannot write {}: {} tensors '{}…' for {} parameters", path.string(), tensors.size(), set.prefix,
           specs.size());
    }
    for (size_t i = 0; i < specs.size(); ++i) {
      const std::string name = set.prefix + specs[i].gguf_name;
      if (tensors[i].dtype() != DType::F32 || tensors[i].shape() != specs[i].shape) {
        fail("cannot write {}: {} is {} {}, not F32 {}", path.string(), name,
             dtype_info(tensors[i].dtype()).name, tensors[i].shape().text(), specs[i].shape.text());
      }
      records.push_back(safetensors_tensor(name, DType::F32, specs[i].shape));
      checksums[name] = checksum_hex(bytes_of(tensors[i]));
    }
  }
  SafetensorsMetadata metadata = {{"gladius.checkpoint", kVersion},
                                  {"gladius.config", config_to_json(checkpoint.config)},
                                  {"gladius.tokenizer", vocab_to_json(checkpoint.vocab)},
                                  {"gladius.state", state_to_json(checkpoint.state)},
                                  {"gladius.checksums", checksums.dump()}};
  metadata[kChecksumKey] = metadata_checksum(metadata);
  SafetensorsWriter writer(path, std::move(records), metadata);
  for (const TensorSet& set : kSets) {
    for (const Tensor& tensor : checkpoint.*set.tensors) writer.append(bytes_of(tensor));
  }
  writer.finish();
}

Checkpoint read_checkpoint(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  const std::string source = path.string();
  const auto version = file.metadata().find("gladius.checkpoint");
  if (version == file.metadata().end())
    fail("{} is no checkpoint: the field 'gladius.checkpoint' is missing", source);
  if (metadata_checksum(file.metadata()) != field(file, kChecksumKey)) {
    fail("{}: the metadata is damaged: its checksum does not match", source);
  }
  if (version->second != kVersion) {
    fail("{} has the format version {}; this program reads version {}", source, version->second, kVersion);
  }
  Checkpoint checkpoint;
  checkpoint.config = config_from_json(field(file, "gladius.config"), source);
  checkpoint.vocab = vocab_from_json(field(file, "gladius.tokenizer"), source);
  checkpoint.state = state_from_json(field(file, "gladius.state"), source);
  if (checkpoint.vocab.size() > checkpoint.config.vocab) {
    fail("{}: the tokenizer has {} tokens, the model {}", source, checkpoint.vocab.size(),
         checkpoint.config.vocab);
  }
  const auto checksums = tensor_checksums(file);
  const std::vector<ParamSpec> specs = parameter_table(checkpoint.config);
  for (const TensorSet& set : kSets) {
    for (const ParamSpec& spec : specs) {
      (checkpoint.*set.tensors)
          .push_back(read_tensor(file, set.prefix + spec.gguf_name, spec.shape, checksums));
    }
  }
  if (file.tensors().size() != std::size(kSets) * specs.size()) {
    fail("{}: {} tensors; the configuration says {}", source, file.tensors().size(),
         std::size(kSets) * specs.size());
  }
  return checkpoint;
}

std::optional<FoundCheckpoint> find_newest_checkpoint(const fs::path& folder,
                                                      std::vector<std::string>& warnings) {
  if (!fs::exists(folder)) return {};
  for (const int64_t step : steps_in(files_in(folder))) {
    const fs::path path = checkpoint_path(folder, step);
    try {
      return FoundCheckpoint{path, read_checkpoint(path)};
    } catch (const Error& error) {
      warnings.push_back(fmt::format("passed over a checkpoint: {}", error.what()));
    }
  }
  return {};
}

void prune_checkpoints(const fs::path& folder, const TrainState& state, int keep) {
  const std::vector<fs::path> files = files_in(folder);
  for (const fs::path& file : files) {
    if (half_written(file)) remove_file(file);
  }
  int kept = 0;
  for (const int64_t step : steps_in(files)) {
    if (step > state.step || kept++ < keep || step == state.best_step) continue;
    remove_file(checkpoint_path(folder, step));
  }
}

void remove_checkpoints_after(const fs::path& folder, int64_t step) {
  for (const int64_t other : steps_in(files_in(folder))) {
    if (other > step) remove_file(checkpoint_path(folder, other));
  }
}

// ---- what changed ----

namespace {

constexpr char kPrecision[] = "precision";

}  // namespace

std::string precision_of(const TrainState& state) {
  const auto option = state.options.find(kPrecision);
  const auto* name = option == state.options.end() ? nullptr : std::get_if<std::string>(&option->second);
  return name ? *name : std::string(precision_name(Precision::fp32));
}

namespace {

std::string text_of(const OptionValue& value) {
  return std::visit([](const auto& held) { return fmt::format("{}", held); }, value);
}

// Options with the precision that those from before it was one stand for.
std::map<std::string, OptionValue> with_precision(const TrainState& state) {
  std::map<std::string, OptionValue> options = state.options;
  options.try_emplace(kPrecision, precision_of(state));
  return options;
}

void compare_options(const TrainState& saved, const TrainState& now, std::vector<std::string>& lines) {
  const auto before = with_precision(saved), after = with_precision(now);
  for (const auto& [name, value] : before) {
    const auto other = after.find(name);
    if (other == after.end()) {
      lines.push_back(fmt::format("--{} was {}, now it is not given", name, text_of(value)));
    } else if (other->second != value) {
      lines.push_back(fmt::format("--{} was {}, now {}", name, text_of(value), text_of(other->second)));
    }
  }
  for (const auto& [name, value] : after) {
    if (!before.contains(name))
      lines.push_back(fmt::format("--{} was not given, now {}", name, text_of(value)));
  }
}

void compare_schedules(const Schedule& saved, const Schedule& now, std::vector<std::string>& lines) {
  const auto compare = [&](const char* name, const auto& was, const auto& is) {
    if (was != is) lines.push_back(fmt::format("{} was {}, now {}", name, was, is));
  };
  compare("--lr", saved.peak, now.peak);
  compare("the final learning rate", saved.floor, now.floor);
  compare("the number of warm-up steps", saved.warmup_steps, now.warmup_steps);
  compare("the number of steps", saved.total_steps, now.total_steps);
}

void compare_configs(const Config& saved, const Config& now, std::vector<std::string>& lines) {
  const size_t before = lines.size();
  const auto compare = [&](const char* name, const auto& was, const auto& is) {
    if (was != is) lines.push_back(fmt::format("the model's {} was {}, now {}", name, was, is));
  };
  compare("name", saved.name, now.name);
  compare("vocabulary", saved.vocab, now.vocab);
  compare("hidden size", saved.hidden, now.hidden);
  compare("feed-forward size", saved.intermediate, now.intermediate);
  compare("number of layers", saved.layers, now.layers);
  compare("number of heads", saved.heads, now.heads);
  compare("number of KV heads", saved.kv_heads, now.kv_heads);
  compare("head size", saved.head_dim, now.head_dim);
  compare("context", saved.context, now.context);
  compare("norm epsilon", saved.norm_eps, now.norm_eps);
  compare("RoPE theta", saved.rope_theta, now.rope_theta);
  compare("tied head", saved.tied, now.tied);
  if (lines.size() == before && saved != now) lines.push_back("the model's RoPE scaling changed");
}

}  // namespace

std::vector<std::string> differences(const Checkpoint& saved, const Config& config, const Vocab& vocab,
                                     const TrainState& state) {
  std::vector<std::string> lines;
  const TrainState& was = saved.state;
  compare_options(was, state, lines);
  if (was.seed != state.seed) lines.push_back(fmt::format("--seed was {}, now {}", was.seed, state.seed));
  compare_schedules(was.schedule, state.schedule, lines);
  if (was.data != state.data)
    lines.push_back(fmt::format("the training data was {}, now {}", was.data, state.data));
  if (fingerprint(saved.vocab) != fingerprint(vocab)) {
    lines.push_back(
        saved.vocab.size() == vocab.size()
            ? fmt::format("the tokenizer's {} tokens or its settings changed", vocab.size())
            : fmt::format("the tokenizer had {} tokens, now {}", saved.vocab.size(), vocab.size()));
  }
  compare_configs(saved.config, config, lines);
  return lines;
}

}  // namespace gladius
