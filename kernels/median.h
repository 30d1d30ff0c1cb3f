// The median of measured values.
#pragma once

#include <algorithm>
#include <vector>

namespace gladius {

// The mean of the two middle ones of an even number of values. There must be one.
inline double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return (x[x.size() / 2] + x[(x.size() - 1) / 2]) / 2;
}

}  // namespace gladius
