// What this machine can do at most, measured: what speeds are compared with.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/backend.h"

namespace gladius {

// Floating-point operations a second (two for each multiply-add) of `threads` threads that only multiply and
// add in registers, the best of several tries of some milliseconds. isa as for make_cpu_backend. 0 on a CPU
// family without kernels.
double measure_peak_flops(int threads, Precision precision, std::string_view isa = {});

// Bytes a second that `threads` threads read from memory, the median of several passes over `bytes`, which
// should be far more than the caches hold. (Unlike the arithmetic units, memory is shared with other
// programs: nothing keeps what it does at its best moment.) Allocates them; 0 when there is no room, or on a
// CPU family without kernels.
double measure_read_bandwidth(int threads, int64_t bytes, std::string_view isa = {});

}  // namespace gladius
