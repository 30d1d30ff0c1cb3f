// Everything that an operation needs besides its operands. Nothing in the engine is global.
#pragma once

#include <memory>

#include "engine/memory.h"
#include "engine/tape.h"
#include "engine/tensor.h"
#include "kernels/backend.h"

namespace gladius {

struct Context {
  Backend& backend;
  BufferPool& pool;
  Tape* tape = nullptr;                   // null: nothing is recorded (inference)
  Precision precision = Precision::fp32;  // of products with F32 weights, forward and backward

  // Whether an operation on these inputs has to record its backward step.
  template <class... T>
  bool records(const T&... inputs) const {
    return tape && (inputs.requires_grad() || ...);
  }
  Tensor empty(Shape shape, DType dtype = DType::F32) const { return Tensor(pool, dtype, shape); }
};

}  // namespace gladius
