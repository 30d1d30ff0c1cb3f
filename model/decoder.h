// A model that reads tokens one after another and remembers them.
#pragma once

#include <cstdint>
#include <span>

#include "model/model.h"

namespace gladius {

// The model, its key/value cache, and the logits of the next token. ctx and model must outlive it.
class Decoder {
 public:
  // capacity: how many tokens it can hold.
  Decoder(Context& ctx, const Model& model, int64_t capacity);

  // Reads tokens, at least one, after those it holds and returns the logits [vocab] of what follows the last
  // one; valid until the next call. Throws Error when they do not fit.
  std::span<const float> read(std::span<const int32_t> tokens);

  void clear() { truncate(0); }
  void truncate(int64_t length);  // forgets all tokens but the first `length`

  int64_t length() const { return cache_.length(); }
  int64_t capacity() const { return cache_.capacity(); }
  bool full() const { return length() == capacity(); }
  int64_t vocab() const { return model_.config.vocab; }

 private:
  Context& ctx_;
  const Model& model_;
  RopeTable rope_table_;
  KvCache cache_;
  Tensor logits_;
};

}  // namespace gladius
