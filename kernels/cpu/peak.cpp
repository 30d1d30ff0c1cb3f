#include "kernels/peak.h"

#include <algorithm>
#include <chrono>
#include <new>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/parallel.h"

namespace gladius {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTries = 7;

// The least time of several calls, in seconds.
template <class F>
double least_seconds(F f) {
  double least = 0;
  for (int i = 0; i < kTries; ++i) {
    const auto start = Clock::now();
    f();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i == 0 || seconds < least) least = seconds;
  }
  return least;
}

}  // namespace

double measure_peak_flops(int threads, Precision precision, std::string_view isa) {
  if (cpu::cpu_isas().empty()) return 0;
  const cpu::FloatKernels& f = cpu::choose_isa(isa).table().f;
  const cpu::PeakKernel& peak = precision == Precision::bf16 ? f.peak_bf16 : f.peak;
  constexpr int64_t flops = 200'000'000;  // of a try and thread: some milliseconds
  const int64_t rounds = std::max<int64_t>(1, flops / peak.flops_per_round);
  volatile float sink = 0;
  const double seconds = least_seconds(
      [&] { parallel_tasks(threads, threads, [&](int64_t, int) { sink = peak.multiply_adds(rounds); }); });
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
    volatile float sink = 0;
    const double seconds = least_seconds([&] {
      parallel_tasks(threads, pieces,
                     [&](int64_t i, int) { sink = f.read(piece, memory.data() + i * piece); });
    });
    return static_cast<double>(pieces * piece) * sizeof(float) / seconds;
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

}  // namespace gladius
