// What the kernel tests share: every instruction set that this machine runs, arrays with guards, and error
// bounds.
//
// Bounds are derived, not measured. With the unit roundoff u = 2^-24, a float sum of n products in any order
// is off by at most (n + 1) u sum |a b| / (1 - (n + 1) u) (Higham 2002, section 3.1); each further operation
// adds one u. The kernels' exponential is allowed 4 u. The expected values come from the same formulas in
// double, whose own error is negligible.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isas.h"

namespace gladius::test {

inline constexpr double unit_roundoff = 0x1p-24;
inline constexpr double exp_error = 4 * unit_roundoff;

// (n u) / (1 - n u): the relative error of n roundings in sequence.
inline double roundings(double n) { return n * unit_roundoff / (1 - n * unit_roundoff); }

// Set for emulators: sweeps take fewer and smaller shapes.
inline bool small_tests() {
  const char* value = std::getenv("GLADIUS_TEST_SMALL");
  return value && *value && std::string(value) != "0";
}

// The instruction sets to test: all that this CPU runs, or "" for the fallback on a CPU family without
// kernels.
inline std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const cpu::Isa& isa : cpu::cpu_isas())
    if (isa.runnable) names.emplace_back(isa.name);
  if (names.empty()) names.emplace_back("");
  return names;
}

// Those of them that bring floating-point kernels of their own rather than an earlier one's.
inline std::vector<std::string> float_isas() {
  const std::vector<cpu::Isa>& isas = cpu::cpu_isas();
  std::vector<std::string> names;
  for (size_t i = 0; i < isas.size(); ++i) {
    const auto own = [&] {
      const cpu::FloatKernels &f = isas[i].table().f, &before = isas[i - 1].table().f;
      return f.gemm != before.gemm || f.gemm_bf16 != before.gemm_bf16;
    };
    if (isas[i].runnable && (i == 0 || own())) names.emplace_back(isas[i].name);
  }
  return names.empty() ? runnable_isas() : names;
}

// Calls f(backend) for each of float_isas(). One thread: kernels_threads_test shows that more give the same
// bits.
template <class F>
void for_each_isa(F f, int threads = 1) {
  for (const std::string& isa : float_isas()) {
    CAPTURE(isa);
    const std::unique_ptr<Backend> backend = make_cpu_backend(threads, isa);
    f(*backend);
  }
}

// The same, and oneDNN's backend where it is built: for what the matrix products of every backend must do.
template <class F>
void for_each_gemm(F f) {
  for_each_isa(f);
  if (onednn_version().empty()) return;
  const std::unique_ptr<Backend> backend = make_onednn_backend(1);
  const std::string isa = backend->name();
  CAPTURE(isa);
  f(*backend);
}

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

// One assertion for a whole array: names the first element that is off, or whose guard was touched.
inline void check_close(const Array& got, const std::vector<double>& value,
                        const std::vector<double>& bound) {
  CHECK(got.guards_intact());
  REQUIRE(static_cast<size_t>(got.size()) == value.size());
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - value[i]);
    if (error <= bound[i]) continue;  // false for NaN
    INFO("element ", i, ": got ", got[i], ", expected ", value[i], " within ", bound[i], ", off by ", error);
    CHECK(false);
    return;
  }
}
inline void check_close(const Array& got, const Expected& expected) {
  check_close(got, expected.value, expected.bound);
}

}  // namespace gladius::test
