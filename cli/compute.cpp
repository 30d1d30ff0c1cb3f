#include <sched.h>

#include <thread>

#include "cli/commands.h"
#include "engine/error.h"

namespace gladius::cli {

int available_threads() {
  cpu_set_t mask;
  if (::sched_getaffinity(0, sizeof mask, &mask) == 0) return CPU_COUNT(&mask);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void add_compute_options(CLI::App& command, ComputeOptions& options) {
  command.add_option("--device", options.device, "Where to compute: auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command
      .add_option("--threads", options.threads,
                  "Threads; 0: one for each processor that this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

std::unique_ptr<Backend> make_backend(const ComputeOptions& options) {
  if (options.device == "cuda") fail("this build has no CUDA backend; use --device cpu or auto");
  return make_cpu_backend(options.threads > 0 ? options.threads : available_threads());
}

}  // namespace gladius::cli
