// What the benchmarks share: operands, checks of results, and the suite that times a case on every
// instruction set, warm or cold, beside the roofline of this machine.
#pragma once

#include <benchmark/benchmark.h>

#include <any>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "bench/costs.h"
#include "kernels/backend.h"

namespace gladius::bench {

// ---- operands ----

// Memory that starts at a cache line, as the engine's does.
template <class T>
struct CacheLineAllocator {
  using value_type = T;
  CacheLineAllocator() = default;
  template <class U>
  explicit CacheLineAllocator(const CacheLineAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const CacheLineAllocator&) const { return true; }
};
using Floats = std::vector<float, CacheLineAllocator<float>>;
using Bytes = std::vector<std::byte, CacheLineAllocator<std::byte>>;
using Tokens = std::vector<int32_t>;

Floats zeros(int64_t n);
// Reproducible, uniform in [low, high).
Floats random_floats(uint64_t seed, int64_t n, float low = -1.0f, float high = 1.0f);
Tokens random_tokens(uint64_t seed, int64_t n, int64_t vocabulary);

template <class... Vectors>
int64_t bytes_of(const Vectors&... v) {
  return static_cast<int64_t>((... + (v.size() * sizeof(v[0]))));
}

// ---- checks ----

// Indices below n to look at: all of them up to `count`, else the first, the last and others at random.
std::vector<int64_t> sample(int64_t n, int64_t count);

// The first result that is wrong, in words; empty while none is.
class Findings {
 public:
  // |got - expected| must be at most `bound`, which NaN never is.
  void near(const char* what, int64_t index, double got, double expected, double bound);
  void same_bytes(const char* what, int64_t row, const void* got, const void* expected, int64_t bytes);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// ---- the suite ----

// What this machine can do with some threads, each measured when it is first asked for; 0 where unknown or
// not to be measured.
class Machine {
 public:
  Machine(int threads, bool measured) : threads_(threads), measured_(measured) {}
  int threads() const { return threads_; }
  double peak(const std::string& isa, Precision precision);  // operations a second
  double bandwidth();                                        // bytes read a second

 private:
  int threads_;
  bool measured_;
  double bandwidth_ = -1;
  std::map<std::pair<std::string, Precision>, double> peaks_;
};

// One row of a benchmark table. Its name is OPERATION/ISA/DETAIL, with /cold at the end if it is cold.
struct Case {
  std::string operation, detail;
  Cost cost;
  Precision precision = Precision::fp32;  // whose peak is its roof
  // Operands take turns with so many copies that each comes from memory; else the same ones again.
  bool cold = false;
  bool dense = false;  // a product of floats: oneDNN's backend, where it is built, is timed, too
};

class Suite {
 public:
  static constexpr const char* onednn = "onednn";

  // isas: names of instruction sets; "" for a CPU family without kernels. oneDNN's backend stands among them
  // as "onednn", where it is built.
  Suite(const Machine& machine, const std::vector<std::string>& isas);

  // Operands is a copyable struct that holds what one call reads and writes:
  //   void run(Backend&)                                      makes the call
  //   void check(const Operands& before, Findings&) const     looks at its result
  //   int64_t bytes() const                                   its memory
  // make(backend) gives them, the same each time.
  template <class Operands, class Make>
  void add(const Case& c, Make make);

  // Measures the roofs of the cases whose names the filter picks and writes them into the results' context.
  void measure_roofs(const std::string& filter);
  // Cases whose result was wrong.
  const std::map<std::string, std::string>& wrong() const { return wrong_; }

 private:
  struct Target {
    std::string isa;
    std::unique_ptr<Backend> backend;
  };
  struct Entry {
    std::string name;
    const Target* target;
    Case c;
  };

  template <class Operands, class Make>
  std::vector<Operands>& prepare(const Entry& entry, const Make& make);
  static size_t copies(bool cold, int64_t bytes);
  static void enlist(const std::string& name, std::function<void(benchmark::State&)> run);
  void report(benchmark::State& state, const Entry& entry);

  Machine machine_;
  std::vector<Target> targets_;
  std::vector<std::unique_ptr<Entry>> entries_;
  std::map<std::string, std::string> wrong_;
  // Google Benchmark calls a case several times: its operands are kept until another case's turn comes.
  const Entry* prepared_for_ = nullptr;
  std::any prepared_;
};

template <class Operands, class Make>
std::vector<Operands>& Suite::prepare(const Entry& entry, const Make& make) {
  if (prepared_for_ == &entry) return std::any_cast<std::vector<Operands>&>(prepared_);
  prepared_for_ = &entry;
  prepared_.reset();
  auto& all = prepared_.emplace<std::vector<Operands>>();
  all.push_back(make(*entry.target->backend));
  const Operands before = all.front();
  all.front().run(*entry.target->backend);
  Findings findings;
  all.front().check(before, findings);
  if (!findings.text().empty()) {
    wrong_[entry.name] = findings.text();
    return all;
  }
  const size_t n = copies(entry.c.cold, before.bytes());
  all.reserve(n);
  while (all.size() < n) all.push_back(before);
  return all;
}

template <class Operands, class Make>
void Suite::add(const Case& c, Make make) {
  for (const Target& target : targets_) {
    if (target.isa == onednn && !c.dense) continue;
    std::string name = c.operation + "/" + target.isa + "/" + c.detail + (c.cold ? "/cold" : "");
    entries_.push_back(std::make_unique<Entry>(Entry{std::move(name), &target, c}));
    const Entry& entry = *entries_.back();
    enlist(entry.name, [this, &entry, make](benchmark::State& state) {
      std::vector<Operands>& operands = prepare<Operands>(entry, make);
      if (const auto found = wrong_.find(entry.name); found != wrong_.end()) {
        state.SkipWithError(found->second.c_str());
        return;
      }
      size_t i = 0;
      for (auto _ : state) {
        operands[i].run(*entry.target->backend);
        benchmark::ClobberMemory();
        if (++i == operands.size()) i = 0;
      }
      report(state, entry);
    });
  }
}

// The tables, one function a file.
void add_products(Suite& suite);     // bench_products.cpp
void add_attention(Suite& suite);    // bench_attention.cpp
void add_rows(Suite& suite);         // bench_rows.cpp
void add_loss(Suite& suite);         // bench_loss.cpp
void add_elementwise(Suite& suite);  // bench_elementwise.cpp
void add_conversions(Suite& suite);  // bench_conversions.cpp

}  // namespace gladius::bench
