// A model at work on one sequence: it reads tokens and says how likely each token is to come next.
#pragma once

#include <atomic>
#include <span>

#include "model/model.h"

namespace gladius {

class Decoder {
 public:
  // Room for `capacity` tokens, whose keys and values are held as `kv_type` (is_kv_type). ctx and model must
  // live as long as the decoder.
  Decoder(Context& ctx, const Model& model, int64_t capacity, DType kv_type = DType::F32);

  // Reads tokens, at least one, behind those that were read before, and returns the logits [V] of what
  // follows the last; valid until the next call. Long inputs go through the model in pieces, between which
  // *cancel is looked at: set, it ends the call, which then returns nothing. Throws Error when there is no
  // room.
  std::span<const float> read(std::span<const int32_t> tokens, const std::atomic<bool>* cancel = nullptr);

  void clear() { truncate(0); }                                          // forgets what was read
  void truncate(int64_t length) { cache_.truncate(sequence_, length); }  // all but the first `length` tokens

  int64_t length() const { return sequence_.length; }  // tokens read so far
  int64_t capacity() const { return capacity_; }
  bool full() const { return length() == capacity(); }
  int64_t vocab() const { return model_.config.vocab; }
  size_t bytes_per_token() const { return cache_.bytes_per_token(); }

 private:
  Context& ctx_;
  const Model& model_;
  int64_t capacity_;
  RopeTable rope_table_;
  KvCache cache_;
  KvSequence sequence_;
  Tensor logits_;
};

}  // namespace gladius
