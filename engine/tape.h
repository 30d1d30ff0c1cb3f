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

  // The backward step of the operation that made `output`: a callable without arguments. What it captures is
  // what the operation saves for its backward pass. It is skipped when nothing that reached the loss used
  // `output`.
  template <class F>
  void record(const Tensor& output, F step) {
    record_always([output, step = std::move(step)] {
      if (output.has_grad()) step();
    });
  }
  // A step that must not be skipped.
  template <class F>
  void record_always(F step) {
    void* place = allocate(sizeof(StepOf<F>), alignof(StepOf<F>));
    steps_.push_back(new (place) StepOf<F>(std::move(step)));
  }

  // Sets the gradient of `loss` (one element) to 1 and runs the steps from the last to the first, releasing
  // each step's saved tensors as soon as it is done. The tape is empty afterwards.
  void backward(BufferPool& pool, const Tensor& loss);
  // Forgets all steps without running them. Gradients that are written already stay: cross_entropy writes its
  // weight's in the forward pass, so a loss that is given up needs reset_grad() on the trained weights.
  void clear();
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
