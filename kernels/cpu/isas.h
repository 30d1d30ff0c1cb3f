// Which instruction sets this build holds and which of them this CPU runs.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace gladius::cpu {

struct Isa {
  const char* name;
  bool runnable;                  // the CPU and the operating system support it
  const char* reason;             // why not, e.g. "the CPU lacks AVX512_VNNI"; empty when runnable
  const KernelTable& (*table)();  // call it only when runnable
  // The CPU starts an instruction for pairs of BF16 as often as a multiply-add of floats. AMD's do; Intel's
  // take so much longer that widening comes out ahead.
  bool quick_bf16 = false;
};

// In order from the plainest to the best; empty on a CPU family without kernels.
const std::vector<Isa>& cpu_isas();

// The one of that name; for an empty name what the environment variable GLADIUS_ISA says, else the best that
// this CPU runs. There must be one. Throws std::invalid_argument for a name that is unknown or that this CPU
// cannot run.
const Isa& choose_isa(std::string_view name);

}  // namespace gladius::cpu
