#include "cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "cli/commands.h"

namespace gladius::cli {
namespace {

// A signal handler can only reach what is global.
std::atomic<bool> interrupt_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int signal) {
  if (interrupt_flag.exchange(true)) std::_Exit(128 + signal);
  constexpr char kMessage[] = "\nstopping as soon as the work in hand is done; once more to stop at once\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
}

void on_signal_quietly(int signal) {
  if (interrupt_flag.exchange(true)) std::_Exit(128 + signal);
}

void catch_signal(int signal) {
  if (std::signal(signal, on_signal) == SIG_IGN) std::signal(signal, SIG_IGN);
}

}  // namespace

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string human_bytes(uint64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b < 1024) return fmt::format("{} bytes", bytes);
  if (b < 1024.0 * 1024) return fmt::format("{:.1f} KiB", b / 1024);
  if (b < 1024.0 * 1024 * 1024) return fmt::format("{:.1f} MiB", b / (1024.0 * 1024));
  return fmt::format("{:.2f} GiB", b / (1024.0 * 1024 * 1024));
}

std::string human_seconds(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  if (s < 48 * 3600) return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
  return fmt::format("{} days {} h", s / 86400, s / 3600 % 24);
}

std::string grouped(int64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const size_t left = digits.size() - i;  // digits from here on
    if (left % 3 == 0 && i > (number < 0 ? 1u : 0u)) text += ',';
    text += digits[i];
  }
  return text;
}

Progress::Progress(std::string what)
    : what_(std::move(what)), terminal_(::isatty(STDERR_FILENO) == 1), start_(Clock::now()), last_(start_) {}

void Progress::update(uint64_t done, uint64_t total, const std::string& detail) {
  const auto now = Clock::now();
  const double passed = std::chrono::duration<double>(now - start_).count();
  const double since = std::chrono::duration<double>(now - last_).count();
  if (passed < 2 || since < (terminal_ ? 0.2 : 30) || total == 0) return;
  last_ = now;
  const double part = static_cast<double>(done) / static_cast<double>(total);
  const std::string left = part > 0 ? human_seconds(passed * (1 - part) / part) + " left" : std::string();
  const std::string line =
      fmt::format("{} {:.0f} %, {}{}{}", what_, 100 * part, left, detail.empty() ? "" : ", ", detail);
  note("{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ ? "" : "\n");
  std::fflush(stderr);
  shown_ = true;
}

void Progress::done() {
  if (shown_ && terminal_) note("\r\033[K");
  shown_ = false;
}

void catch_interrupts() {
  catch_signal(SIGINT);
  catch_signal(SIGTERM);
  catch_signal(SIGHUP);
}

InterruptibleWork::InterruptibleWork() : previous_(std::signal(SIGINT, on_signal_quietly)) {
  if (previous_ == SIG_IGN) std::signal(SIGINT, SIG_IGN);
}

InterruptibleWork::~InterruptibleWork() {
  std::signal(SIGINT, previous_);
  interrupt_flag = false;
}

void stop_if_interrupted() {
  if (interrupted().load()) throw Exit{kInterruptedExit};
}

const std::atomic<bool>& interrupted() { return interrupt_flag; }

}  // namespace gladius::cli
