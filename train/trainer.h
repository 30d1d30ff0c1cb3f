// The training loop: data in, checkpoints out, resumable to the bit.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "train/batches.h"
#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace gladius {

struct TrainSettings {
  std::filesystem::path folder;  // of the run: checkpoints and metrics.jsonl
  int64_t batch = 4;             // sequences in a micro-batch
  int64_t context = 256;         // tokens in a sequence
  int64_t accum = 1;             // micro-batches in a step
  uint64_t seed = 1;
  Precision precision = Precision::fp32;
  Recompute recompute = {};  // no checkpoint holds it: it changes no result
  Schedule schedule;         // total_steps ends the run
  AdamWOptions adamw;
  int64_t save_every =
      500;       // steps between checkpoints, each after a validation; there is one at the end, too
  int keep = 3;  // newest checkpoints that stay, besides the best
  int64_t validation_windows = 0;  // at most so many of the held-out windows; 0: all
  bool skip_not_finite = false;  // leave out a step whose loss or gradient is not finite, instead of stopping
};

// Throws Error naming the setting.
void validate(const TrainSettings& settings);

struct StepReport {
  int64_t step;  // done, counted from 1
  double loss, learning_rate, gradient_norm;
  int64_t targets;  // of this step
  double seconds;
};

struct ValidationReport {
  int64_t step;
  double loss;           // nats per token
  double loss_per_byte;  // nats per byte of text
  bool best;
};

// What a run tells while it goes on; any may be empty.
struct TrainEvents {
  std::function<void(const StepReport&)> on_step;
  std::function<void(const ValidationReport&)> on_validation;
  std::function<void(uint64_t done, uint64_t total)> on_validation_progress;
  std::function<void(const std::filesystem::path&)> on_checkpoint;
  std::function<void(const std::string&)> on_warning;
};

class Trainer {
 public:
  // Takes a trainable model (new_model, or loaded weights made trainable). data names what it is trained on
  // (TrainState::data).
  Trainer(TrainSettings settings, Model model, std::shared_ptr<const Tokenizer> tokenizer, TokenSplits splits,
          std::string data, Backend& backend, std::shared_ptr<BufferPool> pool);

  // The state that a checkpoint would hold now; compare it with a saved one (differences()) before resume().
  const TrainState& state() const { return state_; }
  const Model& model() const { return model_; }
  // Goes on from a checkpoint of this run. Throws Error when the model has another shape.
  void resume(const Checkpoint& checkpoint);

  enum class Outcome { finished, interrupted };
  // Trains up to schedule.total_steps or until stop is set; either way the last step is saved. Throws Error
  // when a loss or a gradient is not finite, naming the step and the first tensor; the last good checkpoint
  // stays.
  Outcome run(const TrainEvents& events, const std::atomic<bool>& stop);

  // Mean cross entropy of the held-out windows; empty when nothing is held out or `stop` was set.
  std::optional<ValidationReport> validate_now(const TrainEvents& events, const std::atomic<bool>& stop);

 private:
  StepReport step();
  void not_finite(double loss, const TrainEvents& events);
  void save(const TrainEvents& events);
  bool validation_due() const;  // at this step, and not done
  void validate_and_save(const TrainEvents& events, const std::atomic<bool>& stop);

  TrainSettings settings_;
  std::shared_ptr<BufferPool> pool_;
  Context ctx_;
  Model model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  AdamW optimizer_;
  GradientStep gradients_;
  TrainingBatches training_;
  std::optional<ValidationBatches> validation_;
  TrainState state_;
  std::vector<Batch> micro_batches_;
  Batch validation_batch_;
  std::optional<MetricsLog> metrics_;
  int skipped_in_a_row_ = 0;
};

}  // namespace gladius
