#include "engine/ops.h"

namespace gladius {

Tensor swiglu(Context& ctx, const Tensor& gate, const Tensor& up) {
  if (gate.shape() != up.shape())
    fail("swiglu: gate {} and up {} differ", gate.shape().text(), up.shape().text());
  const int64_t n = gate.shape().elements();
  Tensor y = ctx.empty(gate.shape());
  ctx.backend.swiglu(n, gate.f32(), up.f32(), y.f32());

  if (ctx.records(gate, up)) {
    y.set_requires_grad(ctx.pool);
    ctx.tape->record(y, [&backend = ctx.backend, &pool = ctx.pool, n, gate, up, y] {
      const SoleGradient dgate(gate, pool), dup(up, pool);
      backend.swiglu_backward(n, gate.f32(), up.f32(), y.grad(), dgate.data(), dup.data());
    });
  }
  return y;
}

}  // namespace gladius
