// Detecting and forcing instruction sets.
#include <stdexcept>

#include "kernels/peak.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// Sets an environment variable for a scope.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) {
      had_value_ = true;
      before_ = before;
    }
    setenv(name, value, 1);
  }
  ~ScopedEnvironment() {
    if (had_value_)
      setenv(name_, before_.c_str(), 1);
    else
      unsetenv(name_);
  }

 private:
  const char* name_;
  bool had_value_ = false;
  std::string before_;
};

TEST_CASE("the instruction sets of this machine") {
  std::string run, not_run;
  for (const cpu::Isa& isa : cpu::cpu_isas()) {
    CHECK(isa.runnable == std::string(isa.reason).empty());
    if (isa.runnable)
      run += std::string(" ") + isa.name;
    else
      not_run += std::string("\n  ") + isa.name + ": " + isa.reason;
  }
  if (not_run.empty()) not_run = " nothing";
  MESSAGE("tested:", run, "\nnot run here:", not_run);
  // The first one is every CPU's of its family, and a later one needs what the earlier ones need.
  bool earlier = true;
  for (const cpu::Isa& isa : cpu::cpu_isas()) {
    CHECK((earlier || !isa.runnable));
    earlier = isa.runnable;
  }
  if (!cpu::cpu_isas().empty()) CHECK(cpu::cpu_isas().front().runnable);
}

#if defined(__x86_64__)
// The compiler's own detection is a second opinion.
TEST_CASE("detection agrees with the compiler's") {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  for (const cpu::Isa& isa : cpu::cpu_isas()) {
    const std::string name = isa.name;
    if (name == "avx2") CHECK(isa.runnable == avx2);
    if (name == "avx512") CHECK(isa.runnable == avx512);
    if (name == "avx512_vnni") CHECK(isa.runnable == vnni);
  }
}
#endif

TEST_CASE("an instruction set can be forced, by argument and by environment") {
  for (const std::string& isa : runnable_isas()) {
    if (isa.empty()) continue;
    CHECK(make_cpu_backend(1, isa)->name() == "cpu (" + isa + ")");
    const ScopedEnvironment forced("GLADIUS_ISA", isa.c_str());
    CHECK(make_cpu_backend(1)->name() == "cpu (" + isa + ")");
    CHECK(make_cpu_backend(1, runnable_isas().front())->name() == "cpu (" + runnable_isas().front() + ")");
  }
  const ScopedEnvironment none("GLADIUS_ISA", "");
  if (!runnable_isas().back().empty())
    CHECK(make_cpu_backend(1)->name() == "cpu (" + runnable_isas().back() + ")");
}

TEST_CASE("a name that cannot run is refused, naming the choices") {
  const auto message = [](const std::string& isa) {
    try {
      make_cpu_backend(1, isa);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(message("avx3").find("avx3") != std::string::npos);
  if (cpu::cpu_isas().empty()) return;
  CHECK(message("avx3").find(cpu::cpu_isas().front().name) != std::string::npos);
  for (const cpu::Isa& isa : cpu::cpu_isas())
    if (!isa.runnable) CHECK(message(isa.name).find(isa.reason) != std::string::npos);
}

TEST_CASE("peaks are measured on every instruction set, none on an unknown one") {
  for (const std::string& isa : runnable_isas()) {
    if (isa.empty()) continue;
    for (const Precision precision : {Precision::fp32, Precision::bf16})
      CHECK(measure_peak_flops(2, precision, isa) > 0);
    CHECK(measure_read_bandwidth(2, 1 << 20, isa) > 0);
    CHECK(std::isfinite(cpu::choose_isa(isa).table().f.peak.multiply_adds(1000)));
    CHECK(std::isfinite(cpu::choose_isa(isa).table().f.peak_bf16.multiply_adds(1000)));
    CHECK_THROWS_AS(measure_peak_flops(1, Precision::fp32, "avx3"), std::invalid_argument);
  }
}

TEST_CASE("the backend says what it is") {
  for_each_isa(
      [](Backend& backend) {
        CHECK(backend.threads() >= 1);
        if (!cpu::cpu_isas().empty()) CHECK(backend.threads() == 3);
      },
      3);
  CHECK(make_reference_backend()->name() == "reference");
}

}  // namespace
