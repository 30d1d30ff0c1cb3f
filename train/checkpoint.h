// A training run's state in one file, from which it goes on as if it had never stopped.
//
// A checkpoint is a safetensors file, RUN/step-00000123.safetensors. Its tensors, all F32: each weight under
// its GGUF name in the order of the parameter table, then the moments of AdamW as "adam.m.NAME" and
// "adam.v.NAME". Its metadata:
//   gladius.checkpoint   "1", the version of this format
//   gladius.config       the model's Config, JSON
//   gladius.tokenizer    its Vocab, JSON
//   gladius.state        TrainState, JSON
//   gladius.checksums    JSON object: XXH3-128 of each tensor's bytes, by name
//   gladius.checksum     XXH3-128 over all other fields in the order of their names, each as
//                        "LENGTH:LENGTH:NAMEVALUE" with the lengths of name and value
// Numbers are written in the shortest form that reads back as the same value.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/tensor.h"
#include "model/config.h"
#include "model/vocab.h"
#include "train/batches.h"
#include "train/schedule.h"

namespace gladius {

using OptionValue = std::variant<bool, int64_t, double, std::string>;  // doubles must be finite

struct TrainState {
  int64_t step = 0;             // steps of the run that are done
  int64_t optimizer_steps = 0;  // of these, the updates that AdamW made: its bias correction counts them
  DataPosition position;        // the next window
  uint64_t seed = 0;            // of initialisation, data order and whatever else is drawn
  int64_t tokens_seen = 0;      // targets trained on
  std::optional<double> best_validation_loss;
  int64_t best_step = -1;       // of the best validation loss; -1: none yet
  int64_t validated_step = -1;  // of the last validation that was completed; -1: none yet
  Schedule schedule;
  // Identifies the training data and what is held out of it, for example TokenCache::key and the split.
  std::string data;
  // What else the run was told and its result depends on, by the names of the command's options ("batch").
  std::map<std::string, OptionValue> options;

  bool operator==(const TrainState&) const = default;
};

struct Checkpoint {
  Config config;
  Vocab vocab;
  TrainState state;
  std::vector<Tensor> weights, m, v;  // F32, one for each row of parameter_table(config)
};

// Whether a run's folder holds checkpoints, damaged ones included.
bool has_checkpoints(const std::filesystem::path& folder);

std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step);

// Replaces `path` as a whole: whenever the process dies, the name holds the old file or the new one. Throws
// Error when a tensor does not fit the configuration, when the disk has too little room, or when writing
// fails.
void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint);

// Verifies every checksum and shape. The tensors view the mapped file and must not be written. Throws Error
// naming the file and what is wrong: the tensor, the metadata's field, or another version.
Checkpoint read_checkpoint(const std::filesystem::path& path);

struct FoundCheckpoint {
  std::filesystem::path path;
  Checkpoint checkpoint;
};

// The loadable checkpoint with the highest step in a run's folder. `warnings` receives one line for each
// newer one that is damaged. Files that were being written are passed over. Empty when there is none.
std::optional<FoundCheckpoint> find_newest_checkpoint(const std::filesystem::path& folder,
                                                      std::vector<std::string>& warnings);

// Removes checkpoints from a run's folder except the newest `keep` up to `state.step`, that of
// `state.best_step`, and any beyond `state.step`; and what killed processes left half-written. Call it after
// write_checkpoint.
void prune_checkpoints(const std::filesystem::path& folder, const TrainState& state, int keep);

// Removes the checkpoints beyond a step: a run that resumes from an earlier one has other steps there.
void remove_checkpoints_after(const std::filesystem::path& folder, int64_t step);

// The name of the precision that a run began with; checkpoints from before it was an option are fp32.
std::string precision_of(const TrainState& state);

// What a new invocation would change in the run that a checkpoint holds, one readable line for each
// difference
// ("--lr was 0.001, now 0.002"). Empty when the run simply goes on.
std::vector<std::string> differences(const Checkpoint& saved, const Config& config, const Vocab& vocab,
                                     const TrainState& state);

}  // namespace gladius
