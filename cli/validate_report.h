// What `gladius validate` prints and writes.
#pragma once

#include <nlohmann/json.hpp>

#include "eval/comparison.h"
#include "eval/tensor_errors.h"
#include "model/tokenizer.h"

namespace gladius::cli {

void print_comparison(const Comparison& c);
// Each with the text before it, the right token and both models' likeliest.
void print_worst(std::span<const PositionScore> worst, const Tokenizer& tokenizer, const Chunks& chunks);

nlohmann::ordered_json comparison_json(const Comparison& c);
nlohmann::ordered_json worst_json(std::span<const PositionScore> worst, const Tokenizer& tokenizer,
                                  const Chunks& chunks);

// The tensors that differ, the costliest first. tested: whose types are shown.
void print_tensor_errors(const TensorErrors& errors, const Model& tested);
nlohmann::ordered_json tensor_errors_json(const TensorErrors& errors, const Model& tested);

}  // namespace gladius::cli
