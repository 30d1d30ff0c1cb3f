// Every operation's gradient against finite differences of an independent computation in double.
//
// L(x) = sum_j c_j y_j(x) with random c. The operation computes y and the gradient in float; the plain loops
// of kernels/reference, instantiated for double, give the partial derivatives dy_j/dx_i by four-point
// differences, whose own error (about 1e-11) does not matter. A gradient of n roundings in sequence may be
// off by n u times the sum of the magnitudes that it is made of (Higham 2002, section 3.1): here the largest
// sum_j |c_j dy_j/dx_i| of the input.
#include <functional>

#include "kernels/reference/attention.h"
#include "kernels/reference/loss.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/rope.h"
#include "kernels/reference/softmax.h"
#include "kernels/reference/swiglu.h"
#include "tests/engine_support.h"

using namespace gladius;
using namespace gladius::test;
using Doubles = std::vector<double>;

namespace {

struct Operation {
  std::vector<Tensor> inputs;  // all get gradients
  std::function<Tensor(Context&, const std::vector<Tensor>&)> run;
  std::function<Doubles(const std::vector<Doubles>&)> exact;
  double roundings;  // in sequence, forward and backward together
};

// Partial derivatives of every output by element i of one input, by four-point central differences.
Doubles derivatives(const Operation& op, std::vector<Doubles> inputs, size_t input, size_t i) {
  constexpr double h = 1e-3;
  const double x = inputs[input][i];
  const auto at = [&](double step) {
    inputs[input][i] = x + step;
    return op.exact(inputs);
  };
  const Doubles a = at(-2 * h), b = at(-h), c = at(h), d = at(2 * h);
  Doubles result(a.size());
  for (size_t j = 0; j < a.size(); ++j) result[j] = (a[j] - 8 * b[j] + 8 * c[j] - d[j]) / (12 * h);
  return result;
}

// sum_j c_j dy_j/dx_i for every element i of one input, and the largest sum of magnitudes among them.
struct ExactGradient {
  Doubles values;
  double magnitude = 0;
};
ExactGradient exact_gradient(const Operation& op, const std::vector<Doubles>& inputs, size_t input,
                             std::span<const float> c) {
  ExactGradient gradient;
  for (size_t i = 0; i < inputs[input].size(); ++i) {
    const Doubles dy = derivatives(op, inputs, input, i);
    REQUIRE(dy.size() == c.size());
    double sum = 0, terms = 0;
    for (size_t j = 0; j < dy.size(); ++j) {
      sum += static_cast<double>(c[j]) * dy[j];
      terms += std::fabs(static_cast<double>(c[j]) * dy[j]);
    }
    gradient.values.push_back(sum);
    gradient.magnitude = std::max(gradient.magnitude, terms);
  }
  return gradient;
}

void check_within(std::span<const float> got, const Doubles& expected, double bound) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(std::fabs(static_cast<double>(got[i]) - expected[i]) <= bound);
  }
}

void check_gradients(Backend& backend, BufferPool& pool, Random& random, const Operation& op) {
  std::vector<Doubles> inputs;
  for (const Tensor& input : op.inputs) inputs.emplace_back(values_of(input).begin(), values_of(input).end());
  std::vector<Tensor> leaves = op.inputs;
  for (Tensor& leaf : leaves) leaf.set_requires_grad(pool);

  Tape tape;
  Context ctx{backend, pool, &tape};
  const Tensor y = op.run(ctx, leaves);
  const Doubles expected = op.exact(inputs);
  double size = 0;
  for (const double value : expected) size = std::max(size, std::fabs(value));
  check_within(values_of(y), expected, roundings(op.roundings) * std::max(size, 1.0));

  // A loss is where the backward pass starts; anything else is turned into one by a product with random c.
  const int64_t n = y.shape().elements();
  const Tensor c = n == 1 ? tensor_of(pool, {1, 1}, {1.0f}) : random_tensor(random, pool, {1, n});
  tape.backward(pool, n == 1 ? y : linear(ctx, y.reshaped({1, n}), c));
  for (size_t k = 0; k < leaves.size(); ++k) {
    CAPTURE(k);
    const ExactGradient exact = exact_gradient(op, inputs, k, values_of(c));
    REQUIRE(exact.magnitude > 0);
    check_within(gradient_of(leaves[k]), exact.values, roundings(op.roundings) * exact.magnitude);
  }
}

std::vector<Tensor> random_tensors(Random& random, BufferPool& pool, std::initializer_list<Shape> shapes) {
  std::vector<Tensor> tensors;
  for (const Shape& shape : shapes) tensors.push_back(random_tensor(random, pool, shape));
  return tensors;
}

template <class F>
void on_every_backend(F f) {
  for_each_backend([&](Backend& backend) {
    const auto pool = BufferPool::make();
    Random random(17);
    check_gradients(backend, *pool, random, f(random, *pool));
  });
}

}  // namespace

TEST_CASE("embedding: the gradient of a row gathers from every token that reads it") {
  on_every_backend([](Random& random, BufferPool& pool) {
    constexpr int64_t M = 23, V = 7, C = 19;
    const Tensor tokens = random_integers(random, pool, M, V);
    return Operation{random_tensors(random, pool, {{V, C}}),
                     [=](Context& ctx, const auto& in) { return embedding(ctx, in[0], tokens); },
                     [=](const auto& in) {
                       Doubles y(M * C);
                       for (int64_t i = 0; i < M * C; ++i)
                         y[size_t(i)] = in[0][size_t(tokens.i32()[i / C] * C + i % C)];
                       return y;
                     },
                     M};
  });
}

TEST_CASE("rms_norm: gradients of input and weight") {
  on_every_backend([](Random& random, BufferPool& pool) {
    constexpr int64_t M = 6, C = 37;
    return Operation{random_tensors(random, pool, {{M, C}, {C}}),
                     [=](Context& ctx, const auto& in) { return rms_norm(ctx, in[0], in[1], 1e-2f); },
                     [=](const auto& in) {
                       Doubles y(M * C);
                       reference::rms_norm(M, C, double(1e-2f), in[0].data(), in[1].data(), y.data(),
                                           static_cast<double*>(nullptr));
                       return y;
                     },
                     3 * C + M + 10};
  });
}

TEST_CASE("linear: gradients of input, weight and residual") {
  for (const bool with_residual : {false, true}) {
    CAPTURE(with_residual);
    on_every_backend([=](Random& random, BufferPool& pool) {
      constexpr int64_t M = 5, K = 33, N = 17;
      Operation op{random_tensors(random, pool, {{M, K}, {N, K}}),
                   [=](Context& ctx, const auto& in) {
                     return linear(ctx, in[0], in[1], with_residual ? in[2] : Tensor());
                   },
                   [=](const auto& in) {
                     Doubles y(M * N);
                     reference::matmul_nt({M, N, K}, in[0].data(), in[1].data(), y.data(), false,
                                          with_residual ? in[2].data() : nullptr);
                     return y;
                   },
                   K + M + N + 3};
      if (with_residual) op.inputs.push_back(random_tensor(random, pool, {M, N}));
      return op;
    });
  }
}

TEST_CASE("rope: the gradient is rotated back") {
  on_every_backend([](Random& random, BufferPool& pool) {
    constexpr int64_t M = 9, H = 3, D = 10, P = 16;
    const std::vector<Tensor> table = random_tensors(random, pool, {{P, D / 2}, {P, D / 2}});
    const Tensor positions = random_integers(random, pool, M, P);
    return Operation{random_tensors(random, pool, {{M, H * D}}),
                     [=](Context& ctx, const auto& in) {
                       return rope(ctx, in[0], positions, RopeTable{table[0], table[1]}, H);
                     },
                     [=](const auto& in) {
                       const Doubles cos(values_of(table[0]).begin(), values_of(table[0]).end());
                       const Doubles sin(values_of(table[1]).begin(), values_of(table[1]).end());
                       Doubles y(M * H * D);
                       reference::rope({M, H, D, H * D}, positions.i32(), cos.data(), sin.data(),
                                       RopeDirection::forward, in[0].data(), y.data());
                       return y;
                     },
                     6};
  });
}

TEST_CASE("attention: gradients of queries, keys and values, alone and in groups") {
  for (const AttentionHeads heads : {AttentionHeads{2, 4, 2, 6}, {1, 3, 3, 9}, {1, 4, 1, 8}}) {
    CAPTURE(heads.kv);
    on_every_backend([=](Random& random, BufferPool& pool) {
      constexpr int64_t T = 7;
      const auto [B, H, G, D] = heads;
      const AttentionDims dims{B, T,     T,     H,         G,
                               D, H * D, G * D, T * G * D, 1 / std::sqrt(static_cast<float>(D))};
      return Operation{
          random_tensors(random, pool, {{B * T, H * D}, {B * T, G * D}, {B * T, G * D}}),
          [=](Context& ctx, const auto& in) { return attention(ctx, in[0], in[1], in[2], heads); },
          [=](const auto& in) {
            Doubles o(in[0].size());
            reference::attention(dims, in[0].data(), in[1].data(), in[2].data(), o.data(),
                                 static_cast<double*>(nullptr));
            return o;
          },
          // scores, exponentials, their sum, the mix; delta, dP, and sums over the positions of all heads of
          // a group
          static_cast<double>(2 * D + 2 * T + 2 * D + T * H / G + 20)};
    });
  }
}

TEST_CASE("swiglu: gradients of gate and up") {
  on_every_backend([](Random& random, BufferPool& pool) {
    Operation op{random_tensors(random, pool, {{3, 29}, {3, 29}}),
                 [](Context& ctx, const auto& in) { return swiglu(ctx, in[0], in[1]); },
                 [](const auto& in) {
                   Doubles y(in[0].size());
                   reference::swiglu(int64_t(y.size()), in[0].data(), in[1].data(), y.data());
                   return y;
                 },
                 20};
    for (int64_t i = 0; i < 87; ++i) op.inputs[0].f32()[i] *= 6;  // into both tails of the sigmoid
    return op;
  });
}

TEST_CASE("add: both terms get the gradient, a term that stands twice gets it twice") {
  for (const bool twice : {false, true}) {
    CAPTURE(twice);
    on_every_backend([=](Random& random, BufferPool& pool) {
      Operation op{random_tensors(random, pool, {{5, 7}}),
                   [=](Context& ctx, const auto& in) { return add(ctx, in[0], in[twice ? 0 : 1]); },
                   [=](const auto& in) {
                     Doubles y = in[0];
                     for (size_t i = 0; i < y.size(); ++i) y[i] += in[twice ? 0 : 1][i];
                     return y;
                   },
                   4};
      if (!twice) op.inputs.push_back(random_tensor(random, pool, {5, 7}));
      return op;
    });
  }
}

TEST_CASE("softmax: the gradient of its input") {
  on_every_backend([](Random& random, BufferPool& pool) {
    constexpr int64_t M = 4, N = 21;
    Operation op{random_tensors(random, pool, {{M, N}}),
                 [](Context& ctx, const auto& in) { return softmax(ctx, in[0]); },
                 [=](const auto& in) {
                   Doubles y(M * N);
                   reference::softmax(M, N, in[0].data(), y.data());
                   return y;
                 },
                 2 * N + 12};
    for (int64_t i = 0; i < M * N; ++i) op.inputs[0].f32()[i] *= 3;
    return op;
  });
}

TEST_CASE("cross_entropy: gradients of hidden states and head, ignored rows contribute nothing") {
  on_every_backend([](Random& random, BufferPool& pool) {
    constexpr int64_t M = 11, C = 13, V = 29;
    constexpr float kScale = 0.375f;
    const Tensor targets = random_integers(random, pool, M, V);
    targets.i32()[0] = targets.i32()[7] = -1;
    return Operation{
        random_tensors(random, pool, {{M, C}, {V, C}}),
        [=](Context& ctx, const auto& in) { return cross_entropy(ctx, in[0], in[1], targets, kScale); },
        [=](const auto& in) {
          Doubles logits(M * V), losses(M);
          reference::linear_cross_entropy({M, C, V}, in[0].data(), in[1].data(), targets.i32(), 1.0,
                                          logits.data(), M, losses.data(), static_cast<double*>(nullptr),
                                          static_cast<double*>(nullptr), false);
          double sum = 0;
          for (int64_t m = 0; m < M; ++m)
            if (targets.i32()[m] >= 0) sum += losses[size_t(m)];
          return Doubles{double(kScale) * sum};
        },
        2 * C + 2 * V + M + 12};
  });
}
