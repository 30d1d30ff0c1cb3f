// What the system says of this machine.
#pragma once

#include <cstdint>
#include <string>

namespace gladius::cli {

std::string cpu_model();      // empty when unknown
int available_threads();      // processors that this process may run on (its affinity mask)
uint64_t total_memory();      // bytes; 0 when unknown
uint64_t available_memory();  // bytes that a new program can use without swapping; 0 when unknown

}  // namespace gladius::cli
