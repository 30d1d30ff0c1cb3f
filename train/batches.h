// Windows of a token cache, as the batches that training and validation read.
//
// A window holds `context` consecutive tokens as targets, each predicted from the ones before it in the
// window. With a BOS token the inputs are BOS, t[0] … t[n-2], as a text starts in inference; without one they
// are the tokens before the targets, t[-1] … t[n-2]. Documents in one window are not masked from each other:
// the EOS between them is what tells.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "train/token_cache.h"

namespace gladius {

constexpr int32_t kIgnoredTarget = -1;  // no loss and no gradient

// B windows of T tokens, row-major [B, T]. Where a window is short, targets are kIgnoredTarget and inputs any
// valid id.
struct Batch {
  int64_t B = 0, T = 0;
  std::vector<int32_t> tokens, targets;
  int64_t target_count = 0;  // targets that are not ignored
};

// A keyed permutation of [0, n) that takes no memory: a Feistel network over the next power of two, whose
// round function is Philox, applied again while the result is outside (Black & Rogaway 2002, "Ciphers with
// arbitrary finite domains").
class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed, uint64_t tweak);  // throws Error when n is 0
  uint64_t operator()(uint64_t i) const;                   // i < n

 private:
  uint64_t encrypt(uint64_t x) const;
  uint64_t n_, seed_, tweak_;
  int left_bits_, right_bits_;
};

// Where a run stands in its data: `index` windows of `epoch` are done. With the seed it determines all that
// follows.
struct DataPosition {
  uint64_t epoch = 0, index = 0;
  bool operator==(const DataPosition&) const = default;
};

// The training split, window by window, without end. In an epoch each token is a target exactly once. The
// split is read as a ring: windows start at an offset drawn for each epoch and run across its end to its
// start, so that their borders differ between epochs. One of them is short when the context does not divide
// the split. Order and offset depend on the seed and the epoch alone.
class TrainingBatches {
 public:
  // bos: what every window starts with, if anything. Throws Error when the range is empty or context < 1.
  TrainingBatches(TokenRange range, int64_t context, std::optional<int32_t> bos, uint64_t seed);

  uint64_t windows_per_epoch() const { return windows_; }
  // Fills a batch with the B windows at `position` and returns the position after them; an epoch's end may
  // lie between. Allocates only when the batch grows.
  DataPosition fill(DataPosition position, int64_t B, Batch& batch) const;

 private:
  TokenRange range_;
  int64_t context_;
  std::optional<int32_t> bos_;
  uint64_t seed_, windows_;
};

// The validation split in order, without overlap: every token is a target exactly once, save the first one
// when there is no BOS to predict it from.
class ValidationBatches {
 public:
  ValidationBatches(TokenRange range, int64_t context, std::optional<int32_t> bos);

  int64_t windows() const { return windows_; }
  // Windows [first, first + B); rows beyond the last window are ignored targets.
  void fill(int64_t first, int64_t B, Batch& batch) const;
  // Source bytes of the targets of the first `windows` windows: what their summed loss is divided by
  // (TokenCache::bytes).
  uint64_t bytes(int64_t windows, const Tokenizer& tokenizer) const;

 private:
  TokenRange range_;
  int64_t context_;
  std::optional<int32_t> bos_;
  uint64_t first_target_;
  int64_t windows_;
};

}  // namespace gladius
