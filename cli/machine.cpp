#include "cli/machine.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

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

// Cores of which the mask holds a processor. The system lists the processors of each core; where it does not
// say, each counts as a core.
int physical_cores(const cpu_set_t& mask) {
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<size_t>(cpu), &mask)) continue;
    std::ifstream in(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string siblings;
    if (!std::getline(in, siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

// Time per period of a group, in processors; 0: no limit. Version 2 of control groups has both in one file,
// with "max" for no limit, version 1 in two, with -1.
double group_quota(const std::filesystem::path& group) {
  double quota = 0, period = 0;
  if (std::ifstream both(group / "cpu.max"); both >> quota >> period) return period > 0 ? quota / period : 0;
  std::ifstream quota_file(group / "cpu.cfs_quota_us"), period_file(group / "cpu.cfs_period_us");
  if (quota_file >> quota && period_file >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

// The least quota of this process's control group and those above it (cgroups(7)).
double processor_quota() {
  double least = 0;
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/path", or "4:cpu,cpuacct:/path" in version 1
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
    const std::filesystem::path root = controllers == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::filesystem::path group = line.substr(second + 1);; group = group.parent_path()) {
      const double quota = group_quota(root / group.relative_path());
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      if (group.relative_path().empty()) break;
    }
  }
  return least;
}

uint64_t memory(const char* key) {  // the file counts in KiB
  return std::strtoull(proc_value("/proc/meminfo", key).c_str(), nullptr, 10) * 1024;
}

}  // namespace

std::string cpu_model() { return proc_value("/proc/cpuinfo", "model name"); }

int Processors::threads() const {
  const int granted = quota > 0 ? static_cast<int>(std::ceil(quota)) : cores;
  return std::max(1, std::min({allowed, cores, granted}));
}

Processors processors() {
  Processors found{};
  cpu_set_t mask;
  if (::sched_getaffinity(0, sizeof mask, &mask) == 0) {
    found.allowed = CPU_COUNT(&mask);
    found.cores = physical_cores(mask);
  } else {
    found.allowed = found.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  found.quota = processor_quota();
  return found;
}

double busy_processors() {
  double load = 0;  // of the last minute
  std::ifstream("/proc/loadavg") >> load;
  return load;
}

uint64_t total_memory() { return memory("MemTotal"); }
uint64_t available_memory() { return memory("MemAvailable"); }

}  // namespace gladius::cli
