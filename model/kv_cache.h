// What a model remembers: the keys and values of sequences of tokens, layer by layer, in blocks that
// sequences with the same beginning share.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops.h"
#include "model/config.h"

namespace gladius {

// The tokens of a sequence that a cache holds. Copies are made by KvCache::fork only.
struct KvSequence {
  std::vector<int32_t> blocks;
  int64_t length = 0;
};

class KvCache {
 public:
  // Room for at least `tokens` tokens of one sequence, or fewer of several, because each begins a block of
  // its own. Throws Error when keys of a head are no whole blocks of dtype, or it is none for caches
  // (is_kv_type), or there is no memory.
  KvCache(const Config& config, DType dtype, int64_t tokens, BufferPool& pool);

  static int64_t blocks_for(int64_t tokens) { return (tokens + kv_block_tokens - 1) / kv_block_tokens; }
  int64_t blocks() const { return static_cast<int64_t>(users_.size()); }
  int64_t free_blocks() const { return static_cast<int64_t>(free_.size()); }
  DType dtype() const { return dtype_; }
  size_t bytes_per_token() const;  // of keys and values, all layers together

  // Makes room for `tokens` more behind those of the sequence, whose length stays; false, and nothing
  // changes, where there are not enough free blocks.
  bool reserve(KvSequence& sequence, int64_t tokens);
  // A sequence with the same first `length` tokens. It shares their blocks; whoever writes into a block that
  // others use gets a copy of it first (reserve).
  KvSequence fork(const KvSequence& sequence, int64_t length);
  // Forgets all but the first `length` tokens.
  void truncate(KvSequence& sequence, int64_t length);

  LayerKvCache& layer(int64_t index) { return layers_[static_cast<size_t>(index)]; }

 private:
  int32_t take_block();
  void drop_block(int32_t block);

  DType dtype_;
  std::vector<LayerKvCache> layers_;
  std::vector<int32_t> users_;  // of each block
  std::vector<int32_t> free_;
};

}  // namespace gladius
