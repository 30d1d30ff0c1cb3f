#include <fmt/format.h>

#include <fstream>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "export/loaded_model.h"
#include "kernels/cpu/isas.h"

namespace gladius::cli {
namespace {

// The value of the first "key: value" line of a /proc file; empty when there is none.
std::string proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? std::string() : line.substr(begin);
  }
  return {};
}

std::string memory_line(const std::string& key) {
  const std::string value = proc_value("/proc/meminfo", key);
  return value.empty() ? "unknown" : human_bytes(std::strtoull(value.c_str(), nullptr, 10) * 1024);
}

void report() {
  const std::string cpu = proc_value("/proc/cpuinfo", "model name");
  const auto backend = make_cpu_backend(available_threads());
  const char* forced = std::getenv("GLADIUS_ISA");
  fmt::print("gladius {}\n", version());
  fmt::print("CPU        {}\n", cpu.empty() ? "unknown model" : cpu);
  fmt::print("threads    {} (processors that this process may use)\n", backend->threads());
  fmt::print("memory     {} in all, {} available\n", memory_line("MemTotal"), memory_line("MemAvailable"));
  fmt::print("backend    {}, {}\n", backend->name(),
             forced ? "forced by GLADIUS_ISA" : "the best instruction set that this CPU runs");
  fmt::print("           {} of working memory\n", human_bytes(backend->scratch_bytes()));
  fmt::print("instruction sets\n");
  for (const cpu::Isa& isa : cpu::cpu_isas()) {
    fmt::print("  {:<13}{}\n", isa.name, isa.runnable ? "runs here" : isa.reason);
  }
  if (cpu::cpu_isas().empty())
    fmt::print("  none for this kind of CPU: the plain reference kernels are used\n");
  fmt::print("other backends\n  cuda         not built\n  onednn       not built\n");
}

}  // namespace

void add_doctor(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("doctor", "Shows the CPU, the instruction set chosen and why, threads and memory");
  command->footer("Example:\n  gladius doctor\n  GLADIUS_ISA=avx2 gladius doctor");
  command->callback(report);
}

}  // namespace gladius::cli
