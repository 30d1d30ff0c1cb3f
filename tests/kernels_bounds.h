// Error bounds, random numbers and arrays with guards, for whoever compares a kernel with its definition.
//
// Bounds are derived, not measured. With the unit roundoff u = 2^-24, a float sum of n products in any order
// is off by at most (n + 1) u sum |a b| / (1 - (n + 1) u) (Higham 2002, section 3.1); each further operation
// adds one u. The kernels' exponential is allowed 4 u. The expected values come from the same formulas in
// double, whose own error is negligible.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace gladius::test {

inline constexpr double unit_roundoff = 0x1p-24;
inline constexpr double exp_error = 4 * unit_roundoff;

// (n u) / (1 - n u): the relative error of n roundings in sequence.
inline double roundings(double n) { return n * unit_roundoff / (1 - n * unit_roundoff); }

// A reproducible stream of numbers (SplitMix64, Steele et al. 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

// n floats between two guards, the first of them `misalign` floats past a cache line.
class Array {
 public:
  explicit Array(int64_t n, int64_t misalign = 0, float value = 0.0f)
      : n_(n),
        first_(guard + misalign),
        memory_(static_cast<size_t>(n + 2 * guard + misalign + 16), guard_value) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float) % 16;
    first_ += static_cast<int64_t>((16 - address) % 16);
    for (int64_t i = 0; i < n_; ++i) data()[i] = value;
  }
  Array(Random& random, int64_t n, int64_t misalign = 0, float low = -1.0f, float high = 1.0f)
      : Array(n, misalign) {
    for (int64_t i = 0; i < n; ++i) data()[i] = random.uniform(low, high);
  }

  float* data() { return memory_.data() + first_; }
  const float* data() const { return memory_.data() + first_; }
  int64_t size() const { return n_; }
  float& operator[](int64_t i) { return data()[i]; }
  float operator[](int64_t i) const { return data()[i]; }
  operator float*() { return data(); }
  operator const float*() const { return data(); }

  std::vector<double> wide() const { return {data(), data() + n_}; }
  std::vector<double> magnitudes() const {
    std::vector<double> x = wide();
    for (double& v : x) v = std::fabs(v);
    return x;
  }
  bool guards_intact() const {
    for (int64_t i = 0; i < static_cast<int64_t>(memory_.size()); ++i)
      if ((i < first_ || i >= first_ + n_) && memory_[static_cast<size_t>(i)] != guard_value) return false;
    return true;
  }
  bool same_bits(const Array& other) const {
    return n_ == other.n_ &&
           (n_ == 0 || std::memcmp(data(), other.data(), static_cast<size_t>(n_) * sizeof(float)) == 0);
  }

 private:
  static constexpr int64_t guard = 32;
  static constexpr float guard_value = -12345.678f;
  int64_t n_, first_;
  std::vector<float> memory_;
};

// Expected values with the error that each may have.
struct Expected {
  std::vector<double> value, bound;
  explicit Expected(int64_t n) : value(static_cast<size_t>(n)), bound(static_cast<size_t>(n)) {}
};

}  // namespace gladius::test
