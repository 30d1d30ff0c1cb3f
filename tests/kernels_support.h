// What the kernel tests share: every instruction set that this machine runs, and assertions about whole
// arrays.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isas.h"
#include "tests/kernels_bounds.h"

namespace gladius::test {

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
      return f.gemm.run != before.gemm.run || f.gemm_bf16.run != before.gemm_bf16.run;
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
