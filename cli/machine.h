// What the system says of this machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gladius::cli {

std::string cpu_model();  // empty when unknown

// What decides how many threads are of use.
struct Processors {
  int allowed;  // processors that this process may run on (its affinity mask)
  int cores() const { return static_cast<int>(of_cores.size()); }
  std::vector<int> of_cores;  // one processor of each physical core among them: two share its arithmetic
  double quota;               // processors' worth of time that control groups grant; 0: no limit
  int threads() const;        // the least of these, at least 1
};
Processors processors();

// Programs that ran or waited to run, on average over the last minute; 0 when unknown.
double busy_processors();

uint64_t total_memory();      // bytes; 0 when unknown
uint64_t available_memory();  // bytes that a new program can use without swapping; 0 when unknown

// Bytes a second that these threads read from memory, measured; 0 where that is unknown, or where there is
// too little memory to measure it.
double memory_bandwidth(int threads);

}  // namespace gladius::cli
