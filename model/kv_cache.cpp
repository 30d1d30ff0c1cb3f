#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace gladius {

KvCache::KvCache(const Config& config, DType dtype, int64_t tokens, BufferPool& pool) : dtype_(dtype) {
  if (!is_kv_type(dtype))
    fail("a key/value cache holds F32, F16, BF16 or Q8_0, not {}", dtype_info(dtype).name);
  if (const int64_t block = dtype_info(dtype).block_size; config.head_dim % block != 0) {
    fail("heads of width {} do not fit a key/value cache of {}, whose blocks have {} elements",
         config.head_dim, dtype_info(dtype).name, block);
  }
  const int64_t blocks = blocks_for(tokens);
  const Shape shape{blocks, config.kv_heads, kv_block_tokens, config.head_dim};
  for (int64_t i = 0; i < config.layers; ++i)
    layers_.push_back({Tensor(pool, dtype, shape), Tensor(pool, dtype, shape)});
  users_.resize(static_cast<size_t>(blocks));
  for (int64_t i = blocks; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
}

size_t KvCache::bytes_per_token() const {
  size_t bytes = 0;
  for (const LayerKvCache& layer : layers_) bytes += layer.k.bytes() + layer.v.bytes();
  return blocks() == 0 ? 0 : bytes / static_cast<size_t>(blocks() * kv_block_tokens);
}

int32_t KvCache::take_block() {
  const int32_t block = free_.back();
  free_.pop_back();
  users_[static_cast<size_t>(block)] = 1;
  return block;
}

void KvCache::drop_block(int32_t block) {
  if (--users_[static_cast<size_t>(block)] == 0) free_.push_back(block);
}

bool KvCache::reserve(KvSequence& sequence, int64_t tokens) {
  std::vector<int32_t>& blocks = sequence.blocks;
  const auto held = static_cast<int64_t>(blocks.size());
  const int64_t missing = std::max<int64_t>(0, blocks_for(sequence.length + tokens) - held);
  const int64_t writes = sequence.length / kv_block_tokens;  // the first block that is written into
  const bool copies =
      tokens > 0 && writes < held && users_[static_cast<size_t>(blocks[static_cast<size_t>(writes)])] > 1;
  if (missing + (copies ? 1 : 0) > free_blocks()) return false;
  if (copies) {
    int32_t& shared = blocks[static_cast<size_t>(writes)];
    const int32_t own = take_block();
    for (const LayerKvCache& layer : layers_)
      for (const Tensor& part : {layer.k, layer.v})
        std::memcpy(part.slice(own, own + 1).data(), part.slice(shared, shared + 1).data(),
                    part.bytes() / static_cast<size_t>(this->blocks()));
    drop_block(shared);
    shared = own;
  }
  for (int64_t i = 0; i < missing; ++i) blocks.push_back(take_block());
  return true;
}

KvSequence KvCache::fork(const KvSequence& sequence, int64_t length) {
  KvSequence other{sequence.blocks, std::min(length, sequence.length)};
  other.blocks.resize(static_cast<size_t>(blocks_for(other.length)));
  for (const int32_t block : other.blocks) ++users_[static_cast<size_t>(block)];
  return other;
}

void KvCache::truncate(KvSequence& sequence, int64_t length) {
  sequence.length = std::min(sequence.length, length);
  const auto keep = static_cast<size_t>(blocks_for(sequence.length));
  while (sequence.blocks.size() > keep) {
    drop_block(sequence.blocks.back());
    sequence.blocks.pop_back();
  }
}

}  // namespace gladius
