// Times training steps on random tokens: forward, backward, clipping, AdamW, as `gladius train` does them.
// With --profile each operation beside what the machine can do; with --serve a step for each line of standard
// input, so that another program can take turns with this one (compare_pytorch).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <numeric>
#include <vector>

#include "bench/profiling_backend.h"
#include "engine/random.h"
#include "kernels/median.h"
#include "kernels/peak.h"
#include "train/optimizer.h"
#include "train/plan.h"
#include "train/train_step.h"

namespace gladius::bench {
namespace {

struct Options {
  std::string model = "gladius-125m", backend = "cpu", precision = "fp32", recompute = "none";
  int64_t batch = 4, context = 256;
  int threads = 2, steps = 6;
  bool profile = false, serve = false;
};

class Training {
 public:
  explicit Training(const Options& o)
      : backend_(o.backend == "onednn" ? make_onednn_backend(o.threads) : make_cpu_backend(o.threads)),
        config_(preset(o.model)),
        precision_(o.precision == "bf16" ? Precision::bf16 : Precision::fp32),
        pool_(BufferPool::make()),
        ctx_{backend_, *pool_},
        model_(new_model(config_, 0, *pool_, o.threads)),
        optimizer_(AdamWOptions{}, model_, ctx_),
        gradients_(backend_, *pool_, model_,
                   {o.batch, o.context, precision_, recompute_named(o.recompute, config_)}),
        batch_{
            .B = o.batch, .T = o.context, .tokens = {}, .targets = {}, .target_count = o.batch * o.context} {
    const Random random(1, stream_of("train_step"));
    const auto vocab = static_cast<uint64_t>(config_.vocab);
    for (uint64_t m = 0; m < static_cast<uint64_t>(o.batch * o.context); ++m) {
      batch_.tokens.push_back(static_cast<int32_t>(random.below(2 * m, vocab)));
      batch_.targets.push_back(static_cast<int32_t>(random.below(2 * m + 1, vocab)));
    }
  }

  // Seconds of one step.
  double step() {
    const auto start = std::chrono::steady_clock::now();
    gradients_.run({&batch_, 1});
    optimizer_.step(ctx_, model_, 1e-4, optimizer_.gradient_norm(ctx_, model_));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  ProfilingBackend& backend() { return backend_; }
  const Config& config() const { return config_; }
  Precision precision() const { return precision_; }

 private:
  ProfilingBackend backend_;
  Config config_;
  Precision precision_;
  std::shared_ptr<BufferPool> pool_;
  Context ctx_;
  Model model_;
  AdamW optimizer_;
  GradientStep gradients_;
  Batch batch_;
};

void measure(const Options& o) {
  Training training(o);
  for (int i = 0; i < 2; ++i) training.step();  // pages, caches, the pool
  training.backend().reset();
  const auto tokens = static_cast<double>(o.batch * o.context);
  const double flops = tokens * training_flops(training.config(), o.context);
  // Clocks change from second to second, so each step is compared with the peaks right before and after it.
  std::vector<double> seconds, speeds, shares, peaks{measure_peak_flops(o.threads, training.precision())};
  for (int i = 0; i < o.steps; ++i) {
    seconds.push_back(training.step());
    peaks.push_back(measure_peak_flops(o.threads, training.precision()));
    speeds.push_back(tokens / seconds.back());
    shares.push_back(100 * flops / seconds.back() * 2 / (peaks[peaks.size() - 2] + peaks.back()));
  }
  if (o.profile) {
    print_profile(training.backend().profile(), o.steps, std::accumulate(seconds.begin(), seconds.end(), 0.0),
                  {median(peaks), measure_read_bandwidth(o.threads, int64_t{1} << 30)});
  }
  const auto [slowest, fastest] = std::minmax_element(speeds.begin(), speeds.end());
  const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
  fmt::print(
      "gladius {} {} x {}, {} threads, {}: {:.1f} tokens/s median ({:.1f} to {:.1f}), "
      "{:.1f} % MFU ({:.1f} to {:.1f}), peak {} MiB\n",
      o.precision, o.batch, o.context, o.threads, training.backend().name(), median(speeds), *slowest,
      *fastest, median(shares), *least, *most, peak_resident_bytes() >> 20);
}

// "step" answers with its seconds, "peak" with the most memory that was resident, in MiB.
void serve(const Options& o) {
  Training training(o);
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "step") fmt::print("{:.6f}\n", training.step());
    if (line == "peak") fmt::print("{}\n", peak_resident_bytes() >> 20);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace gladius::bench

int main(int argc, char** argv) {
  gladius::bench::Options o;
  CLI::App app("Times training steps on random tokens.");
  app.add_option("--model", o.model, "Preset")->capture_default_str();
  app.add_option("--batch", o.batch, "Sequences")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--context", o.context, "Tokens of a sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Threads")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--steps", o.steps, "Steps, after two to warm up")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--backend", o.backend, "cpu or onednn")
      ->check(CLI::IsMember({"cpu", "onednn"}))
      ->capture_default_str();
  app.add_option("--precision", o.precision, "fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  app.add_option("--recompute", o.recompute, "none, light or full")
      ->check(CLI::IsMember({"none", "light", "full"}))
      ->capture_default_str();
  app.add_flag("--profile", o.profile, "Time each operation, beside its roofline");
  app.add_flag("--serve", o.serve, "A step for each line \"step\" of standard input");
  CLI11_PARSE(app, argc, argv);
  try {
    o.serve ? gladius::bench::serve(o) : gladius::bench::measure(o);
  } catch (const std::exception& error) {
    fmt::print(stderr, "train_step: {}\n", error.what());
    return 1;
  }
  return 0;
}
