// What `gladius train` shows while it runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "cli/terminal.h"
#include "train/trainer.h"

namespace gladius::cli {

// A line with loss, speed and time left: redrawn on a terminal, elsewhere one line now and then.
class TrainProgress {
 public:
  // peak: tokens a second if the processor only multiplied and added, 0 when unknown; what is reached of it
  // is shown as MFU (model FLOPs utilisation, Chowdhery et al. 2022, arXiv:2204.02311).
  TrainProgress(int64_t total_steps, int64_t first_step, double peak);
  TrainEvents events();
  void finish(const TrainState& state);

 private:
  using Clock = std::chrono::steady_clock;
  void on_step(const StepReport& report);
  void on_validation(const ValidationReport& report);
  void clear_line();
  std::string speed() const;

  int64_t total_steps_, first_step_;
  double peak_;
  bool terminal_, line_shown_ = false;
  double loss_ = 0, weight_ = 0;  // running mean, each older step counting 0.95 times as much
  double seconds_ = 0;            // in steps, since the start
  int64_t targets_ = 0;
  Clock::time_point start_, last_;
  std::optional<Progress> validating_;
};

}  // namespace gladius::cli
