// Random training batches.
#pragma once

#include <vector>

#include "tests/kernels_support.h"
#include "train/batches.h"

namespace gladius::test {

// `count` batches of B sequences of T tokens, each with a target.
inline std::vector<Batch> random_batches(Random& random, int64_t count, int64_t B, int64_t T, int64_t vocab) {
  std::vector<Batch> batches;
  for (int64_t i = 0; i < count; ++i) {
    Batch batch{B, T, {}, {}, B * T};
    for (int64_t m = 0; m < B * T; ++m) {
      batch.tokens.push_back(static_cast<int32_t>(random.below(vocab)));
      batch.targets.push_back(static_cast<int32_t>(random.below(vocab)));
    }
    batches.push_back(std::move(batch));
  }
  return batches;
}

}  // namespace gladius::test
