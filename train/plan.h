// What a training run will need, before it starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "kernels/backend.h"
#include "model/config.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace gladius {

// Bytes. Exact for what the program allocates: it comes from running the real step on a backend that does
// nothing. What a library allocates while it works (oneDNN) is not in it.
struct MemoryPlan {
  size_t weights, gradients, moments;
  size_t activations;  // everything else that a step holds at its peak: activations, their gradients, inputs,
                       // logits
  size_t scratch;      // the backend's own
  size_t program;      // code, libraries and stacks, as they are now
  size_t total() const { return weights + gradients + moments + activations + scratch + program; }
};

// program: resident_bytes() before any weights were there.
MemoryPlan plan_memory(const Config& config, const StepShape& shape, const Backend& backend, size_t program);

// "none"; "light": norms and SwiGLU; "full": everything that the model's forward pass can give up. Throws
// Error for another name.
Recompute recompute_named(std::string_view name, const Config& config);
// The least that a step has to compute anew so that `fits(plan)`; everything, where even that does not
// suffice. shape.recompute is ignored, and what the system would not lend memory for does not fit.
Recompute least_recompute(const Config& config, StepShape shape, const Backend& backend, size_t program,
                          const std::function<bool(const MemoryPlan&)>& fits);

// Seconds that one micro-batch's forward and backward pass and one optimiser step take, measured by doing
// them once after a warm-up, on random tokens. Needs the planned memory.
struct TimePlan {
  double micro_batch, optimiser;
};
TimePlan measure_time(const Config& config, const StepShape& shape, Backend& backend);

// Seconds that the three products of a linear layer (forward, gradients of input and of weight) take in each
// precision for B sequences of T tokens, the best of several tries: what a training step mostly consists of.
struct PrecisionTimes {
  double fp32, bf16;
  Precision faster() const { return bf16 < fp32 ? Precision::bf16 : Precision::fp32; }
};
PrecisionTimes measure_precisions(const Config& config, int64_t B, int64_t T, Backend& backend);

// Resident memory of this process in bytes, now and at its highest; 0 where the system does not say.
size_t resident_bytes();
size_t peak_resident_bytes();

}  // namespace gladius
