#include "cli/train_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace gladius::cli {

TrainProgress::TrainProgress(int64_t total_steps, int64_t first_step, double peak)
    : total_steps_(total_steps),
      first_step_(first_step),
      peak_(peak),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

TrainEvents TrainProgress::events() {
  TrainEvents events;
  events.on_step = [this](const StepReport& report) { on_step(report); };
  events.on_validation_progress = [this](uint64_t done, uint64_t total) {
    if (!validating_) {
      clear_line();
      validating_.emplace("validating");
    }
    validating_->update(done, total);
  };
  events.on_validation = [this](const ValidationReport& report) { on_validation(report); };
  events.on_warning = [this](const std::string& message) {
    clear_line();
    note("{}\n", message);
  };
  return events;
}

void TrainProgress::on_step(const StepReport& report) {
  constexpr double kMemory = 0.95;
  if (std::isfinite(report.loss)) {
    loss_ = kMemory * loss_ + report.loss;
    weight_ = kMemory * weight_ + 1;
  }
  seconds_ += report.seconds;
  targets_ += report.targets;

  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  const bool last = report.step == total_steps_;
  if (!last && since < (terminal_ ? 0.2 : 10)) return;
  last_ = now;
  const double passed = std::chrono::duration<double>(now - start_).count();
  const double left = passed * static_cast<double>(total_steps_ - report.step) /
                      static_cast<double>(report.step - first_step_);
  const std::string line =
      fmt::format("step {}/{}  loss {:.4f}  lr {:.2e}  norm {:.2f}  {}  {} left", report.step, total_steps_,
                  loss_ / weight_, report.learning_rate, report.gradient_norm, speed(), human_seconds(left));
  note("{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ ? "" : "\n");
  std::fflush(stderr);
  line_shown_ = terminal_;
}

std::string TrainProgress::speed() const {
  const double tokens = seconds_ > 0 ? static_cast<double>(targets_) / seconds_ : 0;
  return fmt::format("{:.0f} tokens/s{}", tokens,
                     peak_ > 0 ? fmt::format(" ({:.0f} % MFU)", 100 * tokens / peak_) : std::string());
}

void TrainProgress::on_validation(const ValidationReport& report) {
  validating_.reset();
  clear_line();
  note("step {}: validation loss {:.4f} per token, {:.4f} per byte{}\n", report.step, report.loss,
       report.loss_per_byte, report.best ? ", the best so far" : "");
}

void TrainProgress::clear_line() {
  if (line_shown_) note("\n");
  line_shown_ = false;
}

void TrainProgress::finish(const TrainState& state) {
  clear_line();
  note("{} steps, {} tokens in all; {}\n", grouped(state.step), grouped(state.tokens_seen), speed());
}

}  // namespace gladius::cli
