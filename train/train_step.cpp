#include "train/train_step.h"

#include <algorithm>

namespace gladius {

GradientStep::GradientStep(Backend& backend, BufferPool& pool, const Model& model, const StepShape& shape)
    : ctx_{backend, pool, nullptr, shape.precision, shape.recompute},
      model_(model),
      rope_table_(make_rope_table(model.config, shape.T, pool)),
      inputs_(make_token_batch(shape.B, shape.T, pool)),
      targets_(pool, DType::I32, {shape.B * shape.T}) {}

void GradientStep::load(const Batch& batch) {
  if (batch.B != inputs_.B || batch.T != inputs_.T) {
    fail("a batch of {} × {} tokens came where {} × {} was announced", batch.B, batch.T, inputs_.B,
         inputs_.T);
  }
  std::copy(batch.tokens.begin(), batch.tokens.end(), inputs_.tokens.i32());
  std::copy(batch.targets.begin(), batch.targets.end(), targets_.i32());
}

double GradientStep::run(std::span<const Batch> micro_batches) {
  int64_t targets = 0;
  for (const Batch& batch : micro_batches) targets += batch.target_count;
  if (targets == 0) fail("a training step needs at least one target token");
  const float scale = 1.0f / static_cast<float>(targets);

  double loss = 0;
  ctx_.tape = &tape_;
  for (const Batch& batch : micro_batches) {
    load(batch);
    const Tensor hidden = forward(ctx_, model_, rope_table_, inputs_);
    const Tensor part = cross_entropy(ctx_, hidden, model_.head(), targets_, scale);
    loss += static_cast<double>(part.f32()[0]);
    tape_.backward(ctx_.pool, part);
  }
  return loss;
}

double GradientStep::evaluate(const Batch& batch) {
  load(batch);
  ctx_.tape = nullptr;
  const Tensor hidden = forward(ctx_, model_, rope_table_, inputs_);
  const Tensor losses = ctx_.empty({batch.B * batch.T});
  cross_entropy(ctx_, hidden, model_.head(), targets_, 1.0f, losses);
  double sum = 0;
  for (int64_t m = 0; m < batch.B * batch.T; ++m) sum += static_cast<double>(losses.f32()[m]);
  return sum;
}

}  // namespace gladius
