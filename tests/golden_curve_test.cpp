// Ten training steps of AdamW with clipping against PyTorch's, on every backend.
#include "tests/golden_support.h"
#include "train/optimizer.h"

using namespace gladius;
using namespace gladius::test;

namespace {

AdamWOptions options_of(const nlohmann::json& settings) {
  AdamWOptions options;
  options.beta1 = settings["beta1"], options.beta2 = settings["beta2"], options.eps = settings["eps"];
  options.weight_decay = settings["weight_decay"], options.clip = settings["clip"];
  return options;
}

// Trains as PyTorch did and lists what differs: the loss before each step, and the weights after the last.
std::vector<std::string> mismatches(const Golden& golden, const AdamWOptions& options, Backend& backend) {
  const auto pool = BufferPool::make();
  Model model = model_of(golden, *pool);
  const TokenBatch batch = tokens_of(golden, *pool);
  const RopeTable table = make_rope_table(golden.config, golden.length(), *pool);
  const Tensor targets = golden.tensor("targets");
  const nlohmann::json& spread = golden.description["spread"];
  Tape tape;
  Context ctx{backend, *pool, &tape};
  AdamW optimiser(options, model, ctx);
  std::vector<std::string> lines;

  for (size_t step = 0; step < golden.description["curve"].size(); ++step) {
    const Tensor hidden = forward(ctx, model, table, batch);
    const Tensor loss = cross_entropy(ctx, hidden, model.head(), targets, mean_over_targets(targets));
    const float expected = golden.description["curve"][step].get<float>();
    compare(fmt::format("loss {}", step), values_of(loss), {&expected, 1}, spread["curve"][step], lines);
    tape.backward(*pool, loss);
    optimiser.step(ctx, model, golden.description["optimiser"]["lr"], optimiser.gradient_norm(ctx, model));
  }
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const std::string& name = model.specs[i].gguf_name;
    compare("final " + name, values_of(model.weights[i]), values_of(golden.tensor("final." + name)),
            spread["final"][name], lines);
  }
  return lines;
}

}  // namespace

TEST_CASE("ten steps of AdamW follow PyTorch's losses and end at its weights") {
  for (const std::string name : {"untied", "tied"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    const AdamWOptions options = options_of(golden.description["optimiser"]);
    for_each_backend([&](Backend& backend) { CHECK(joined(mismatches(golden, options, backend)) == ""); });
  }
}

TEST_CASE("the comparison notices each of the optimiser's settings") {
  const Golden golden = read_golden("untied");
  const AdamWOptions right = options_of(golden.description["optimiser"]);
  const auto backend = make_cpu_backend(1);
  const auto fails_with = [&](auto change) {
    AdamWOptions wrong = right;
    change(wrong);
    return mismatches(golden, wrong, *backend).size() > 5;
  };
  CHECK(fails_with([](AdamWOptions& o) { o.beta1 = 0.901; }));
  CHECK(fails_with([](AdamWOptions& o) { o.beta2 = 0.951; }));
  CHECK(fails_with([](AdamWOptions& o) { o.eps = 1e-6; }));
  CHECK(fails_with([](AdamWOptions& o) { o.weight_decay = 0.101; }));
  CHECK(fails_with([](AdamWOptions& o) { o.clip = 1.5; }));
  CHECK(fails_with([](AdamWOptions& o) { o.clip = 0; }));
}
