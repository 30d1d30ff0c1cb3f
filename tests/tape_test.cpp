// The tape: how gradients meet, move and accumulate, and that a batch may be split in any way.
#include <functional>
#include <numeric>
#include <set>

#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

std::vector<float> copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

Tensor trainable(Random& random, BufferPool& pool, Shape shape) {
  Tensor tensor = random_tensor(random, pool, shape);
  tensor.set_requires_grad(pool);
  return tensor;
}

// The sum of all elements, as an operation.
Tensor sum(Context& ctx, const Tensor& x) {
  const int64_t n = x.shape().elements();
  return linear(ctx, x.reshaped({1, n}),
                tensor_of(ctx.pool, {1, n}, std::vector<float>(static_cast<size_t>(n), 1.0f)));
}

// dL/dx where L is the sum of f(ctx, x).
template <class F>
std::vector<float> gradient(Backend& backend, BufferPool& pool, const Tensor& x, F f) {
  Tape tape;
  Context ctx{backend, pool, &tape};
  x.reset_grad();
  const Tensor y = f(ctx, x);
  tape.backward(pool, sum(ctx, y));
  return copy_of(gradient_of(x));
}

std::vector<float> plus(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> c(a.size());
  for (size_t i = 0; i < a.size(); ++i) c[i] = a[i] + b[i];
  return c;
}

// Sequences of tokens and targets, some of them ignored.
struct Sequences {
  int64_t B, T;
  std::vector<int32_t> tokens, targets;
  Sequences(Random& random, int64_t sequences, int64_t length, int64_t vocab) : B(sequences), T(length) {
    for (int64_t m = 0; m < B * T; ++m) {
      tokens.push_back(static_cast<int32_t>(random.below(vocab)));
      targets.push_back(random.below(4) == 0 ? -1 : static_cast<int32_t>(random.below(vocab)));
    }
  }
  int64_t target_count() const {
    return std::count_if(targets.begin(), targets.end(), [](int32_t target) { return target >= 0; });
  }
};

// Adds the gradient of sequences [first, last) to the model's.
void add_gradient(Backend& backend, BufferPool& pool, const Model& model, const Sequences& data,
                  int64_t first, int64_t last, float scale) {
  Tape tape;
  Context ctx{backend, pool, &tape};
  const int64_t T = data.T;
  TokenBatch batch = make_token_batch(last - first, T, pool);
  std::copy(data.tokens.begin() + first * T, data.tokens.begin() + last * T, batch.tokens.i32());
  const Tensor targets = integers_of(
      pool, std::span(data.targets)
                .subspan(static_cast<size_t>(first * T), static_cast<size_t>((last - first) * T)));
  const RopeTable table = make_rope_table(model.config, T, pool);
  const Tensor hidden = forward(ctx, model, table, batch);
  tape.backward(pool, cross_entropy(ctx, hidden, model.head(), targets, scale));
}

std::vector<std::vector<float>> gradients_of(const Model& model) {
  std::vector<std::vector<float>> gradients;
  for (const Tensor& weight : model.weights) gradients.push_back(copy_of(gradient_of(weight)));
  return gradients;
}
void reset(const Model& model) {
  for (const Tensor& weight : model.weights) weight.reset_grad();
}

// Random borders: 0 < ... < B.
std::vector<int64_t> random_split(Random& random, int64_t B) {
  std::vector<int64_t> borders{0};
  while (borders.back() < B) borders.push_back(borders.back() + 1 + random.below(B - borders.back()));
  return borders;
}

}  // namespace

TEST_CASE("an input with several users gets the sum of their gradients") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Random random(3);
  const Tensor x = trainable(random, *pool, {4, 6});
  const Tensor w = random_tensor(random, *pool, {6, 6}), v = random_tensor(random, *pool, {6, 6});
  const auto one =
      gradient(*backend, *pool, x, [&](Context& ctx, const Tensor& in) { return linear(ctx, in, w); });
  const auto two = gradient(*backend, *pool, x, [&](Context& ctx, const Tensor& in) {
    return linear(ctx, softmax(ctx, linear(ctx, in, v)), w);
  });
  const auto both = gradient(*backend, *pool, x, [&](Context& ctx, const Tensor& in) {
    return add(ctx, linear(ctx, in, w), linear(ctx, softmax(ctx, linear(ctx, in, v)), w));
  });
  const auto swapped = gradient(*backend, *pool, x, [&](Context& ctx, const Tensor& in) {
    const Tensor right = linear(ctx, softmax(ctx, linear(ctx, in, v)), w);
    return add(ctx, linear(ctx, in, w), right);
  });
  // The first contribution is rounded to float, the sum in double once more.
  const double bound = 2 * unit_roundoff * (largest(one) + largest(two));
  CHECK(largest_difference(both, plus(one, two)) <= bound);
  CHECK(largest_difference(swapped, both) <= bound);
  CHECK(largest_difference(both, one) > 0.01);  // the second contribution is not negligible
}

TEST_CASE("a residual stream's gradient is handed down whether or not another user came first") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Random random(4);
    const Tensor x = trainable(random, *pool, {5, 8});
    Tensor norm = random_tensor(random, *pool, {8});
    norm.set_requires_grad(*pool);
    const Tensor w = random_tensor(random, *pool, {8, 8});
    const auto branch = [&](Context& ctx, const Tensor& in) {
      return linear(ctx, rms_norm(ctx, in, norm, 1e-5f), w);
    };
    const std::vector<float> inner = gradient(backend, *pool, x, branch);
    norm.reset_grad();
    const std::vector<float> ones(inner.size(), 1.0f);  // the gradient along the stream

    // Its branch's backward step runs after the stream's: x takes over the stream's memory, the branch adds
    // to it.
    const auto fused = gradient(backend, *pool, x, [&](Context& ctx, const Tensor& in) {
      return linear(ctx, rms_norm(ctx, in, norm, 1e-5f), w, in);
    });
    // A further user contributes first, so the stream's gradient has to be added.
    norm.reset_grad();
    const auto with_another = gradient(backend, *pool, x, [&](Context& ctx, const Tensor& in) {
      const Tensor y = linear(ctx, rms_norm(ctx, in, norm, 1e-5f), w, in);
      return add(ctx, y, in);
    });
    norm.reset_grad();
    const double bound = roundings(8 + 3 * 8 + 8) * (largest(inner) + 2);
    CHECK(largest_difference(fused, plus(inner, ones)) <= bound);
    CHECK(largest_difference(with_another, plus(inner, plus(ones, ones))) <= bound);
  });
}

TEST_CASE("an input that is its own residual gets both gradients") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  const Tensor w = tensor_of(*pool, {2, 2}, {1, 2, 3, 4});
  Tensor x = tensor_of(*pool, {1, 2}, {5, 6});
  x.set_requires_grad(*pool);
  const auto dx =
      gradient(*backend, *pool, x, [&](Context& ctx, const Tensor& in) { return linear(ctx, in, w, in); });
  CHECK(dx == std::vector<float>{1 + 1 + 3, 1 + 2 + 4});
}

TEST_CASE("contributions overwrite first, then accumulate, until the gradient is reset") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Tensor x = tensor_of(*pool, {1, 2}, {1, 2});
  x.set_requires_grad(*pool);
  CHECK(x.requires_grad());
  CHECK_FALSE(x.has_grad());
  CHECK_THROWS_AS(x.grad(), Error);

  const Tensor w = tensor_of(*pool, {1, 2}, {3, 5});
  for (int pass = 1; pass <= 3; ++pass) {
    Tape tape;
    Context ctx{*backend, *pool, &tape};
    tape.backward(*pool, linear(ctx, x, w));
    CHECK(copy_of(gradient_of(x)) ==
          std::vector<float>{3.0f * static_cast<float>(pass), 5.0f * static_cast<float>(pass)});
  }
  const float* memory = x.grad();
  x.reset_grad();
  CHECK_FALSE(x.has_grad());
  Tape tape;
  Context ctx{*backend, *pool, &tape};
  tape.backward(*pool, linear(ctx, x, w));
  CHECK(copy_of(gradient_of(x)) == std::vector<float>{3, 5});
  CHECK(x.grad() == memory);
}

TEST_CASE("nothing is recorded without a tape or for inputs without gradients") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Random random(5);
  const Tensor constant = random_tensor(random, *pool, {2, 3}), w = random_tensor(random, *pool, {3, 3});
  Tape tape;
  Context ctx{*backend, *pool, &tape};
  CHECK_FALSE(linear(ctx, constant, w).requires_grad());
  CHECK(tape.size() == 0);
  const Tensor x = trainable(random, *pool, {2, 3});
  CHECK(linear(ctx, x, w).requires_grad());
  CHECK(tape.size() == 1);
  tape.clear();
  ctx.tape = nullptr;
  CHECK_FALSE(linear(ctx, x, w).requires_grad());
}

TEST_CASE("the tape is empty after a backward pass and gives its saved tensors back") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Random random(6);
  const Tensor x = trainable(random, *pool, {64, 64}), w = trainable(random, *pool, {64, 64});
  size_t in_use = 0;
  for (int pass = 0; pass < 3; ++pass) {
    Tape tape;
    {
      Context ctx{*backend, *pool, &tape};
      Tensor y = x;
      for (int i = 0; i < 5; ++i) y = linear(ctx, softmax(ctx, y), w, y);
      const Tensor loss = sum(ctx, y);
      CHECK(tape.size() == 11);
      tape.backward(*pool, loss);
    }
    CHECK(tape.size() == 0);
    if (pass == 0) in_use = pool->bytes_in_use();
    CHECK(pool->bytes_in_use() == in_use);
  }
}

TEST_CASE("misuse of the tape is an error that says what is wrong") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Random random(7);
  const Tensor x = trainable(random, *pool, {2, 3}), w = trainable(random, *pool, {3, 3});
  Tape tape;
  Context ctx{*backend, *pool, &tape};
  const Tensor y = linear(ctx, x, w);
  CHECK(contains(message_of([&] { tape.backward(*pool, y); }), "[2, 3]"));

  // A gradient that may be written once only, but has two users.
  tape.clear();
  const Tensor g = linear(ctx, x, w);
  const Tensor twice = sum(ctx, swiglu(ctx, g, g));
  CHECK(contains(message_of([&] { tape.backward(*pool, twice); }), "second user"));

  // Gradients of a loss are computed before the tape knows what the loss is multiplied with.
  tape.clear();
  x.reset_grad(), w.reset_grad();
  const Tensor targets = integers_of(*pool, std::vector<int32_t>{1, 2});
  const Tensor loss = cross_entropy(ctx, linear(ctx, x, w), w, targets, 1.0f);
  const Tensor doubled = add(ctx, loss, loss);
  CHECK(contains(message_of([&] { tape.backward(*pool, doubled); }), "cross_entropy"));
  tape.clear();
}

// Against the plain loops, which round the same factors to BF16: only the order of additions differs.
TEST_CASE("a linear layer in bf16: products of rounded factors, forward and backward") {
  constexpr int64_t M = 11, N = 37, K = 53;
  const auto run = [](Backend& backend, Precision precision) {
    const auto pool = BufferPool::make();
    Random random(12);
    const Tensor x = trainable(random, *pool, {M, K}), w = trainable(random, *pool, {N, K});
    Tape tape;
    Context ctx{backend, *pool, &tape, precision};
    const Tensor y = linear(ctx, x, w);
    const Tensor loss = sum(ctx, y);
    tape.backward(*pool, loss);
    return std::vector{copy_of(values_of(y)), copy_of(gradient_of(x)), copy_of(gradient_of(w))};
  };
  const auto plain = make_reference_backend();
  const auto expected = run(*plain, Precision::bf16), exact = run(*plain, Precision::fp32);
  CHECK(expected != exact);
  for_each_backend([&](Backend& backend) {
    const auto got = run(backend, Precision::bf16);
    for (size_t i = 0; i < got.size(); ++i) {
      REQUIRE(got[i].size() == expected[i].size());
      // Factors are at most 1: a sum of n products has magnitude below n.
      const double n = static_cast<double>(i == 0 ? K : i == 1 ? N : M);
      for (size_t j = 0; j < got[i].size(); ++j)
        CHECK(std::fabs(double(got[i][j]) - double(expected[i][j])) <= (n + 2) * n * 0x1p-24);
    }
  });
}

TEST_CASE("operations that the loss does not depend on contribute nothing") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Random random(10);
    const Tensor x = trainable(random, *pool, {4, 6}), w = trainable(random, *pool, {6, 6});
    const Tensor v = trainable(random, *pool, {6, 6}), norm = trainable(random, *pool, {6});
    const Tensor positions = integers_of(*pool, std::vector<int32_t>{0, 1, 2, 3});
    const RopeTable table{random_tensor(random, *pool, {4, 1}), random_tensor(random, *pool, {4, 1})};
    const auto used = [&](Context& ctx, const Tensor& in) { return softmax(ctx, linear(ctx, in, w)); };
    const auto alone = gradient(backend, *pool, x, used), dw = copy_of(gradient_of(w));
    w.reset_grad();
    const auto beside = gradient(backend, *pool, x, [&](Context& ctx, const Tensor& in) {
      const auto project = [&] { return linear(ctx, in, v, in); };
      add(ctx, rms_norm(ctx, project(), norm, 1e-5f), softmax(ctx, project()));
      const Tensor y = used(ctx, in);
      const Tensor q = rope(ctx, project(), positions, table, 3);
      swiglu(ctx, attention(ctx, q, project(), project(), {2, 3, 3, 2}), project());
      embedding(ctx, v, positions);
      return y;
    });
    CHECK(beside == alone);
    CHECK(copy_of(gradient_of(w)) == dw);
    CHECK_FALSE(v.has_grad());
    CHECK_FALSE(norm.has_grad());
  });
}

TEST_CASE("the gradient of an input does not depend on whether the others are trained") {
  struct Operation {
    std::string name;
    std::vector<Shape> inputs;
    std::function<Tensor(Context&, const std::vector<Tensor>&)> run;
  };
  const std::vector<Operation> operations = {
      {"linear",
       {{6, 12}, {5, 12}, {6, 5}},
       [](Context& ctx, const auto& in) { return linear(ctx, in[0], in[1], in[2]); }},
      {"rms_norm",
       {{6, 12}, {12}},
       [](Context& ctx, const auto& in) { return rms_norm(ctx, in[0], in[1], 1e-5f); }},
      {"attention",
       {{6, 12}, {6, 6}, {6, 6}},
       [](Context& ctx, const auto& in) { return attention(ctx, in[0], in[1], in[2], {2, 4, 2, 3}); }},
      {"swiglu", {{6, 12}, {6, 12}}, [](Context& ctx, const auto& in) { return swiglu(ctx, in[0], in[1]); }},
      {"add", {{6, 12}, {6, 12}}, [](Context& ctx, const auto& in) { return add(ctx, in[0], in[1]); }},
  };
  for_each_backend([&](Backend& backend) {
    const auto pool = BufferPool::make();
    for (const Operation& operation : operations) {
      CAPTURE(operation.name);
      Random random(11);
      std::vector<Tensor> constants;
      for (const Shape& shape : operation.inputs) constants.push_back(random_tensor(random, *pool, shape));
      Tensor c;  // random factors of the outputs' sum
      const auto run = [&](const std::set<size_t>& trained) {
        std::vector<Tensor> inputs = constants;
        for (const size_t i : trained) inputs[i].set_requires_grad(*pool);
        Tape tape;
        Context ctx{backend, *pool, &tape};
        const Tensor y = operation.run(ctx, inputs);
        const int64_t n = y.shape().elements();
        if (!c.defined()) c = random_tensor(random, *pool, {1, n});
        tape.backward(*pool, linear(ctx, y.reshaped({1, n}), c));
        return inputs;
      };
      std::set<size_t> all;
      for (size_t i = 0; i < constants.size(); ++i) all.insert(i);
      const std::vector<Tensor> together = run(all);
      for (size_t i = 0; i < constants.size(); ++i) {
        CAPTURE(i);
        CHECK(largest(gradient_of(together[i])) > 0);
        CHECK(same_bits(gradient_of(run({i})[i]), gradient_of(together[i])));
        std::set<size_t> others = all;
        others.erase(i);
        const std::vector<Tensor> without = run(others);
        for (const size_t k : others) CHECK(same_bits(gradient_of(without[k]), gradient_of(together[k])));
      }
    }
  });
}

TEST_CASE("a loss that is given up leaves its head's gradient to be reset") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Random random(12);
  const Tensor x = trainable(random, *pool, {2, 3}), w = trainable(random, *pool, {5, 3});
  const Tensor targets = integers_of(*pool, std::vector<int32_t>{1, 2});
  Tape tape;
  Context ctx{*backend, *pool, &tape};
  const auto loss = [&] { return cross_entropy(ctx, softmax(ctx, x), w, targets, 1.0f); };
  tape.backward(*pool, loss());
  const auto expected = copy_of(gradient_of(w)), dx = copy_of(gradient_of(x));
  x.reset_grad(), w.reset_grad();

  loss();
  tape.clear();
  CHECK_FALSE(x.has_grad());
  CHECK(w.has_grad());  // as Tape::clear says
  w.reset_grad();
  tape.backward(*pool, loss());
  CHECK(copy_of(gradient_of(w)) == expected);
  CHECK(copy_of(gradient_of(x)) == dx);

  // Nor may another loss be where backward starts: this one's gradients are there already.
  loss();
  const Tensor other = sum(ctx, softmax(ctx, x));
  CHECK(contains(message_of([&] { tape.backward(*pool, other); }), "cross_entropy"));
}

TEST_CASE("a tied head and embedding: one weight, the sum of both gradients") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    const Config tied_config = small_config(true), untied_config = small_config(false);
    const Model tied = random_model(tied_config, 5, *pool);
    Model untied = blank_model(untied_config, *pool);  // the same weights, the head a copy of the embedding
    for (size_t i = 0; i < untied.specs.size(); ++i) {
      const size_t from = i < 2 ? i : i == 2 ? 0 : i - 1;
      std::copy_n(tied.weights[from].f32(), untied.specs[i].shape.elements(), untied.weights[i].f32());
    }
    set_trainable(untied, *pool);
    Random random(8);
    const Sequences data(random, 2, 9, tied_config.vocab);
    add_gradient(backend, *pool, tied, data, 0, 2, 0.1f);
    add_gradient(backend, *pool, untied, data, 0, 2, 0.1f);

    const std::vector<float> embedding = copy_of(gradient_of(untied.weights[0])),
                             head = copy_of(gradient_of(untied.weights[2]));
    // The embedding's rows add up to 18 tokens' gradients on top of the head's, which is one rounding each.
    const double bound = roundings(20) * (largest(embedding) + largest(head));
    CHECK(largest_difference(gradient_of(tied.weights[0]), plus(embedding, head)) <= bound);
    CHECK(largest(embedding) > 100 * bound);
    CHECK(largest(head) > 100 * bound);
    for (size_t i = 3; i < untied.specs.size(); ++i) {
      CHECK(same_bits(gradient_of(untied.weights[i]), gradient_of(tied.weights[i - 1])));
    }
  });
}

TEST_CASE("a batch split into any micro-batches gives the same gradient") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Random random(9);
    for (const bool tied : {false, true}) {
      const Config config = small_config(tied);
      const Model model = random_model(config, 6, *pool);
      for (int trial = 0; trial < (small_tests() ? 1 : 6); ++trial) {
        const int64_t B = 2 + random.below(5), T = 1 + random.below(11);
        CAPTURE(B);
        CAPTURE(T);
        const Sequences data(random, B, T, config.vocab);
        const float scale = 1.0f / static_cast<float>(std::max<int64_t>(data.target_count(), 1));
        reset(model);
        add_gradient(backend, *pool, model, data, 0, B, scale);
        const auto whole = gradients_of(model);

        // What a gradient's rounding errors are relative to: the contributions of the sequences, one by one.
        std::vector<double> magnitude(model.weights.size());
        for (int64_t b = 0; b < B; ++b) {
          reset(model);
          add_gradient(backend, *pool, model, data, b, b + 1, scale);
          for (size_t i = 0; i < magnitude.size(); ++i)
            magnitude[i] += largest(gradient_of(model.weights[i]));
        }

        const std::vector<int64_t> borders = random_split(random, B);
        reset(model);
        for (size_t i = 0; i + 1 < borders.size(); ++i)
          add_gradient(backend, *pool, model, data, borders[i], borders[i + 1], scale);
        for (size_t i = 0; i < model.weights.size(); ++i) {
          CAPTURE(model.specs[i].gguf_name);
          const double bound = 2 * roundings(gradient_roundings(config, T, B * T)) * magnitude[i];
          CHECK(largest_difference(gradient_of(model.weights[i]), whole[i]) <= bound);
        }
      }
    }
  });
}
