// --precision, --recompute, --memory: how a training step is computed.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "kernels/backend.h"
#include "model/config.h"
#include "train/plan.h"

namespace gladius::cli {

struct StepOptions {
  std::string precision = "fp32", recompute = "auto";
  uint64_t memory = 0;  // bytes; 0: what is available
};
void add_step_options(CLI::App& command, StepOptions& options);

// fp32 or bf16 by name; for "auto" both are timed and the choice is told.
Precision choose_precision(const std::string& name, const Config& config, int64_t batch, int64_t context,
                           Backend& backend);

// What a step computes anew, and the memory that a run then needs. "auto" takes the least that fits into the
// memory. Throws Error when the run does not fit into --memory, or not into the machine; tells what it chose
// and when more is needed than is available.
struct MemoryChoice {
  Recompute recompute;
  MemoryPlan plan;
};
MemoryChoice choose_recompute(const StepOptions& options, const Config& config, StepShape shape,
                              const Backend& backend);

// "nothing", "norms and SwiGLU", "norms and SwiGLU, and 5 of 12 layers whole".
std::string recompute_text(const Recompute& recompute, const Config& config);

}  // namespace gladius::cli
