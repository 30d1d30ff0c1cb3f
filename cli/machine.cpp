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

#include "kernels/parallel.h"
#include "kernels/peak.h"

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

// Those that this process may run on.
std::vector<int> allowed_processors() {
  std::vector<int> allowed = bound_processors();
  cpu_set_t mask;
  if (allowed.empty() && ::sched_getaffinity(0, sizeof mask, &mask) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(static_cast<size_t>(cpu), &mask)) allowed.push_back(cpu);
  if (allowed.empty())
    for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu)
      allowed.push_back(static_cast<int>(cpu));
  return allowed;
}

// The first processor of each core. The system lists the processors of a core; where it does not say, each
// counts as one.
std::vector<int> one_of_each_core(const std::vector<int>& processors) {
  std::set<std::string> cores;
  std::vector<int> first;
  for (const int cpu : processors) {
    std::ifstream in(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string siblings;
    if (!std::getline(in, siblings)) siblings = std::to_string(cpu);
    if (cores.insert(siblings).second) first.push_back(cpu);
  }
  return first;
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

// Calls f(group) for this process's control group with that controller and for those above it (cgroups(7)).
template <class F>
void for_each_group(const std::string& controller, F f) {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/path", or "4:cpu,cpuacct:/path" in version 1
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers != ",," && controllers.find("," + controller + ",") == std::string::npos) continue;
    const std::filesystem::path root =
        controllers == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
    for (std::filesystem::path group = line.substr(second + 1);; group = group.parent_path()) {
      f(root / group.relative_path());
      if (group.relative_path().empty()) break;
    }
  }
}

// The least quota of those groups; 0: no limit.
double processor_quota() {
  double least = 0;
  for_each_group("cpu", [&](const std::filesystem::path& group) {
    const double quota = group_quota(group);
    if (quota > 0 && (least == 0 || quota < least)) least = quota;
  });
  return least;
}

// What a memory group uses, less the files that it has read, which give way.
uint64_t group_usage(const std::filesystem::path& group) {
  uint64_t used = 0, files = 0, value = 0;
  if (!(std::ifstream(group / "memory.current") >> used))  // version 2, or version 1
    std::ifstream(group / "memory.usage_in_bytes") >> used;
  std::ifstream stat(group / "memory.stat");
  for (std::string key; stat >> key >> value;)
    if (key == "inactive_file" || key == "active_file") files += value;
  return used - std::min(used, files);
}

// The least of `bytes` and of what control groups allow: their limits, less what they use if `unused`.
uint64_t within_groups(uint64_t bytes, bool unused) {
  for_each_group("memory", [&](const std::filesystem::path& group) {
    uint64_t limit = 0;  // "max" is no number
    if (!(std::ifstream(group / "memory.max") >> limit) &&
        !(std::ifstream(group / "memory.limit_in_bytes") >> limit))
      return;
    bytes = std::min(bytes, limit - (unused ? std::min(limit, group_usage(group)) : 0));
  });
  return bytes;
}

uint64_t memory(const char* key) {  // the file counts in KiB
  return std::strtoull(proc_value("/proc/meminfo", key).c_str(), nullptr, 10) * 1024;
}

}  // namespace

std::string cpu_model() { return proc_value("/proc/cpuinfo", "model name"); }

int Processors::threads() const {
  const int granted = quota > 0 ? static_cast<int>(std::ceil(quota)) : cores();
  return std::max(1, std::min({allowed, cores(), granted}));
}

Processors processors() {
  const std::vector<int> allowed = allowed_processors();
  return {static_cast<int>(allowed.size()), one_of_each_core(allowed), processor_quota()};
}

double busy_processors() {
  double load = 0;  // of the last minute
  std::ifstream("/proc/loadavg") >> load;
  return load;
}

uint64_t total_memory() { return within_groups(memory("MemTotal"), false); }
uint64_t available_memory() { return within_groups(memory("MemAvailable"), true); }

double memory_bandwidth(int threads) {
  constexpr int64_t bytes = int64_t{1} << 30;  // far more than caches hold
  return available_memory() > 2 * bytes ? measure_read_bandwidth(threads, bytes) : 0;
}

}  // namespace gladius::cli
