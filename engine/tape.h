// The autograd tape: what each operation does in the backward pass, in the order of the forward pass.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "engine/tensor.h"

namespace gladius {

// Eager: an operation runs at once and records a closure that adds its contribution to its inputs' gradients.
// Closures live in an arena that is kept from step to step, so recording allocates nothing once the arena has
// grown.
class Tape {
 public:
  Tape() = default;
  ~Tape() { clear(); }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // step: a callable without arguments; what it captures is what the operation saves for its backward pass.
  template <class F>
  void record(F step) {
    void* place = allocate(sizeof(StepOf<F>), alignof(StepOf<F>));
    steps_.push_back(new (place) StepOf<F>(std::move(step)));
  }

  // Sets the gradient of `loss` (one element) to 1 and runs the steps from the last to the first, releasing
  // each step's saved tensors as soon as it is done. The tape is empty afterwards.
  void backward(BufferPool& pool, const Tensor& loss);
  void clear();  // forgets all steps without running them
  size_t size() const { return steps_.size(); }

 private:
  struct Step {
    virtual ~Step() = default;
    virtual void backward() = 0;
  };
  template <class F>
  struct StepOf final : Step {
    explicit StepOf(F f) : function(std::move(f)) {}
    void backward() override { function(); }
    F function;
  };
  void* allocate(size_t bytes, size_t alignment);

  static constexpr size_t kChunk = 64 * 1024;
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  size_t chunk_ = 0, used_ = 0;
  std::vector<Step*> steps_;
};

}  // namespace gladius
