#include "bench/bench_support.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <regex>

#include "kernels/peak.h"
#include "tests/kernels_bounds.h"

namespace gladius::bench {
namespace {

constexpr int64_t measured_bytes = int64_t{1} << 30;  // for the bandwidth: more than caches hold

// Of the last level; 32 MiB where the system does not say.
int64_t cache_bytes() {
  int64_t largest = 0;
  for (const int level : {_SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL4_CACHE_SIZE})
    largest = std::max<int64_t>(largest, ::sysconf(level));
  return largest > 0 ? largest : 32 << 20;
}

// Linear between neighbours, as usual for quartiles.
double quantile(std::vector<double> x, double q) {
  if (x.empty()) return 0;
  std::sort(x.begin(), x.end());
  const double at = q * static_cast<double>(x.size() - 1);
  const auto i = static_cast<size_t>(at);
  return i + 1 < x.size() ? x[i] + (at - static_cast<double>(i)) * (x[i + 1] - x[i]) : x[i];
}

// As Google Benchmark understands --benchmark_filter: a leading '-' picks the others.
bool picks(const std::string& filter, const std::string& name) {
  if (filter.empty() || filter == "all") return true;
  const bool others = filter.front() == '-';
  return std::regex_search(name, std::regex(others ? filter.substr(1) : filter, std::regex::extended)) !=
         others;
}

}  // namespace

Floats zeros(int64_t n) { return Floats(static_cast<size_t>(n)); }

Floats random_floats(uint64_t seed, int64_t n, float low, float high) {
  test::Random random(seed);
  Floats x(static_cast<size_t>(n));
  for (float& value : x) value = random.uniform(low, high);
  return x;
}

Tokens random_tokens(uint64_t seed, int64_t n, int64_t vocabulary) {
  test::Random random(seed);
  Tokens x(static_cast<size_t>(n));
  for (int32_t& token : x) token = static_cast<int32_t>(random.below(vocabulary));
  return x;
}

std::vector<int64_t> sample(int64_t n, int64_t count) {
  std::vector<int64_t> indices;
  if (n <= count) {
    for (int64_t i = 0; i < n; ++i) indices.push_back(i);
    return indices;
  }
  test::Random random(static_cast<uint64_t>(n));
  indices = {0, n - 1};
  while (static_cast<int64_t>(indices.size()) < count) indices.push_back(random.below(n));
  return indices;
}

void Findings::near(const char* what, int64_t index, double got, double expected, double bound) {
  if (std::fabs(got - expected) <= bound || !text_.empty()) return;
  text_ =
      fmt::format("wrong result: {}[{}] is {}, expected {} within {:.3g}", what, index, got, expected, bound);
}

void Findings::same_bytes(const char* what, int64_t row, const void* got, const void* expected,
                          int64_t bytes) {
  if (!text_.empty() || std::memcmp(got, expected, static_cast<size_t>(bytes)) == 0) return;
  text_ = fmt::format("wrong result: row {} of {} differs from the reference", row, what);
}

double Machine::peak(const std::string& isa, Precision precision) {
  if (!measured_) return 0;
  const auto [found, missing] = peaks_.try_emplace({isa, precision});
  // oneDNN's is that of the best instruction set.
  if (missing) found->second = measure_peak_flops(threads_, precision, isa == Suite::onednn ? "" : isa);
  return found->second;
}

double Machine::bandwidth() {
  if (!measured_) return 0;
  if (bandwidth_ < 0) bandwidth_ = measure_read_bandwidth(threads_, measured_bytes);
  return bandwidth_;
}

Suite::Suite(const Machine& machine, const std::vector<std::string>& isas) : machine_(machine) {
  for (const std::string& isa : isas)
    targets_.push_back({isa.empty() ? "reference" : isa, make_cpu_backend(machine.threads(), isa)});
  if (!onednn_version().empty()) targets_.push_back({onednn, make_onednn_backend(machine.threads())});
}

void Suite::measure_roofs(const std::string& filter) {
  const double bandwidth = machine_.bandwidth();
  benchmark::AddCustomContext("bandwidth_gbs", fmt::format("{:.2f}", bandwidth * 1e-9));
  std::map<std::string, double> peaks;
  for (const auto& entry : entries_) {
    if (!picks(filter, entry->name + "/real_time")) continue;  // as Google Benchmark calls it
    const std::string key =
        fmt::format("peak_gflops/{}/{}", entry->target->isa, precision_name(entry->c.precision));
    peaks[key] = machine_.peak(entry->target->isa, entry->c.precision);
  }
  for (const auto& [key, peak] : peaks) benchmark::AddCustomContext(key, fmt::format("{:.2f}", peak * 1e-9));
}

// Twice the caches' size lies between two uses of the same operands.
size_t Suite::copies(bool cold, int64_t bytes) {
  return cold ? static_cast<size_t>(2 * cache_bytes() / std::max<int64_t>(1, bytes) + 2) : 1;
}

void Suite::enlist(const std::string& name, std::function<void(benchmark::State&)> run) {
  using Times = std::vector<double>;
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))
      ->UseRealTime()
      ->ComputeStatistics("q1", [](const Times& x) { return quantile(x, 0.25); })
      ->ComputeStatistics("q3", [](const Times& x) { return quantile(x, 0.75); });
}

void Suite::report(benchmark::State& state, const Entry& entry) {
  using benchmark::Counter;
  const Cost& cost = entry.c.cost;
  const auto a_second = [](double per_call) { return Counter(per_call, Counter::kIsIterationInvariantRate); };
  state.counters["GFLOP/s"] = a_second(cost.flops * 1e-9);
  state.counters["GB/s"] = a_second(cost.bytes * 1e-9);
  state.counters["flops"] = cost.flops;
  state.counters["bytes"] = cost.bytes;
  const double peak = machine_.peak(entry.target->isa, entry.c.precision), bandwidth = machine_.bandwidth();
  if (peak <= 0 || bandwidth <= 0) return;
  state.counters["roofline"] = a_second(100 * std::max(cost.flops / peak, cost.bytes / bandwidth));
}

}  // namespace gladius::bench
