#include "train/plan.h"

#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/model_source.h"
#include "cli/step_options.h"
#include "cli/terminal.h"

namespace gladius::cli {
namespace {

struct PlanOptions {
  std::string model = "gladius-125m";
  int64_t batch = 4, context = 0, accum = 1, steps = 1000;
  bool measure = true;
  StepOptions step;
  ComputeOptions compute;
};

void print_memory(const MemoryPlan& memory) {
  fmt::print(
      "memory      {} = weights {} + gradients {} + moments {} + activations {} + scratch {} + program {}\n",
      human_bytes(memory.total()), human_bytes(memory.weights), human_bytes(memory.gradients),
      human_bytes(memory.moments), human_bytes(memory.activations), human_bytes(memory.scratch),
      human_bytes(memory.program));
  fmt::print("checkpoint  {} on disk, each\n", human_bytes(memory.weights + memory.moments));
}

std::string tokens_text(double count) {
  return count < 1e18 ? grouped(static_cast<int64_t>(count)) : fmt::format("{:.1e}", count);
}

void run(PlanOptions o) {
  const Config config = config_from(o.model);
  o.context = training_context(o.context, config);
  const auto backend = make_backend(o.compute);
  const int64_t tokens = o.batch * o.context * o.accum;  // below 2^56
  fmt::print("model       {}: {} parameters\n", config.name, grouped(config.parameters()));
  fmt::print("step        {} tokens: batch {} × context {} × {} micro-batches\n", grouped(tokens), o.batch,
             o.context, o.accum);
  StepShape shape{o.batch, o.context};
  const MemoryBefore before;
  const MemoryChoice choice = choose_recompute(o.step, config, shape, *backend, before);
  shape.recompute = choice.recompute;
  print_memory(choice.plan);
  fmt::print("recomputed  {}\n", recompute_text(choice.recompute, config));
  require_limit(o.step, choice, config);
  if (!o.measure) return;
  if (before.available > 0 && choice.plan.total() > before.available) {
    fmt::print("time        not measured: {} of memory are available\n", human_bytes(before.available));
    return;
  }

  shape.precision = choose_precision(o.step.precision, config, o.batch, o.context, *backend);
  const TimePlan time = measure_time(config, shape, *backend);
  const double seconds = time.micro_batch * static_cast<double>(o.accum) + time.optimiser;
  fmt::print("time        {:.3f} s a step, {:.0f} tokens/s in {} with {} thread{} on {} (measured)\n",
             seconds, static_cast<double>(tokens) / seconds, precision_name(shape.precision),
             backend->threads(), backend->threads() == 1 ? "" : "s", backend->name());
  fmt::print("whole run   {} steps, {} tokens: {}\n", grouped(o.steps),
             tokens_text(static_cast<double>(o.steps) * static_cast<double>(tokens)),
             human_seconds(seconds * static_cast<double>(o.steps)));
}

}  // namespace

void add_plan(CLI::App& app) {
  auto o = std::make_shared<PlanOptions>();
  CLI::App* command =
      app.add_subcommand("plan", "Parameters, memory and time of a training run, before it starts");
  command->add_option("--model", o->model, "Preset (gladius-125m, gladius-tiny) or a config.json")
      ->capture_default_str();
  command->add_option("--batch", o->batch, "Sequences in a micro-batch")
      ->check(whole(1, kMostSequences))
      ->capture_default_str();
  command
      ->add_option("--context", o->context,
                   "Tokens in a sequence; by default 256, or the model's when that is less")
      ->check(whole(1, kMostContext));
  command->add_option("--accum", o->accum, "Micro-batches in a step")
      ->check(whole(1, kMostMicroBatches))
      ->capture_default_str();
  command->add_option("--steps", o->steps, "Steps of the run")
      ->check(whole(1, kMostSteps))
      ->capture_default_str();
  command->add_flag("!--no-measure", o->measure, "Only count: do not time a step (which needs the memory)");
  add_step_options(*command, o->step);
  add_compute_options(*command, o->compute);
  command->footer("Example:\n  gladius plan --model gladius-125m --batch 4 --context 256 --steps 20000");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
