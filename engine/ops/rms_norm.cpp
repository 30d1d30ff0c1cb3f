#include "engine/ops.h"

namespace gladius {

Tensor rms_norm(Context& ctx, const Tensor& x, const Tensor& weight, float eps) {
  const int64_t M = x.shape().rows(), C = x.shape()[-1];
  if (weight.shape() != Shape{C})
    fail("rms_norm: x {} does not fit weight {}", x.shape().text(), weight.shape().text());
  const bool records = ctx.records(x, weight);
  Tensor y = ctx.empty(x.shape());
  const Tensor r = records ? ctx.empty({M}) : Tensor();
  ctx.backend.rms_norm(M, C, eps, x.f32(), weight.f32(), y.f32(), records ? r.f32() : nullptr);

  if (records) {
    y.set_requires_grad(ctx.pool);
    ctx.tape->record(y, [&backend = ctx.backend, &pool = ctx.pool, M, C, x, weight, r, y] {
      const auto dx = x.requires_grad() ? x.grad_target(pool) : GradTarget{};
      const auto dw = weight.requires_grad() ? weight.grad_target(pool) : GradTarget{};
      backend.rms_norm_backward(M, C, {x.f32(), weight.f32(), r.f32()}, y.grad(), dx, dw);
    });
  }
  return y;
}

}  // namespace gladius
