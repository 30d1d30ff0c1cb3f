// Where the time of a prompt and of generated tokens goes: every operation of a model that is run from a GGUF
// file, beside what the machine can do. Floating-point operations are compared with the fp32 peak, of which
// products of quantised weights may reach more than 100 %.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "bench/profiling_backend.h"
#include "engine/random.h"
#include "export/model_gguf.h"
#include "kernels/median.h"
#include "kernels/peak.h"
#include "model/decoder.h"

namespace gladius::bench {
namespace {

struct Options {
  std::string model;
  int64_t prompt = 512, generated = 128, depth = 0, repetitions = 5;
  int threads = 2;
};

class Inference {
 public:
  explicit Inference(const Options& o)
      : o_(o),
        backend_(make_cpu_backend(o.threads)),
        loaded_(load_gguf_panels(o.model, backend_, *pool_)),
        decoder_(ctx_, loaded_.model, o.depth + o.prompt + o.generated, DType::F16) {
    const Random random(1, stream_of("inference_profile"));
    for (int64_t i = 0; i < decoder_.capacity(); ++i)
      tokens_.push_back(static_cast<int32_t>(
          random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(decoder_.vocab()))));
  }

  // The profile of `tokens` tokens behind `before` others, `at_once` of them at a time.
  void profile(const char* what, int64_t before, int64_t tokens, int64_t at_once) {
    if (tokens == 0) return;
    double seconds = 0;
    std::vector<double> peaks, bandwidths;                 // of the machine, from run to run
    for (int64_t run = -1; run < o_.repetitions; ++run) {  // the first to warm up
      backend_.watch(false);
      peaks.push_back(measure_peak_flops(o_.threads, Precision::fp32));
      bandwidths.push_back(measure_read_bandwidth(o_.threads, int64_t{1} << 30));
      decoder_.clear();
      if (before > 0) decoder_.read(next(before));
      backend_.watch(run >= 0);
      const auto start = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < tokens; i += at_once) decoder_.read(next(std::min(at_once, tokens - i)));
      if (run >= 0)
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    fmt::print("{} of {} tokens behind {}, {} threads, {}: {:.1f} tokens/s\n", what, tokens, before,
               o_.threads, backend_.name(), static_cast<double>(tokens * o_.repetitions) / seconds);
    print_profile(backend_.profile(), o_.repetitions, seconds,
                  {median(std::move(peaks)), median(std::move(bandwidths))});
    backend_.reset();
  }

 private:
  std::span<const int32_t> next(int64_t n) const {
    return std::span(tokens_).subspan(static_cast<size_t>(decoder_.length()), static_cast<size_t>(n));
  }

  const Options& o_;
  std::shared_ptr<BufferPool> pool_ = BufferPool::make();
  ProfilingBackend backend_;
  LoadedModel loaded_;
  Context ctx_{backend_, *pool_};
  Decoder decoder_;
  std::vector<int32_t> tokens_;
};

void run(const Options& o) {
  Inference inference(o);
  inference.profile("a prompt", o.depth, o.prompt, o.prompt);
  inference.profile("generation", o.depth, o.generated, 1);
}

}  // namespace
}  // namespace gladius::bench

int main(int argc, char** argv) {
  gladius::bench::Options o;
  CLI::App app("Where the time of a prompt and of generated tokens goes.");
  app.add_option("model", o.model, "GGUF file")->required();
  app.add_option("-p,--prompt", o.prompt, "Tokens of a prompt; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("-n,--generated", o.generated, "Tokens to generate; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("-d,--depth", o.depth, "Tokens that are read before and do not count")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("-t,--threads", o.threads, "Threads")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("-r,--repetitions", o.repetitions, "How often each is run")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    gladius::bench::run(o);
  } catch (const std::exception& error) {
    fmt::print(stderr, "inference_profile: {}\n", error.what());
    return 1;
  }
  return 0;
}
