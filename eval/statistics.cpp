#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace gladius {
namespace {

double plain_mean(std::span<const double> samples) {
  double sum = 0;
  for (const double x : samples) sum += x;
  return sum / static_cast<double>(samples.size());
}

}  // namespace

// About the mean rather than by E[xy] - E[x]E[y], which loses digits where both are nearly equal.
double covariance_of_means(std::span<const double> x, std::span<const double> y) {
  const double n = static_cast<double>(x.size()), mean_x = plain_mean(x), mean_y = plain_mean(y);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - mean_x) * (y[i] - mean_y);
  return sum / n / (n - 1);
}

Estimate mean_of(std::span<const double> samples) {
  return {plain_mean(samples), std::sqrt(covariance_of_means(samples, samples))};
}

double percentile(std::span<const double> sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place), above = std::min(below + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(below);
  return (1 - part) * sorted[below] + part * sorted[above];
}

}  // namespace gladius
