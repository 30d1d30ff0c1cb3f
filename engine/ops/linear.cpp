#include "engine/ops.h"

namespace gladius {

namespace {

void check_weight(const Tensor& x, const Tensor& weight) {
  const int64_t K = x.shape()[-1], N = weight.shape()[0];
  if (weight.shape() != Shape{N, K})
    fail("linear: x {} does not fit weight {}", x.shape().text(), weight.shape().text());
  const std::string_view type = dtype_info(weight.dtype()).name;
  if (!is_weight_type(weight.dtype())) fail("linear: a weight {} cannot be {}", weight.shape().text(), type);
  if (weight.dtype() != DType::F32 && K > max_weight_columns) {
    fail("linear: rows of {} weight {} are longer than {}", type, weight.shape().text(), max_weight_columns);
  }
}

}  // namespace

void linears(Context& ctx, const Tensor& x, std::span<const Tensor* const> weights, std::span<Tensor> y) {
  constexpr size_t kMost = 4;
  if (y.size() != weights.size()) fail("linears: {} results of {} weights", y.size(), weights.size());
  if (weights.size() > kMost) fail("linears: {} weights are more than {}", weights.size(), kMost);
  if (ctx.tape) {
    for (size_t i = 0; i < weights.size(); ++i) y[i] = linear(ctx, x, *weights[i]);
    return;
  }
  const int64_t M = x.shape().rows(), K = x.shape()[-1];
  std::array<WeightProduct, kMost> products;
  for (size_t i = 0; i < weights.size(); ++i) {
    check_weight(x, *weights[i]);
    const int64_t N = weights[i]->shape()[0];
    y[i] = ctx.empty({M, N});
    products[i] = {weights[i]->weight_view(), N, y[i].f32()};
  }
  ctx.backend.matmul_weights({M, 0, K, ctx.precision}, x.f32(), {products.data(), weights.size()});
}

Tensor linear(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& residual) {
  check_weight(x, weight);
  const int64_t M = x.shape().rows(), K = x.shape()[-1], N = weight.shape()[0];
  if (residual.defined() && residual.shape() != Shape{M, N}) {
    fail("linear: residual {} is not [{}, {}]", residual.shape().text(), M, N);
  }
  Tensor y = ctx.empty({M, N});
  const Epilogue epilogue{.residual = residual.defined() ? residual.f32() : nullptr};
  ctx.backend.matmul_weight({M, N, K, ctx.precision}, x.f32(), weight.weight_view(), y.f32(), epilogue);

  if (ctx.records(x, weight, residual)) {
    y.set_requires_grad(ctx.pool);
    ctx.tape->record(
        y, [&backend = ctx.backend, &pool = ctx.pool, p = ctx.precision, M, K, N, x, weight, residual, y] {
          const float* dy = y.grad();
          if (x.requires_grad()) {  // dx[M,K] = dy[M,N] · weight[N,K]
            const auto dx = x.grad_target(pool);
            backend.matmul_nn({M, K, N, p}, dy, weight.f32(), dx.data, {.accumulate = dx.accumulate});
          }
          if (weight.requires_grad()) {  // dweight[N,K] = dy[M,N]ᵀ · x[M,K]
            const auto dW = weight.grad_target(pool);
            backend.matmul_tn({N, K, M, p}, dy, x.f32(), dW.data, {.accumulate = dW.accumulate});
          }
          if (residual.requires_grad() && !residual.adopt_grad(y)) {  // dresidual = dy
            const auto dr = residual.grad_target(pool);
            backend.add(M * N, dr.data, dy, dr.data);
          }
        });
  }
  return y;
}

}  // namespace gladius
