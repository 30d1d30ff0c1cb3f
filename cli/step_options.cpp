#include "cli/step_options.h"

#include <fmt/format.h>

#include "cli/machine.h"
#include "cli/terminal.h"
#include "engine/error.h"

namespace gladius::cli {
namespace {

constexpr char kSmaller[] = "take a smaller --batch, and more --accum to make up for it";

MemoryChoice choice_of(const Recompute& recompute, const Config& config, StepShape shape,
                       const Backend& backend) {
  shape.recompute = recompute;
  return {recompute, plan_memory(config, shape, backend)};
}

MemoryChoice by_name(const StepOptions& o, const Config& config, const StepShape& shape,
                     const Backend& backend) {
  if (o.recompute == "none") return choice_of({}, config, shape, backend);
  if (o.recompute == "light") return choice_of({.elementwise = true}, config, shape, backend);
  if (o.recompute == "full") return choice_of(recompute_all(config), config, shape, backend);
  const uint64_t limit = o.memory > 0 ? o.memory : available_memory();
  const Recompute least = limit > 0 ? least_recompute(config, shape, backend, limit) : Recompute{};
  return choice_of(least, config, shape, backend);
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
      .add_option("--recompute", o.recompute,
                  "What the backward pass computes a second time to save memory, to the same bits: none; "
                  "light: norms and SwiGLU (1 % slower); full: all between the layers' inputs (a quarter "
                  "slower); auto: the least that fits into --memory")
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
                              const Backend& backend) {
  const MemoryChoice choice = by_name(o, config, shape, backend);
  const uint64_t needed = choice.plan.total(), total = total_memory(), available = available_memory();
  if (o.memory > 0 && needed > o.memory) {
    fail("this run needs {} of memory with --recompute {}, more than --memory {}; {}", human_bytes(needed),
         o.recompute == "auto" ? "full" : o.recompute, human_bytes(o.memory), kSmaller);
  }
  if (total > 0 && needed > total) {
    fail("this run needs {} of memory and the machine has {}; {}", human_bytes(needed), human_bytes(total),
         kSmaller);
  }
  if (available > 0 && needed > available)
    note("this run needs {} of memory, of which {} are available\n", human_bytes(needed),
         human_bytes(available));
  if (o.recompute == "auto" && choice.recompute.elementwise)
    note("to fit into memory, the backward pass computes anew: {}\n",
         recompute_text(choice.recompute, config));
  return choice;
}

std::string recompute_text(const Recompute& recompute, const Config& config) {
  if (recompute.layers > 0)
    return fmt::format("norms, SwiGLU, and {} of {} layers whole", recompute.layers, config.layers);
  return recompute.elementwise ? "norms and SwiGLU" : "nothing";
}

}  // namespace gladius::cli
