#include "cli/step_options.h"

#include <fmt/format.h>

#include "cli/terminal.h"
#include "engine/error.h"

namespace gladius::cli {
namespace {

constexpr char kSmaller[] = "take a smaller --batch, and more --accum to make up for it";

Recompute by_name(const StepOptions& o, const Config& config, const StepShape& shape, const Backend& backend,
                  const MemoryBefore& before) {
  if (o.recompute != "auto") return recompute_named(o.recompute, config);
  return least_recompute(config, shape, backend, before.program, [&](const MemoryPlan& plan) {
    if (o.memory > 0) return plan.total() <= o.memory;
    return before.available == 0 || plan.total() - plan.program <= before.available;
  });
}

// What to do about too little memory.
std::string advice(const Recompute& recompute, const Config& config) {
  return recompute.layers == config.layers ? kSmaller : std::string("take --recompute auto, or ") + kSmaller;
}

}  // namespace

void add_step_options(CLI::App& command, StepOptions& o) {
  command
      .add_option("--precision", o.precision,
                  "Of matrix products: fp32; bf16, faster where the CPU has instructions for it "
                  "(weights, moments and sums stay fp32); or auto, the faster one here")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}))
      ->capture_default_str();
  command
      .add_option(
          "--recompute", o.recompute,
          "What the backward pass computes a second time to save memory, to the same bits: none; "
          "light: norms and SwiGLU, at most 1 % slower; full: all within the halves of the layers, about a "
          "sixth slower; auto: the least that fits into --memory")
      ->check(CLI::IsMember({"auto", "none", "light", "full"}))
      ->capture_default_str();
  command
      .add_option("--memory", o.memory,
                  "Most memory that training may take, as in 6GiB; by default what is available")
      ->transform(CLI::AsSizeValue(false));
}

Precision choose_precision(const std::string& name, const Config& config, int64_t batch, int64_t context,
                           Backend& backend) {
  if (name == precision_name(Precision::bf16)) return Precision::bf16;
  if (name == precision_name(Precision::fp32)) return Precision::fp32;
  const PrecisionTimes times = measure_precisions(config, batch, context, backend);
  const Precision chosen = times.faster();
  note("precision {}: bf16 products take {:.2f} times as long as fp32 ones here\n", precision_name(chosen),
       times.bf16 / times.fp32);
  return chosen;
}

MemoryChoice choose_recompute(const StepOptions& o, const Config& config, StepShape shape,
                              const Backend& backend, const MemoryBefore& before) {
  shape.recompute = by_name(o, config, shape, backend, before);
  if (o.recompute == "auto" && shape.recompute.elementwise)
    note("to fit into memory, the backward pass computes anew: {}\n",
         recompute_text(shape.recompute, config));
  return {shape.recompute, plan_memory(config, shape, backend, before.program)};
}

void require_limit(const StepOptions& o, const MemoryChoice& choice, const Config& config) {
  if (o.memory == 0 || choice.plan.total() <= o.memory) return;
  fail("this run needs {} of memory, more than --memory {}; {}", human_bytes(choice.plan.total()),
       human_bytes(o.memory), advice(choice.recompute, config));
}

void require_memory(const StepOptions& o, const MemoryChoice& choice, const Config& config,
                    const MemoryBefore& before) {
  require_limit(o, choice, config);
  const uint64_t needed = choice.plan.total(), total = total_memory();
  if (total > 0 && needed > total) {
    fail("this run needs {} of memory and the machine has {}; {}", human_bytes(needed), human_bytes(total),
         advice(choice.recompute, config));
  }
  if (before.available > 0 && needed - choice.plan.program > before.available)
    note("this run needs {} of memory, of which {} are available\n", human_bytes(needed),
         human_bytes(before.available));
}

std::string recompute_text(const Recompute& recompute, const Config& config) {
  if (recompute.layers > 0)
    return fmt::format("norms, SwiGLU, and {} of {} layers whole", recompute.layers, config.layers);
  return recompute.elementwise ? "norms and SwiGLU" : "nothing";
}

}  // namespace gladius::cli
