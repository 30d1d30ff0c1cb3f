// Memory of tensors: reference-counted buffers that go back to a pool when their last tensor does, so that a
// training step, once the pool is warm, allocates nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace gladius {

// Counts owners of a T that knows how to recycle itself (T::recycle()). A std::shared_ptr would allocate for
// each tensor.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) {
    if (object_) object_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ && object_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) object_->recycle();
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

class BufferPool;

// A run of bytes, aligned to 64. Either the pool's own memory or a view of something that `keeper` keeps
// alive, such as a mapped file (then read-only by convention).
struct Buffer {
  std::byte* data = nullptr;  // null while its memory is lent out (BufferPool::take_memory)
  size_t bytes = 0;
  std::atomic<int> owners{0};
  std::shared_ptr<BufferPool> pool;    // where the memory returns to; null for foreign memory
  std::shared_ptr<const void> keeper;  // owner of foreign memory
  void recycle();
};

// A tensor's gradient: F32 memory of the tensor's shape, written first by overwriting, then by adding.
struct Gradient {
  std::atomic<int> owners{0};
  Ref<Buffer> buffer;    // empty until first needed
  bool written = false;  // holds a contribution of the current step
  std::shared_ptr<BufferPool> pool;
  void recycle();
};

// Hands out buffers by exact size and takes them back. Thread-safe. Sizes recur from step to step, so exact
// sizes waste little. Contents are undefined. Large buffers are mapped: where nobody writes, they take no
// room in the machine.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static std::shared_ptr<BufferPool> make() { return std::shared_ptr<BufferPool>(new BufferPool); }
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Throws Error when the system has no memory left, naming the size.
  Ref<Buffer> allocate(size_t bytes);
  Ref<Gradient> allocate_gradient();
  // Wraps memory that somebody else owns.
  static Ref<Buffer> wrap(const void* data, size_t bytes, std::shared_ptr<const void> keeper);

  // Takes a pool buffer's memory back while its owners keep the buffer, whose data is null until they
  // restore_memory: the memory of another buffer of as many bytes, which is left without.
  void take_memory(Buffer& buffer);
  void restore_memory(Buffer& buffer, Buffer& from);

  size_t bytes_in_use() const;  // handed out now
  size_t bytes_held() const;  // taken from the system, in use or free; it never shrinks before release_free()
  size_t allocations() const;  // how often memory was taken from the system
  void release_free();         // returns what is not in use to the system

 private:
  BufferPool() = default;
  friend struct Buffer;
  friend struct Gradient;
  void give_back(Buffer* buffer);
  void give_back(Gradient* gradient);

  mutable std::mutex mutex_;
  std::map<size_t, std::vector<Buffer*>> free_;
  std::vector<Buffer*> empty_;  // buffers without memory
  std::vector<Gradient*> free_gradients_;
  size_t in_use_ = 0, held_ = 0, allocations_ = 0;
};

}  // namespace gladius
