// Which instruction sets this build holds and which of them this CPU runs.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace gladius::cpu {

struct Isa {
  const char* name;
  bool runnable;                  // the CPU and the operating system support it
  const char* reason;             // why not, e.g. "the CPU lacks AVX512_VNNI"; empty when runnable
  const KernelTable& (*table)();  // call it only when runnable
};

// In order from the plainest to the best; empty on a CPU family without kernels.
const std::vector<Isa>& cpu_isas();

}  // namespace gladius::cpu
