// One optimiser step's gradients: micro-batches through the model, forward and backward.
#pragma once

#include <memory>
#include <span>

#include "engine/context.h"
#include "model/model.h"
#include "train/batches.h"

namespace gladius {

// How a step is computed: micro-batches of B sequences of T tokens.
struct StepShape {
  int64_t B, T;
  Precision precision = Precision::fp32;
  Recompute recompute = {};
};

// Holds the tape and the input tensors, so that steps after the first few allocate nothing.
class GradientStep {
 public:
  GradientStep(Backend& backend, BufferPool& pool, const Model& model, const StepShape& shape);

  // Mean cross entropy (nats per target) over all targets of the micro-batches; every weight holds that
  // mean's gradient afterwards, however the targets are spread over the micro-batches. Throws Error when
  // there is no target.
  double run(std::span<const Batch> micro_batches);

  // Summed cross entropy of a batch, without gradients.
  double evaluate(const Batch& batch);

 private:
  void load(const Batch& batch);

  Context ctx_;
  const Model& model_;
  Tape tape_;
  RopeTable rope_table_;
  TokenBatch inputs_;
  Tensor targets_;
};

}  // namespace gladius
