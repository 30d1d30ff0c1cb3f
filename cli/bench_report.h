// What `gladius bench` prints, with the names and columns of llama.cpp's llama-bench.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "eval/inference_bench.h"

namespace gladius::cli {

struct BenchedModel {
  std::string path, type;  // type: "llama Q4_K_M"
  uint64_t bytes = 0;      // of all weights
  int64_t parameters = 0;
  double load_seconds = 0;
};

// What the machine can do at most with some threads; 0 where unknown.
struct Roof {
  double flops = 0;      // a second, fp32
  double bandwidth = 0;  // bytes a second, reading memory
};

struct BenchResult {
  InferenceTest test;
  std::string backend, start;  // start: UTC, ISO 8601
  DType kv_type = DType::F32;
  int threads = 1;
  std::vector<int64_t> nanoseconds;  // of each repetition, at least one
  double flops = 0, bytes = 0;       // of a repetition: test_flops(), generation_bytes()
  Roof roof;
  uint64_t peak_resident = 0;  // bytes, of the process so far
  // Of the fp32 peak for a prompt, of the memory's bandwidth for generation; nothing where the roof is
  // unknown, or for the other kind of test.
  std::optional<double> percent_of_peak() const;
  std::optional<double> percent_of_bandwidth() const;
};

// Prints results to standard output: md and csv as they come, json at the end.
class BenchReport {
 public:
  virtual ~BenchReport() = default;
  virtual void add(const BenchResult& result) = 0;
  virtual void finish() = 0;
};
// format: md, csv or json. Behind llama-bench's names the latter two have ours: load_seconds (reading the
// file), peak_resident_mib, fp32_peak_flops and memory_bandwidth (both a second, the bandwidth in bytes),
// percent_of_peak and percent_of_bandwidth; null, and in csv empty, where they are unknown.
std::unique_ptr<BenchReport> make_bench_report(const std::string& format, const BenchedModel& model);

}  // namespace gladius::cli
