#include <algorithm>

#include "engine/ops.h"

namespace gladius {

Tensor cross_entropy(Context& ctx, const Tensor& h, const Tensor& weight, const Tensor& targets, float scale,
                     const Tensor& losses) {
  const LossDims dims{
      .M = h.shape().rows(), .C = h.shape()[-1], .V = weight.shape()[0], .precision = ctx.precision};
  if (dims.V == 0 || weight.shape() != Shape{dims.V, dims.C} || targets.shape().elements() != dims.M) {
    fail("cross_entropy: h {} does not fit weight {} and targets {}", h.shape().text(), weight.shape().text(),
         targets.shape().text());
  }
  if (losses.defined() && losses.shape() != Shape{dims.M}) {
    fail("cross_entropy: losses {} are not [{}]", losses.shape().text(), dims.M);
  }
  for (int64_t m = 0; m < dims.M; ++m) {
    const int32_t target = targets.i32()[m];
    if (target >= dims.V)
      fail("cross_entropy: target {} at row {} is not in a vocabulary of {}", target, m, dims.V);
  }
  const int64_t row_bytes = dims.V * static_cast<int64_t>(sizeof(float));
  // Equal chunks rather than full ones and a rest.
  const int64_t most = std::max<int64_t>(1, kMaxLogitsBytes / row_bytes), chunks = (dims.M + most - 1) / most;
  const int64_t chunk = chunks > 0 ? (dims.M + chunks - 1) / chunks : 1;
  const Tensor logits = ctx.empty({chunk, dims.V});
  const Tensor rows = losses.defined() ? losses : ctx.empty({dims.M});

  const bool records = ctx.records(h, weight);
  if (records && !(h.requires_grad() && weight.requires_grad())) {
    fail("cross_entropy: training needs gradients of both the hidden states and the head");
  }
  LossGradients gradients;
  if (records) gradients = {scale, h.sole_grad_target(ctx.pool), weight.grad_target(ctx.pool)};
  ctx.backend.linear_cross_entropy(dims, h.f32(), weight.f32(), targets.i32(), {logits.f32(), chunk},
                                   rows.f32(), gradients);
  double sum = 0;
  for (int64_t m = 0; m < dims.M; ++m) sum += rows.f32()[m];
  Tensor loss = ctx.empty({1});
  loss.f32()[0] = static_cast<float>(sum * scale);

  if (records) {
    loss.set_requires_grad(ctx.pool);
    ctx.tape->record_always([loss] {
      if (!loss.has_grad() || *loss.grad() != 1.0f)
        fail("cross_entropy: backward must start from this loss, with gradient 1");
    });
  }
  return loss;
}

}  // namespace gladius
