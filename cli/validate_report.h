// What `gladius validate` prints and writes.
#pragma once

#include <nlohmann/json.hpp>

#include "eval/comparison.h"
#include "eval/tensor_errors.h"
#include "eval/weight_check.h"
#include "model/tokenizer.h"

namespace gladius::cli {

void print_comparison(const Comparison& c);
// Each with the text before it, the right token and both models' likeliest.
void print_worst(std::span<const PositionScore> worst, const Tokenizer& tokenizer, const Chunks& chunks);

nlohmann::ordered_json comparison_json(const Comparison& c);
nlohmann::ordered_json worst_json(std::span<const PositionScore> worst, const Tokenizer& tokenizer,
                                  const Chunks& chunks);

// Whether the tested weights are the base's, converted.
struct WeightReport {
  std::vector<WeightCheck> checks, faults;  // empty: not looked at
  std::string config;                       // how the configurations differ; empty: not

  // Most tensors differ by more than their types round: these are other weights, and no damage.
  bool another_model() const { return 2 * faults.size() > checks.size(); }
  // What is wrong, by name; empty: nothing.
  std::string failure() const;
};
void print_weights(const WeightReport& report);
nlohmann::ordered_json weights_json(const WeightReport& report);

// The tensors that differ, the costliest first. tested: whose types are shown.
void print_tensor_errors(const TensorErrors& errors, const Model& tested);
nlohmann::ordered_json tensor_errors_json(const TensorErrors& errors, const Model& tested);

}  // namespace gladius::cli
