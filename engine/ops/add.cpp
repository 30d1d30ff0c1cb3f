#include "engine/ops.h"

namespace gladius {

Tensor add(Context& ctx, const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) fail("add: {} and {} differ", a.shape().text(), b.shape().text());
  const int64_t n = a.shape().elements();
  Tensor y = ctx.empty(a.shape());
  ctx.backend.add(n, a.f32(), b.f32(), y.f32());

  if (ctx.records(a, b)) {
    y.set_requires_grad(ctx.pool);
    ctx.tape->record(y, [&backend = ctx.backend, &pool = ctx.pool, n, a, b, y] {
      for (const Tensor& x : {a, b}) {
        if (!x.requires_grad()) continue;
        const auto dx = x.grad_target(pool);
        if (dx.accumulate) {
          backend.add(n, dx.data, y.grad(), dx.data);
        } else {
          backend.copy(n, y.grad(), dx.data);
        }
      }
    });
  }
  return y;
}

}  // namespace gladius
