#include "cli/precision.h"

#include "cli/terminal.h"
#include "train/plan.h"

namespace gladius::cli {

void add_precision_option(CLI::App& command, std::string& precision) {
  command
      .add_option("--precision", precision,
                  "Of matrix products: fp32; bf16, faster where the CPU has instructions for it "
                  "(weights, moments and sums stay fp32); or auto, the faster one here")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}))
      ->capture_default_str();
}

Precision choose_precision(const std::string& name, const Config& config, int64_t batch, int64_t context,
                           Backend& backend) {
  if (name == precision_name(Precision::bf16)) return Precision::bf16;
  if (name == precision_name(Precision::fp32)) return Precision::fp32;
  const PrecisionTimes times = measure_precisions(config, batch, context, backend);
  const Precision chosen = times.faster();
  note("precision {}: bf16 products take {:.2f} times as long as fp32 ones here\n", precision_name(chosen),
       times.bf16 / times.fp32);
  return chosen;
}

}  // namespace gladius::cli
