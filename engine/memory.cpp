#include "engine/memory.h"

#include <sys/mman.h>

#include <cstdlib>

#include "engine/error.h"

namespace gladius {
namespace {

constexpr size_t kAlignment = 64;        // a cache line, and the widest vector
constexpr size_t kMapFrom = 256 * 1024;  // larger buffers are mapped, so that untouched pages take no memory
constexpr size_t kHugePagesFrom = 4 * 1024 * 1024;

std::byte* take_from_system(size_t bytes) {
  if (bytes < kMapFrom) {
    return static_cast<std::byte*>(
        std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
  }
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (bytes >= kHugePagesFrom)
    ::madvise(data, bytes, MADV_HUGEPAGE);  // fewer address translations in matrix products
  return static_cast<std::byte*>(data);
}

void return_to_system(std::byte* data, size_t bytes) {
  if (bytes < kMapFrom) {
    std::free(data);
  } else {
    ::munmap(data, bytes);
  }
}

// An object from a list of free ones, or a new one.
template <class T>
T* reused_or_new(std::vector<T*>& free) {
  if (free.empty()) return new T;
  T* object = free.back();
  free.pop_back();
  return object;
}

}  // namespace

void Buffer::recycle() {
  if (pool) {
    const std::shared_ptr<BufferPool> home = std::move(pool);
    home->give_back(this);
  } else {
    delete this;
  }
}

void Gradient::recycle() {
  const std::shared_ptr<BufferPool> home = std::move(pool);
  buffer = {};
  written = false;
  home->give_back(this);
}

BufferPool::~BufferPool() {
  release_free();
  for (Buffer* buffer : empty_) delete buffer;
  for (Gradient* gradient : free_gradients_) delete gradient;
}

Ref<Buffer> BufferPool::allocate(size_t bytes) {
  if (bytes == 0) bytes = kAlignment;
  const std::lock_guard lock(mutex_);
  Buffer* buffer = nullptr;
  std::vector<Buffer*>& free = free_[bytes];
  if (!free.empty()) {
    buffer = free.back();
    free.pop_back();
  } else {
    std::byte* data = take_from_system(bytes);
    if (!data) fail("out of memory: the system refused {} bytes ({} are held already)", bytes, held_);
    buffer = new Buffer;
    buffer->data = data;
    buffer->bytes = bytes;
    held_ += bytes;
    ++allocations_;
  }
  in_use_ += bytes;
  buffer->pool = shared_from_this();
  return Ref<Buffer>(buffer);
}

Ref<Gradient> BufferPool::allocate_gradient() {
  const std::lock_guard lock(mutex_);
  Gradient* gradient = reused_or_new(free_gradients_);
  gradient->pool = shared_from_this();
  return Ref<Gradient>(gradient);
}

Ref<Buffer> BufferPool::wrap(const void* data, size_t bytes, std::shared_ptr<const void> keeper) {
  auto* buffer = new Buffer;
  buffer->data = const_cast<std::byte*>(static_cast<const std::byte*>(data));
  buffer->bytes = bytes;
  buffer->keeper = std::move(keeper);
  return Ref<Buffer>(buffer);
}

void BufferPool::give_back(Buffer* buffer) {
  const std::lock_guard lock(mutex_);
  if (!buffer->data) return empty_.push_back(buffer);
  in_use_ -= buffer->bytes;
  free_[buffer->bytes].push_back(buffer);
}

void BufferPool::take_memory(Buffer& buffer) {
  if (buffer.pool.get() != this || !buffer.data)
    fail("memory of {} bytes is not the pool's to take back", buffer.bytes);
  const std::lock_guard lock(mutex_);
  Buffer* holder = reused_or_new(empty_);
  holder->data = std::exchange(buffer.data, nullptr);
  holder->bytes = buffer.bytes;
  in_use_ -= buffer.bytes;
  free_[buffer.bytes].push_back(holder);
}

void BufferPool::restore_memory(Buffer& buffer, Buffer& from) {
  if (buffer.data || !from.data || from.pool.get() != this || buffer.bytes != from.bytes)
    fail("a buffer of {} bytes cannot take the memory of one of {}", buffer.bytes, from.bytes);
  buffer.data = std::exchange(from.data, nullptr);
}

void BufferPool::give_back(Gradient* gradient) {
  const std::lock_guard lock(mutex_);
  free_gradients_.push_back(gradient);
}

void BufferPool::release_free() {
  const std::lock_guard lock(mutex_);
  for (auto& [bytes, buffers] : free_) {
    for (Buffer* buffer : buffers) {
      return_to_system(buffer->data, buffer->bytes);
      held_ -= bytes;
      delete buffer;
    }
    buffers.clear();
  }
}

size_t BufferPool::bytes_in_use() const {
  const std::lock_guard lock(mutex_);
  return in_use_;
}

size_t BufferPool::bytes_held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

size_t BufferPool::allocations() const {
  const std::lock_guard lock(mutex_);
  return allocations_;
}

}  // namespace gladius
