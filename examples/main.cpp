// A network that learns exclusive or: a SwiGLU layer of 8 units, then a choice between two classes.
#include <cmath>
#include <cstdio>

#include "engine/ops.h"
#include "engine/random.h"

using namespace gladius;

int main() {
  const auto backend = make_cpu_backend(/*threads=*/1);
  const auto pool = BufferPool::make();
  Tape tape;
  Context ctx{.backend = *backend, .pool = *pool, .tape = &tape};

  const float inputs[4][3] = {{0, 0, 1}, {0, 1, 1}, {1, 0, 1}, {1, 1, 1}};  // the last column is a bias
  const int32_t classes[4] = {0, 1, 1, 0};
  const Tensor x = Tensor::view(DType::F32, {4, 3}, inputs, nullptr);
  const Tensor targets = Tensor::view(DType::I32, {4}, classes, nullptr);

  Tensor weights[] = {ctx.empty({8, 3}), ctx.empty({8, 3}), ctx.empty({2, 8})};  // gate, up, output
  uint64_t stream = 0;
  for (Tensor& weight : weights) {
    Random(/*seed=*/1, stream++).normal(0, weight.shape().elements(), 0, 1, weight.f32());
    weight.set_requires_grad(*pool);
  }
  float loss = 0;
  for (int step = 0; step < 300; ++step) {
    for (const Tensor& weight : weights) weight.reset_grad();
    const Tensor hidden = swiglu(ctx, linear(ctx, x, weights[0]), linear(ctx, x, weights[1]));
    const Tensor mean_loss = cross_entropy(ctx, hidden, weights[2], targets, /*scale=*/1.0f / 4);
    loss = *mean_loss.f32();
    tape.backward(*pool, mean_loss);
    for (const Tensor& weight : weights) {
      for (int64_t i = 0; i < weight.shape().elements(); ++i) weight.f32()[i] -= 0.5f * weight.grad()[i];
    }
  }
  std::printf("loss after 300 steps: %.4f (%.4f is a guess)\n", loss, std::log(2.0));
  return loss < 0.1f ? 0 : 1;
}
