#include "engine/ops.h"

namespace gladius {

Tensor rope(Context& ctx, const Tensor& x, const Tensor& positions, const RopeTable& table, int64_t heads) {
  const int64_t M = x.shape().rows(), width = x.shape()[-1], D = table.cos.shape()[-1] * 2;
  if (heads < 1 || positions.shape().elements() != M || heads * D != width || table.cos.shape().rank() != 2 ||
      table.sin.shape() != table.cos.shape()) {
    fail("rope: x {} does not fit {} heads, positions {} and table {}", x.shape().text(), heads,
         positions.shape().text(), table.cos.shape().text());
  }
  for (int64_t m = 0; m < M; ++m) {
    const int32_t position = positions.i32()[m];
    if (position < 0 || position >= table.cos.shape()[0]) {
      fail("rope: position {} is beyond the context of {}", position, table.cos.shape()[0]);
    }
  }
  const RopeDims dims{M, heads, D, width};
  ctx.backend.rope(dims, positions.i32(), table.cos.f32(), table.sin.f32(), RopeDirection::forward, x.f32(),
                   x.f32());

  if (ctx.records(x)) {
    ctx.tape->record(x, [&backend = ctx.backend, dims, x, positions, table] {
      backend.rope(dims, positions.i32(), table.cos.f32(), table.sin.f32(), RopeDirection::backward, x.grad(),
                   x.grad());
    });
  }
  return x;
}

}  // namespace gladius
