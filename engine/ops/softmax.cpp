#include "engine/ops.h"

namespace gladius {

Tensor softmax(Context& ctx, const Tensor& x) {
  const int64_t M = x.shape().rows(), N = x.shape()[-1];
  Tensor y = ctx.empty(x.shape());
  ctx.backend.softmax(M, N, x.f32(), y.f32());

  if (ctx.records(x)) {
    y.set_requires_grad(ctx.pool);
    ctx.tape->record(y, [&backend = ctx.backend, &pool = ctx.pool, M, N, x, y] {
      backend.softmax_backward(M, N, y.f32(), y.grad(), y.grad());
      if (!x.adopt_grad(y)) {
        const auto dx = x.grad_target(pool);
        backend.add(M * N, dx.data, y.grad(), dx.data);
      }
    });
  }
  return y;
}

}  // namespace gladius
