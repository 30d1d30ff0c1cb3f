#include <fmt/format.h>

#include <cstdlib>
#include <set>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "export/loaded_model.h"
#include "kernels/cpu/isas.h"
#include "kernels/parallel.h"
#include "kernels/peak.h"

namespace gladius::cli {
namespace {

std::string memory_text(uint64_t bytes) { return bytes == 0 ? "unknown" : human_bytes(bytes); }

// Speeds that others can be compared with.
void measure(int most_threads) {
  for (const int threads : std::set{1, most_threads}) {
    fmt::print("{} {} thread{}: {:.1f} GFLOP/s fp32, {:.1f} bf16", threads == 1 ? "peak      " : "          ",
               threads, threads == 1 ? "" : "s", measure_peak_flops(threads, Precision::fp32) * 1e-9,
               measure_peak_flops(threads, Precision::bf16) * 1e-9);
    if (const double bandwidth = memory_bandwidth(threads); bandwidth > 0)
      fmt::print(", {:.1f} GB/s from memory", bandwidth * 1e-9);
    fmt::print("\n");
  }
}

void report(bool measures) {
  const std::string cpu = cpu_model();
  const Processors found = processors();
  const auto backend = make_cpu_backend(found.threads());
  const char* forced = std::getenv("GLADIUS_ISA");
  fmt::print("gladius {}\n", version());
  fmt::print("CPU        {}\n", cpu.empty() ? "unknown model" : cpu);
  fmt::print("threads    {}: of {} processor{} that this process may use, on {} core{}{}\n", found.threads(),
             found.allowed, found.allowed == 1 ? "" : "s", found.cores(), found.cores() == 1 ? "" : "s",
             found.quota > 0 ? fmt::format(", with time for {:.2g} by its control group", found.quota)
                             : ", without a limit on time");
  if (!bound_processors().empty()) fmt::print("           each kept on its processors by OMP_PROC_BIND\n");
  if (const double busy = busy_processors(); busy > 0.5)
    fmt::print("           {:.1f} processors were busy during the last minute: what runs beside slows both\n",
               busy);
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
  if (measures) measure(backend->threads());
  const std::string onednn = onednn_version();
  fmt::print("other backends\n  cuda         not built\n  onednn       {}\n",
             onednn.empty() ? "not built" : onednn + ", with --backend onednn");
}

}  // namespace

void add_doctor(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("doctor", "Shows the CPU, the instruction set chosen and why, threads and memory");
  command->footer("Example:\n  gladius doctor\n  GLADIUS_ISA=avx2 gladius doctor");
  auto measures = std::make_shared<bool>(false);
  command->add_flag("--measure", *measures, "Also measure the peak of multiply-adds and of reading memory");
  command->callback([measures] { report(*measures); });
}

}  // namespace gladius::cli
