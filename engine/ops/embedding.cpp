#include "engine/ops.h"

namespace gladius {

Tensor embedding(Context& ctx, const Tensor& weight, const Tensor& tokens) {
  if (weight.shape().rank() != 2) fail("embedding: weight {} is not a matrix", weight.shape().text());
  if (weight.dtype() == DType::I32) fail("embedding: a weight {} cannot be I32", weight.shape().text());
  const int64_t M = tokens.shape().elements(), V = weight.shape()[0], C = weight.shape()[1];
  for (int64_t m = 0; m < M; ++m) {
    const int32_t token = tokens.i32()[m];
    if (token < 0 || token >= V)
      fail("embedding: token {} at position {} is not in a vocabulary of {}", token, m, V);
  }
  const LossDims dims{M, C, V};
  Tensor y = ctx.empty({M, C});
  ctx.backend.embedding(dims, tokens.i32(), {weight.dtype(), weight.data()}, y.f32());

  if (ctx.records(weight)) {
    y.set_requires_grad(ctx.pool);
    ctx.tape->record(y, [&backend = ctx.backend, &pool = ctx.pool, dims, weight, tokens, y] {
      const auto dW = weight.grad_target(pool);
      backend.embedding_backward(dims, tokens.i32(), y.grad(), dW.data, dW.accumulate);
    });
  }
  return y;
}

}  // namespace gladius
