#include "kernels/parallel.h"

#include <sched.h>

#include <atomic>

namespace gladius {
namespace {

// From now on the calling thread runs on these processors only. False where the system refuses.
bool run_on(const std::vector<int>& processors) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (const int processor : processors) CPU_SET(static_cast<size_t>(processor), &mask);
  return ::sched_setaffinity(0, sizeof mask, &mask) == 0;  // 0: the calling thread
}

}  // namespace

std::vector<int> bound_processors() {
  std::vector<int> all;
  if (omp_get_proc_bind() == omp_proc_bind_false) return all;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> some(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, some.data());
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

void unbind_thread() {
  const std::vector<int> processors = bound_processors();
  if (!processors.empty()) run_on(processors);
}

bool pin_threads(int threads, const std::vector<int>& processors) {
  std::atomic<bool> all_pinned = !processors.empty();
  if (!all_pinned) return false;
#pragma omp parallel num_threads(threads)
  {
    const auto i = static_cast<size_t>(omp_get_thread_num());
    if (!run_on({processors[i % processors.size()]})) all_pinned = false;
  }
  return all_pinned;
}

}  // namespace gladius
