// Logits, loss and every parameter's gradient against PyTorch's LlamaForCausalLM, on every backend.
#include "tests/golden_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// Everything about one forward and backward pass that differs from PyTorch's.
std::vector<std::string> mismatches(const Golden& golden, const Model& model, Backend& backend,
                                    BufferPool& pool) {
  Tape tape;
  Context ctx{backend, pool};
  const TokenBatch batch = tokens_of(golden, pool);
  const RopeTable table = make_rope_table(golden.config, golden.length(), pool);
  const Tensor targets = golden.tensor("targets");
  const nlohmann::json& spread = golden.description["spread"];
  std::vector<std::string> lines;

  const Tensor scores = logits(ctx, model, forward(ctx, model, table, batch));
  compare("logits", values_of(scores), values_of(golden.tensor("logits")), spread["logits"], lines);

  ctx.tape = &tape;
  const Tensor hidden = forward(ctx, model, table, batch);
  const Tensor loss = cross_entropy(ctx, hidden, model.head(), targets, mean_over_targets(targets));
  const float expected_loss = golden.description["curve"][0].get<float>();
  compare("loss", values_of(loss), {&expected_loss, 1}, spread["curve"][0], lines);

  tape.backward(pool, loss);
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const std::string& name = model.specs[i].gguf_name;
    compare("gradient of " + name, gradient_of(model.weights[i]),
            values_of(golden.tensor("gradient." + name)), spread["gradient"][name], lines);
    model.weights[i].reset_grad();
  }
  return lines;
}

}  // namespace

TEST_CASE("logits, loss and every gradient are PyTorch's, with an untied and with a tied head") {
  for (const std::string name : {"untied", "tied"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    for_each_backend([&](Backend& backend) {
      const auto pool = BufferPool::make();
      const Model model = model_of(golden, *pool);
      CHECK(joined(mismatches(golden, model, backend, *pool)) == "");
    });
  }
}

TEST_CASE("the comparison notices a change of 0.1 % in any single weight, and a wrong angle") {
  const auto backend = make_cpu_backend(1);
  for (const std::string name : {"untied", "tied"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    const auto pool = BufferPool::make();
    const Model model = model_of(golden, *pool);
    for (size_t i = 0; i < model.weights.size(); ++i) {
      CAPTURE(model.specs[i].gguf_name);
      // An element that matters: the largest of a row that is used (of the embedding, the first token's).
      const int64_t columns = model.weights[i].shape()[-1];
      const int64_t row = i == 0 ? golden.tensor("tokens").i32()[0] : 0;
      float* values = model.weights[i].f32() + row * columns;
      float* element = std::max_element(values, values + columns,
                                        [](float a, float b) { return std::fabs(a) < std::fabs(b); });
      const float original = *element;
      *element *= 1.001f;
      CHECK(mismatches(golden, model, *backend, *pool).size() > 5);
      *element = original;
    }
    CHECK(joined(mismatches(golden, model, *backend, *pool)) == "");

    Golden other = golden;
    other.config.rope_theta *= 1.001f;
    CHECK(mismatches(other, model, *backend, *pool).size() > 5);
  }
}
