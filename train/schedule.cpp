#include "train/schedule.h"

#include <cmath>
#include <numbers>

#include "engine/error.h"

namespace gladius {

double Schedule::learning_rate(int64_t step) const {
  if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (step >= total_steps) return floor;
  const double progress =
      static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps);
  return floor + (peak - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

void validate(const Schedule& s) {
  if (!std::isfinite(s.peak) || s.peak < 0) fail("the learning rate is {}; it must be 0 or more", s.peak);
  if (!std::isfinite(s.floor) || s.floor < 0)
    fail("the final learning rate is {}; it must be 0 or more", s.floor);
  if (s.floor > s.peak) fail("the final learning rate {} exceeds the learning rate {}", s.floor, s.peak);
  if (s.total_steps < 1) fail("the schedule has {} steps; it needs at least 1", s.total_steps);
  if (s.warmup_steps < 0 || s.warmup_steps > s.total_steps) {
    fail("{} warm-up steps do not fit a run of {} steps", s.warmup_steps, s.total_steps);
  }
}

}  // namespace gladius
