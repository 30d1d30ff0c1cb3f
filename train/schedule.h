// The learning rate of each optimiser step: linear warm-up, then half a cosine down to a floor
// (Loshchilov & Hutter 2017, "SGDR", without restarts).
#pragma once

#include <cstdint>

namespace gladius {

// A pure function of the step, counted from 0:
//   step <  warmup_steps:  peak · (step + 1) / warmup_steps
//   step >= total_steps:   floor
//   otherwise:             floor + (peak - floor) · (1 + cos(pi · (step - warmup_steps) / (total_steps -
//   warmup_steps))) / 2
// So the last step of the warm-up and the first step after it both run at `peak`.
struct Schedule {
  double peak = 1e-3;
  double floor = 1e-4;
  int64_t warmup_steps = 0;
  int64_t total_steps = 1;

  double learning_rate(int64_t step) const;
  bool operator==(const Schedule&) const = default;
};

// Throws Error naming the value: a rate that is negative or not finite, floor > peak, warmup_steps outside
// [0, total_steps], total_steps < 1.
void validate(const Schedule& schedule);

}  // namespace gladius
