// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/context.h"
#include "model/model.h"

namespace gladius {

struct TextLoss {
  double nats = 0;      // summed cross entropy
  int64_t targets = 0;  // tokens that were predicted
};

// Cross entropy of a token sequence in non-overlapping windows of `context` targets: each token is predicted
// once, from the tokens before it in its window, and from `bos` (negative: none; then the first token of the
// text is not predicted). Weights of any dtype. progress(done, total) in tokens, may be empty; returning
// false stops early.
TextLoss text_loss(Context& ctx, const Model& model, std::span<const int32_t> tokens, int32_t bos,
                   int64_t context, const std::function<bool(int64_t done, int64_t total)>& progress = {});

}  // namespace gladius
