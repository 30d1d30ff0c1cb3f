#include "train/plan.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>

#include "engine/random.h"

namespace gladius {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Batch random_batch(const Config& config, int64_t B, int64_t T) {
  Batch batch{.B = B, .T = T, .tokens = {}, .targets = {}, .target_count = B * T};
  const Random random(0, stream_of("plan"));
  for (int64_t m = 0; m < B * T; ++m) {
    const auto index = static_cast<uint64_t>(m), vocab = static_cast<uint64_t>(config.vocab);
    batch.tokens.push_back(static_cast<int32_t>(random.below(2 * index, vocab)));
    batch.targets.push_back(static_cast<int32_t>(random.below(2 * index + 1, vocab)));
  }
  return batch;
}

}  // namespace

MemoryPlan plan_memory(const Config& config, const StepShape& shape, const Backend& backend, size_t program) {
  MemoryPlan plan{};
  plan.program = program;
  plan.scratch = backend.scratch_bytes();
  plan.weights = plan.gradients = static_cast<size_t>(config.parameters()) * sizeof(float);
  plan.moments = 2 * plan.weights;

  const std::unique_ptr<Backend> null = make_null_backend();
  const std::shared_ptr<BufferPool> pool = BufferPool::make();
  Context ctx{*null, *pool};
  Model model = blank_model(config, *pool);
  set_trainable(model, *pool);
  const AdamW optimizer(AdamWOptions{}, model, ctx);
  try {
    GradientStep step(*null, *pool, model, shape);
    const Batch batch = random_batch(config, shape.B, shape.T);
    step.run({&batch, 1});
  } catch (const Error& error) {
    fail("a step of {} sequences of {} tokens is more than this system lends memory for: {}", shape.B,
         shape.T, error.what());
  }
  plan.activations = pool->bytes_held() - plan.weights - plan.gradients - plan.moments;
  return plan;
}

Recompute recompute_named(std::string_view name, const Config& config) {
  if (name == "none") return {};
  if (name == "light") return {.elementwise = true};
  if (name == "full") return {.elementwise = true, .layers = config.layers};
  fail("{} is not a way to recompute: none, light or full", name);
}

Recompute least_recompute(const Config& config, StepShape shape, const Backend& backend, size_t program,
                          const std::function<bool(const MemoryPlan&)>& fits) {
  const auto suffices = [&](Recompute recompute) {
    shape.recompute = recompute;
    try {
      return fits(plan_memory(config, shape, backend, program));
    } catch (const Error&) {
      return false;
    }
  };
  if (suffices({})) return {};
  int64_t too_few = -1, enough = config.layers;  // layers whole
  while (enough - too_few > 1) {
    const int64_t middle = (too_few + enough) / 2;
    (suffices({true, middle}) ? enough : too_few) = middle;
  }
  return {true, enough};
}

TimePlan measure_time(const Config& config, const StepShape& shape, Backend& backend) {
  const std::shared_ptr<BufferPool> pool = BufferPool::make();
  Context ctx{backend, *pool};
  Model model = new_model(config, 0, *pool, backend.threads());
  AdamW optimizer(AdamWOptions{}, model, ctx);
  GradientStep step(backend, *pool, model, shape);
  const Batch batch = random_batch(config, shape.B, shape.T);
  TimePlan plan{};
  for (int round = 0; round < 2; ++round) {  // the first one warms up: pages, caches, the pool
    const auto start = Clock::now();
    step.run({&batch, 1});
    const auto middle = Clock::now();
    optimizer.step(ctx, model, 1e-4, optimizer.gradient_norm(ctx, model));
    plan.micro_batch = std::chrono::duration<double>(middle - start).count();
    plan.optimiser = seconds_since(middle);
  }
  return plan;
}

PrecisionTimes measure_precisions(const Config& config, int64_t B, int64_t T, Backend& backend) {
  constexpr int kTries = 5;
  const std::shared_ptr<BufferPool> pool = BufferPool::make();
  const int64_t M = std::min<int64_t>(B * T, 4096), N = config.intermediate, K = config.hidden;
  const Tensor x(*pool, DType::F32, {M, K}), w(*pool, DType::F32, {N, K}), y(*pool, DType::F32, {M, N});
  for (const Tensor& tensor : {x, w}) backend.fill(tensor.shape().elements(), 0.5f, tensor.f32());
  const auto time = [&](Precision precision) {
    const auto start = Clock::now();
    backend.matmul_nt({M, N, K, precision}, x.f32(), w.f32(), y.f32(), {});
    backend.matmul_nn({M, K, N, precision}, y.f32(), w.f32(), x.f32(), {});
    backend.matmul_tn({N, K, M, precision}, y.f32(), x.f32(), w.f32(), {});
    return seconds_since(start);
  };
  PrecisionTimes times{std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  for (int i = 0; i < kTries; ++i) {  // in turns, so that a busy moment does not decide
    times.fp32 = std::min(times.fp32, time(Precision::fp32));
    times.bf16 = std::min(times.bf16, time(Precision::bf16));
  }
  return times;
}

size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  if (!(statm >> total >> resident)) return 0;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

size_t peak_resident_bytes() {
  struct rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<size_t>(usage.ru_maxrss) * 1024;  // Linux counts KiB
}

}  // namespace gladius
