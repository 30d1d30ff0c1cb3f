// What people see: sizes, durations, a progress line; and Ctrl-C.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

namespace gladius::cli {

// Prints to standard error what is no result. A line that cannot be printed (a closed terminal) stops
// nothing.
template <class... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  std::fputs(fmt::format(format, std::forward<Args>(args)...).c_str(), stderr);
}

// Prints a result to standard output, at once.
void print(std::string_view text);

std::string human_bytes(uint64_t bytes);    // "2.31 GiB"
std::string human_seconds(double seconds);  // "3 min 20 s"
std::string grouped(int64_t number);        // "124,668,672"

// One line on standard error that shows how far something is, from two seconds on: "encoding 37 %, 12 s
// left". On a terminal it is redrawn, elsewhere printed every half minute.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress() { done(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(uint64_t done, uint64_t total, const std::string& detail = {});
  void done();  // removes the line

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_, last_;
};

// Set by Ctrl-C (SIGINT), SIGTERM and SIGHUP once catch_interrupts() was called; a second signal ends the
// program at once. Signals that the program was started to ignore (nohup) stay ignored.
void catch_interrupts();
const std::atomic<bool>& interrupted();
inline constexpr int kInterruptedExit = 130;  // 128 + SIGINT, as shells count
void stop_if_interrupted();                   // ends the command with that code

// While it lives, Ctrl-C sets interrupted() and ends nothing else; a second one ends the program. Before and
// after, Ctrl-C does what it did.
class InterruptibleWork {
 public:
  InterruptibleWork();
  ~InterruptibleWork();
  InterruptibleWork(const InterruptibleWork&) = delete;
  InterruptibleWork& operator=(const InterruptibleWork&) = delete;

 private:
  void (*previous_)(int);
};

}  // namespace gladius::cli
