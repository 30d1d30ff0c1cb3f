// Everything that an operation needs besides its operands. Nothing in the engine is global.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/memory.h"
#include "engine/tape.h"
#include "engine/tensor.h"
#include "kernels/backend.h"

namespace gladius {

// Values that a recorded forward pass gives up, because the backward pass can compute them anew to the same
// bits: memory for time.
struct Recompute {
  bool elementwise = false;  // outputs of norms and of SwiGLU, in every layer: cheap
  int64_t layers = 0;        // of the first so many layers everything but the residual stream
};

struct Context {
  Backend& backend;
  BufferPool& pool;
  Tape* tape = nullptr;                   // null: nothing is recorded (inference)
  Precision precision = Precision::fp32;  // of products with F32 weights, forward and backward
  Recompute recompute = {};

  // Whether an operation on these inputs has to record its backward step.
  template <class... T>
  bool records(const T&... inputs) const {
    return tape && (inputs.requires_grad() || ...);
  }
  // Gives up `values`, which no later operation reads, until the backward pass. There, before any step that
  // is recorded so far runs, again(Context&) returns tensors with the same values, in the same order.
  template <size_t N, class F>
  void compute_anew(const std::array<Tensor, N>& values, F again) const {
    for (const Tensor& value : values) value.drop_data(pool);
    tape->record_always([&backend = backend, &pool = pool, precision = precision, values, again] {
      Context untaped{backend, pool, nullptr, precision};
      const std::array<Tensor, N> fresh = again(untaped);
      for (size_t i = 0; i < N; ++i) values[i].restore_data(pool, fresh[i]);
    });
  }

  Tensor empty(Shape shape, DType dtype = DType::F32) const { return Tensor(pool, dtype, shape); }
};

}  // namespace gladius
