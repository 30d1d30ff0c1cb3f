// Means with their errors, and percentiles.
#pragma once

#include <span>

namespace gladius {

struct Estimate {
  double value = 0, error = 0;  // standard error; not a number where it takes more samples to know
};

// The mean of n samples; error = sqrt((E[x²] - E[x]²) / (n - 1)).
Estimate mean_of(std::span<const double> samples);

// Covariance of the means of two series of n pairs: (E[xy] - E[x]E[y]) / (n - 1).
double covariance_of_means(std::span<const double> x, std::span<const double> y);

// Of values in ascending order, at least one: linearly interpolated at place fraction * (n - 1), fraction in
// [0, 1].
double percentile(std::span<const double> sorted, double fraction);

}  // namespace gladius
