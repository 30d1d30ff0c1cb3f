#include "kernels/peak.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/median.h"
#include "kernels/parallel.h"

namespace gladius {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kTries = 7;
constexpr double kLeastSeconds = 0.1;  // of what is measured: another program may have the cores for a moment

// What f returns must not be left out, so it goes somewhere.
template <class F>
double seconds_of_tasks(int threads, int64_t tasks, F f) {
  const auto start = Clock::now();
  parallel_tasks(threads, tasks,
                 [&](int64_t task, int) { [[maybe_unused]] volatile float result = f(task); });
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Seconds of kTries, or more until they have taken least_seconds together, in ascending order.
template <class F>
std::vector<double> tries(double least_seconds, F seconds_of_one) {
  std::vector<double> tries;
  double all = 0;
  while (tries.size() < kTries || all < least_seconds) all += tries.emplace_back(seconds_of_one());
  std::sort(tries.begin(), tries.end());
  return tries;
}

}  // namespace

double measure_peak_flops(int threads, Precision precision, std::string_view isa) {
  if (cpu::cpu_isas().empty()) return 0;
  const cpu::FloatKernels& f = cpu::choose_isa(isa).table().f;
  const cpu::PeakKernel& peak = precision == Precision::bf16 ? f.peak_bf16 : f.peak;
  constexpr double long_enough = 2e-3;  // for the clock, and for starting threads not to count
  int64_t rounds = 1000;
  const auto one_try = [&] {
    return seconds_of_tasks(threads, threads, [&](int64_t) { return peak.multiply_adds(rounds); });
  };
  while (tries(0, one_try).front() < long_enough) rounds *= 2;
  const double seconds = tries(kLeastSeconds, one_try).front();
  return static_cast<double>(threads * rounds * peak.flops_per_round) / seconds;
}

double measure_read_bandwidth(int threads, int64_t bytes, std::string_view isa) {
  if (cpu::cpu_isas().empty()) return 0;
  const cpu::FloatKernels& f = cpu::choose_isa(isa).table().f;
  constexpr int64_t piece = 1 << 18;  // floats, a multiple of 8 vectors
  const int64_t pieces = std::max<int64_t>(1, bytes / (piece * int64_t{sizeof(float)}));
  try {
    const cpu::Scratch<float> memory(pieces * piece);
    parallel_tasks(threads, pieces,
                   [&](int64_t i, int) { std::fill_n(memory.data() + i * piece, piece, 1.0f); });
    const std::vector<double> seconds = tries(kLeastSeconds, [&] {
      return seconds_of_tasks(threads, pieces,
                              [&](int64_t i) { return f.read(piece, memory.data() + i * piece); });
    });
    return static_cast<double>(pieces * piece) * sizeof(float) / median(seconds);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

}  // namespace gladius
