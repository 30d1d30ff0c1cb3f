// Speed of every kernel on every instruction set that this CPU runs, beside what the machine can do.
//
// Names are OPERATION/ISA/[TYPE/]SHAPE[/cold]. First the peak of arithmetic and the bandwidth of memory are
// measured with the same threads. A result says GFLOP/s, GB/s, and which share of the faster of these two
// bounds was reached (roofline): more than 100 % is possible where operands stay in the caches, or where
// products with quantised weights are made with faster instructions than those of floats. Before a case is
// timed, its first result is compared with the definition; a wrong one is not timed, and the exit code is 1.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>

#include "bench/bench_support.h"
#include "bench/build_info.h"
#include "cli/machine.h"
#include "kernels/cpu/isas.h"

namespace gladius::bench {
namespace {

struct Options {
  int threads = 1;
  std::string isa;
  bool check = false;
  std::vector<std::string> others;  // Google Benchmark's
  bool list() const { return has("--benchmark_list_tests"); }
  bool own_format() const { return has("--benchmark_format"); }
  bool has(const std::string& start) const {
    return std::any_of(others.begin(), others.end(), [&](const auto& o) { return o.rfind(start, 0) == 0; });
  }
};

std::vector<std::string> chosen_isas(const Options& o) {
  std::vector<std::string> names;
  if (cpu::cpu_isas().empty()) return {""};
  if (!o.isa.empty()) return {cpu::choose_isa(o.isa == "best" ? "" : o.isa).name};
  for (const cpu::Isa& isa : cpu::cpu_isas())
    if (isa.runnable) names.emplace_back(isa.name);
  return names;
}

// One line a case: the median with the quartiles of its repetitions.
class Lines : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context& context) override {
    PrintBasicContext(&GetErrorStream(), context);
    GetOutputStream() << fmt::format("{:<58} {:>12} {:>21} {:>9} {:>7} {:>8}\n", "benchmark", "median",
                                     "quartiles", "GFLOP/s", "GB/s", "roofline");
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    const Run *median = nullptr, *low = nullptr, *high = nullptr;
    for (const Run& run : runs) {
      if (run.run_type == Run::RT_Iteration && !median) median = &run;  // the only one, or one that failed
      if (run.aggregate_name == "median") median = &run;
      if (run.aggregate_name == "q1") low = &run;
      if (run.aggregate_name == "q3") high = &run;
    }
    if (!median) return;
    std::string name = median->run_name.str();
    if (const size_t end = name.find("/real_time"); end != std::string::npos) name.resize(end);
    if (median->counters.empty()) {
      GetOutputStream() << fmt::format("{:<58} WRONG RESULT\n", name);
      return;
    }
    const std::string quartiles = low && high ? time(*low) + " to " + time(*high) : "";
    GetOutputStream() << fmt::format("{:<58} {:>12} {:>21} {:>9} {:>7} {:>8}\n", name, time(*median),
                                     quartiles, counter(*median, "GFLOP/s"), counter(*median, "GB/s"),
                                     counter(*median, "roofline", "%"))
                      << std::flush;
  }

 private:
  static std::string time(const Run& run) {
    const double seconds = run.GetAdjustedRealTime() / benchmark::GetTimeUnitMultiplier(run.time_unit);
    if (seconds < 1e-3) return fmt::format("{:.2f} us", seconds * 1e6);
    return seconds < 1 ? fmt::format("{:.2f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
  }
  static std::string counter(const Run& run, const char* name, const char* unit = "") {
    const auto found = run.counters.find(name);
    return found == run.counters.end() ? "-" : fmt::format("{:.1f}{}", found->second.value, unit);
  }
};

void add_context(int threads) {
  std::string governor = "unknown", cpu = cli::cpu_model();
  std::ifstream("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") >> governor;
  benchmark::AddCustomContext("cpu", cpu.empty() ? "unknown" : cpu);
  benchmark::AddCustomContext("governor", governor.empty() ? "unknown" : governor);
  benchmark::AddCustomContext("threads", std::to_string(threads));
  benchmark::AddCustomContext("gladius", build_info.version);
  benchmark::AddCustomContext("commit", build_info.commit);
  benchmark::AddCustomContext("compiler", build_info.compiler);
  benchmark::AddCustomContext("flags", build_info.flags);
}

// Ours first, so that those that were given count. Google Benchmark keeps a pointer to the program's name.
void initialize_benchmark(std::vector<std::string>& arguments) {
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, pointers.data());
  if (count > 1) throw CLI::ExtrasError({pointers[1]});
}

// Memory that is freed is used again rather than given back: copies of operands would otherwise cost more in
// page faults than in copying.
void keep_freed_memory() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

int run(const Options& o, const char* program) {
  keep_freed_memory();
  std::vector<std::string> arguments = {program, "--benchmark_display_aggregates_only=true"};
  if (o.check)
    arguments.insert(arguments.end(), {"--benchmark_repetitions=1", "--benchmark_min_time=0.000001"});
  else
    arguments.insert(arguments.end(), {"--benchmark_repetitions=5", "--benchmark_min_time=0.05"});
  arguments.insert(arguments.end(), o.others.begin(), o.others.end());
  Suite suite(Machine(o.threads, !o.check), chosen_isas(o));
  add_products(suite);
  add_attention(suite);
  add_loss(suite);
  add_rows(suite);
  add_elementwise(suite);
  add_conversions(suite);
  initialize_benchmark(arguments);
  if (!o.list()) {
    add_context(o.threads);
    if (!o.check) suite.measure_roofs(benchmark::GetBenchmarkFilter());
  }
  Lines lines;
  const size_t matched = o.list() || o.own_format() ? benchmark::RunSpecifiedBenchmarks()
                                                    : benchmark::RunSpecifiedBenchmarks(&lines);
  for (const auto& [name, text] : suite.wrong()) fmt::print(stderr, "kernels_bench: {}: {}\n", name, text);
  if (matched == 0) fmt::print(stderr, "kernels_bench: no benchmark's name matches the filter\n");
  return suite.wrong().empty() && matched > 0 ? 0 : 1;
}

constexpr const char* help =
    "Options of Google Benchmark also work, among them:\n"
    "  --benchmark_filter=REGEX          only these; '-REGEX' all others\n"
    "  --benchmark_list_tests            names, without running\n"
    "  --benchmark_out=FILE.json         all repetitions with context, for bench/roofline\n"
    "  --benchmark_repetitions=N         5 unless given\n"
    "  --benchmark_min_time=SECONDS      of a repetition, 0.05 unless given\n"
    "Names are OPERATION/ISA/[TYPE/]SHAPE[/cold]; shapes start with tiny_ (the tiny model) or odd_ (tails);\n"
    "/cold: operands come from memory. A filter sees them with /real_time at the end.";

}  // namespace
}  // namespace gladius::bench

int main(int argc, char** argv) {
  gladius::bench::Options o;
  CLI::App app("Times the kernels on every instruction set that this CPU runs, beside its roofline.");
  app.allow_extras();
  app.footer(gladius::bench::help);
  app.add_option("--threads", o.threads, "Threads of every kernel and of the roofs")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--isa", o.isa, "Only this instruction set, or \"best\"; default: all");
  app.add_flag("--check", o.check,
               "Only compare results with their definitions: one short run each, no roofs");
  try {
    app.parse(argc, argv);
    o.others = app.remaining();
    return gladius::bench::run(o, argv[0]);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "kernels_bench: {}\n", error.what());
    return 2;
  }
}
