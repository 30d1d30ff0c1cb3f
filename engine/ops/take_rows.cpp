#include "engine/ops.h"

namespace gladius {

Tensor take_rows(Context& ctx, const Tensor& x, std::span<const int64_t> rows) {
  if (ctx.records(x)) fail("take_rows: rows {} cannot be trained through", x.shape().text());
  const int64_t M = x.shape().rows(), C = x.shape()[-1];
  Tensor y = ctx.empty({static_cast<int64_t>(rows.size()), C});
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0 || rows[i] >= M) fail("take_rows: {} has no row {}", x.shape().text(), rows[i]);
    ctx.backend.copy(C, x.f32() + rows[i] * C, y.f32() + static_cast<int64_t>(i) * C);
  }
  return y;
}

}  // namespace gladius
