#include "engine/tape.h"

namespace gladius {

void* Tape::allocate(size_t bytes, size_t alignment) {
  if (bytes > kChunk) fail("a tape step saves {} bytes by value; at most {} fit", bytes, kChunk);
  used_ = (used_ + alignment - 1) / alignment * alignment;
  if (chunks_.empty() || used_ + bytes > kChunk) {
    if (!chunks_.empty()) ++chunk_;
    if (chunk_ == chunks_.size()) chunks_.push_back(std::make_unique<std::byte[]>(kChunk));
    used_ = 0;
  }
  std::byte* place = chunks_[chunk_].get() + used_;
  used_ += bytes;
  return place;
}

void Tape::backward(BufferPool& pool, const Tensor& loss) {
  if (loss.shape().elements() != 1)
    fail("backward starts from one number, not from a tensor {}", loss.shape().text());
  *loss.grad_target(pool).data = 1.0f;
  while (!steps_.empty()) {
    Step* step = steps_.back();
    step->backward();
    steps_.pop_back();
    step->~Step();
  }
  clear();
}

void Tape::clear() {
  while (!steps_.empty()) {
    steps_.back()->~Step();
    steps_.pop_back();
  }
  chunk_ = used_ = 0;
}

}  // namespace gladius
