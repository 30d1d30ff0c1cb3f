#include "train/batches.h"

#include <algorithm>
#include <bit>

#include "engine/error.h"
#include "engine/random.h"

namespace gladius {

namespace {

void resize(Batch& batch, int64_t B, int64_t T) {
  batch.B = B;
  batch.T = T;
  batch.tokens.resize(static_cast<size_t>(B * T));
  batch.targets.resize(static_cast<size_t>(B * T));
  batch.target_count = 0;
}

// Writes row b: n targets target(0) … target(n-1), of which target(-1) may be asked for too when there is no
// BOS.
template <class Target>
void fill_row(Batch& batch, int64_t b, int64_t n, std::optional<int32_t> bos, Target&& target) {
  int32_t* tokens = batch.tokens.data() + b * batch.T;
  int32_t* targets = batch.targets.data() + b * batch.T;
  if (n > 0) tokens[0] = bos ? *bos : target(int64_t{-1});
  for (int64_t t = 0; t < n; ++t) {
    targets[t] = target(t);
    if (t + 1 < n) tokens[t + 1] = targets[t];
  }
  std::fill(tokens + n, tokens + batch.T, bos.value_or(0));
  std::fill(targets + n, targets + batch.T, kIgnoredTarget);
  batch.target_count += n;
}

void check(const TokenRange& range, int64_t context) {
  if (range.size() == 0) fail("there are no tokens to train on or to validate with");
  if (context < 1) fail("a window of {} tokens is no window; the context must be at least 1", context);
}

uint64_t windows_for(uint64_t targets, int64_t context) {
  const auto T = static_cast<uint64_t>(context);
  return targets / T + (targets % T != 0);
}

}  // namespace

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t tweak) : n_(n), seed_(seed), tweak_(tweak) {
  if (n == 0) fail("a permutation needs at least one element");
  const int bits = std::max(2, static_cast<int>(std::bit_width(n - 1)));
  left_bits_ = bits / 2;
  right_bits_ = bits - left_bits_;
}

uint64_t Permutation::encrypt(uint64_t x) const {
  // Four rounds of a pseudo-random function suffice for large halves (Luby & Rackoff 1988); small ones want
  // more.
  constexpr uint32_t kRounds = 8;
  const uint64_t left_mask = (uint64_t{1} << left_bits_) - 1, right_mask = (uint64_t{1} << right_bits_) - 1;
  uint64_t left = x >> right_bits_, right = x & right_mask;
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)};
  for (uint32_t round = 0; round < kRounds; ++round) {
    const bool to_left = round % 2 == 0;
    const auto half = static_cast<uint32_t>(to_left ? right : left);  // at most 32 bits
    const auto tweak_low = static_cast<uint32_t>(tweak_), tweak_high = static_cast<uint32_t>(tweak_ >> 32);
    const uint64_t mixed = philox4x32({half, round, tweak_low, tweak_high}, key)[0];
    if (to_left) left ^= mixed & left_mask;
    if (!to_left) right ^= mixed & right_mask;
  }
  return left << right_bits_ | right;
}

uint64_t Permutation::operator()(uint64_t i) const {
  if (n_ == 1) return 0;
  do i = encrypt(i);
  while (i >= n_);
  return i;
}

TrainingBatches::TrainingBatches(TokenRange range, int64_t context, std::optional<int32_t> bos, uint64_t seed)
    : range_(std::move(range)), context_(context), bos_(bos), seed_(seed) {
  check(range_, context);
  windows_ = windows_for(range_.size(), context);
}

DataPosition TrainingBatches::fill(DataPosition position, int64_t B, Batch& batch) const {
  const Random offsets(seed_, stream_of("epoch offset"));
  const uint64_t tokens = range_.size(), T = static_cast<uint64_t>(context_);
  resize(batch, B, context_);
  for (int64_t b = 0; b < B; ++b) {
    if (position.index >= windows_) position = {position.epoch + 1, 0};
    const uint64_t window = Permutation(windows_, seed_, position.epoch)(position.index);
    const uint64_t done = window * T;  // targets before this window, in the order of the ring
    const uint64_t start = offsets.below(position.epoch, tokens) + done;
    const auto n = static_cast<int64_t>(std::min(T, tokens - done));
    fill_row(batch, b, n, bos_,
             [&](int64_t t) { return range_[(start + tokens + static_cast<uint64_t>(t)) % tokens]; });
    ++position.index;
  }
  return position;
}

ValidationBatches::ValidationBatches(TokenRange range, int64_t context, std::optional<int32_t> bos)
    : range_(std::move(range)), context_(context), bos_(bos), first_target_(bos ? 0 : 1) {
  check(range_, context);
  if (range_.size() <= first_target_)
    fail("validation needs at least two tokens when windows start without BOS");
  windows_ = static_cast<int64_t>(windows_for(range_.size() - first_target_, context));
}

void ValidationBatches::fill(int64_t first, int64_t B, Batch& batch) const {
  resize(batch, B, context_);
  for (int64_t b = 0; b < B; ++b) {
    const auto start = static_cast<int64_t>(first_target_) + (first + b) * context_;
    const int64_t left = static_cast<int64_t>(range_.size()) - start;
    fill_row(batch, b, std::clamp<int64_t>(left, 0, context_), bos_,
             [&](int64_t t) { return range_[static_cast<uint64_t>(start + t)]; });
  }
}

uint64_t ValidationBatches::bytes(int64_t windows, const Tokenizer& tokenizer) const {
  const auto targets = static_cast<uint64_t>(std::min(windows, windows_) * context_);
  const uint64_t end = std::min(range_.size(), first_target_ + targets);
  return range_.cache->bytes(range_.begin + first_target_, range_.begin + end, tokenizer);
}

}  // namespace gladius
