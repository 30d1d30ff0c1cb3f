// The only place that knows how work reaches threads (OpenMP).
#pragma once

#include <omp.h>

#include <cstdint>
#include <vector>

namespace gladius {

// Runs f(task, worker) for every task in [0, tasks); worker in [0, threads) tells whose scratch memory to
// use. Which worker runs which task is not fixed, so f's result may depend on the task alone. A worker takes
// `at_once` neighbouring tasks at a time.
template <class F>
void parallel_tasks(int threads, int64_t tasks, F&& f, int64_t at_once = 1) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, at_once) num_threads(threads)
  for (int64_t task = 0; task < tasks; ++task) f(task, omp_get_thread_num());
}

// Runs f(begin, end) over [0, n) in chunks of `grain`, whose borders depend on n and grain only.
template <class F>
void parallel_ranges(int threads, int64_t n, int64_t grain, F&& f) {
  parallel_tasks(threads, (n + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t begin = task * grain;
    f(begin, begin + grain < n ? begin + grain : n);
  });
}

// The processors over which OpenMP binds its threads, if it was told to (OMP_PROC_BIND, OMP_PLACES); else
// none. It binds the first thread, too, whose affinity then says nothing about the process.
std::vector<int> bound_processors();

// Lets the calling thread run on all of them: for a program that it starts in its place, whose OpenMP would
// else take the one processor that this one is bound to for all that there is.
void unbind_thread();

// From now on thread i of `threads` runs on processors[i % size] only. OpenMP keeps its threads. Threads that
// the calling one starts by other means inherit its processor. False where the system refuses, or without
// processors.
bool pin_threads(int threads, const std::vector<int>& processors);

// While it lives, OpenMP's setting for the calling thread is `threads`: for libraries that follow the
// setting.
class ThreadSetting {
 public:
  explicit ThreadSetting(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadSetting() { omp_set_num_threads(before_); }
  ThreadSetting(const ThreadSetting&) = delete;
  ThreadSetting& operator=(const ThreadSetting&) = delete;

 private:
  int before_;
};

}  // namespace gladius
