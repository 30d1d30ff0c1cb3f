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

struct BenchResult {
  InferenceTest test;
  std::string backend, start;  // start: UTC, ISO 8601
  DType kv_type = DType::F32;
  int threads = 1;
  std::vector<int64_t> nanoseconds;  // of each repetition, at least one
  double flops = 0, bytes = 0;       // of a repetition: test_flops(), generation_bytes()
  // What the machine could do at most before the first repetition and after each, as other programs let it:
  // operations a second in fp32 for a prompt, bytes a second for generation; 0: unknown. Empty: not measured.
  std::vector<double> roofs;
  uint64_t peak_resident = 0;  // bytes, of the process so far

  // Medians, for a prompt and for generation: the fp32 peak and the memory's bandwidth, and each repetition's
  // share of the mean of the roofs around it. Nothing where unknown, or for the other kind of test.
  std::optional<double> fp32_peak() const;
  std::optional<double> memory_bandwidth() const;
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
// percent_of_peak and percent_of_bandwidth; null, and in csv empty, where they are unknown or the test is not
// of their kind.
std::unique_ptr<BenchReport> make_bench_report(const std::string& format, const BenchedModel& model);

}  // namespace gladius::cli
