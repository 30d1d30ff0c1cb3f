#include "train/schedule.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "engine/error.h"

using gladius::Schedule;

TEST_CASE("the schedule warms up, decays along a cosine and ends at its floor") {
  const Schedule s{8e-3, 1e-3, 4, 12};
  gladius::validate(s);
  CHECK(s.learning_rate(0) == 2e-3);  // 8e-3 / 4
  CHECK(s.learning_rate(1) == 4e-3);
  CHECK(s.learning_rate(3) == 8e-3);  // the last warm-up step
  CHECK(s.learning_rate(4) == 8e-3);  // cos 0
  // One, two and three quarters of the way: floor + 7e-3 · (1 + cos) / 2, with cosines known in closed form.
  const double epsilon =
      4 * std::numeric_limits<double>::epsilon() * 8e-3;  // a handful of roundings of values <= 8e-3
  CHECK(std::abs(s.learning_rate(6) - (1e-3 + 3.5e-3 * (1 + std::numbers::sqrt2 / 2))) <= epsilon);
  CHECK(std::abs(s.learning_rate(8) - 4.5e-3) <= epsilon);
  CHECK(std::abs(s.learning_rate(10) - (1e-3 + 3.5e-3 * (1 - std::numbers::sqrt2 / 2))) <= epsilon);
  CHECK(s.learning_rate(12) == 1e-3);
  CHECK(s.learning_rate(1000000) == 1e-3);
}

TEST_CASE("the schedule rises to its peak, then never rises again, whatever its lengths") {
  for (int64_t total = 1; total <= 40; ++total) {
    for (int64_t warmup = 0; warmup <= total; ++warmup) {
      const Schedule s{1e-3, 1e-5, warmup, total};
      gladius::validate(s);
      for (int64_t step = 0; step <= total + 1; ++step) {
        const double rate = s.learning_rate(step);
        CHECK((rate > 0 && rate <= 1e-3));
        if (step > 0) {
          const double before = s.learning_rate(step - 1);
          if (step < warmup) CHECK(rate > before);
          if (step > warmup) CHECK(rate <= before);
        }
      }
    }
  }
}

TEST_CASE("a schedule that makes no sense is refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Schedule good{1e-3, 1e-4, 10, 100};
  const auto refused = [&](auto change) {
    Schedule s = good;
    change(s);
    CHECK_THROWS_AS(gladius::validate(s), gladius::Error);
  };
  CHECK_NOTHROW(gladius::validate(good));
  refused([&](Schedule& s) { s.peak = nan; });
  refused([&](Schedule& s) { s.peak = -1e-3; });
  refused([&](Schedule& s) { s.floor = nan; });
  refused([&](Schedule& s) { s.floor = -1; });
  refused([&](Schedule& s) { s.floor = 2e-3; });
  refused([&](Schedule& s) { s.warmup_steps = -1; });
  refused([&](Schedule& s) { s.warmup_steps = 101; });
  refused([&](Schedule& s) { s.total_steps = 0; });
}
