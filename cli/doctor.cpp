#include <fmt/format.h>

#include <cstdlib>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "export/loaded_model.h"
#include "kernels/cpu/isas.h"

namespace gladius::cli {
namespace {

std::string memory_text(uint64_t bytes) { return bytes == 0 ? "unknown" : human_bytes(bytes); }

void report() {
  const std::string cpu = cpu_model();
  const auto backend = make_cpu_backend(available_threads());
  const char* forced = std::getenv("GLADIUS_ISA");
  fmt::print("gladius {}\n", version());
  fmt::print("CPU        {}\n", cpu.empty() ? "unknown model" : cpu);
  fmt::print("threads    {} (processors that this process may use)\n", backend->threads());
  fmt::print("memory     {} in all, {} available\n", memory_text(total_memory()),
             memory_text(available_memory()));
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
