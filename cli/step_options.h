// --precision, --recompute, --memory: how a training step is computed.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/machine.h"
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

// Memory before a run takes any.
struct MemoryBefore {
  uint64_t program = resident_bytes(), available = available_memory();
};

// What a step computes anew, and the memory that a run then needs. "auto" takes the least that fits into the
// memory, and tells.
struct MemoryChoice {
  Recompute recompute;
  MemoryPlan plan;
};
MemoryChoice choose_recompute(const StepOptions& options, const Config& config, StepShape shape,
                              const Backend& backend, const MemoryBefore& before);

// Throws Error when a run does not fit into --memory; the second one also when it does not fit into the
// machine, and tells when it needs more than is available.
void require_limit(const StepOptions& options, const MemoryChoice& choice, const Config& config);
void require_memory(const StepOptions& options, const MemoryChoice& choice, const Config& config,
                    const MemoryBefore& before);

// "nothing", "norms and SwiGLU", "norms and SwiGLU, and 5 of 12 layers whole".
std::string recompute_text(const Recompute& recompute, const Config& config);

}  // namespace gladius::cli
