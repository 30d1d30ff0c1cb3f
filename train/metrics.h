// metrics.jsonl: what a run measured, one JSON object per line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace gladius {

// What is absent is left out of the line; what is not finite becomes null.
struct StepMetrics {
  int64_t step = 0;            // optimiser steps done
  int64_t tokens = 0;          // targets trained on so far
  std::optional<double> loss;  // mean cross entropy of the step's targets, nats per token
  std::optional<double> learning_rate;
  std::optional<double> gradient_norm;  // before clipping
  std::optional<double> tokens_per_second;
  std::optional<double> validation_loss;  // nats per token
  // Nats per byte of source text: comparable between tokenizers.
  std::optional<double> validation_loss_per_byte;
};

class MetricsLog {
 public:
  // Keeps the lines of an existing file up to and including `last_step` and drops the rest, and lines that
  // are cut off or are no metrics, by replacing the file as a whole. For a new run, pass -1. Throws Error
  // naming the file and the reason.
  MetricsLog(std::filesystem::path path, int64_t last_step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Appends a line in one write, so that a killed process leaves at most its last line incomplete.
  void append(const StepMetrics& metrics);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace gladius
