#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "export/atomic_file.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string model, ids, out;
  std::optional<int64_t> layers;
  ComputeOptions compute;
};

std::vector<int32_t> read_ids(const std::string& path, int64_t vocab) {
  std::vector<int32_t> ids;
  try {
    const auto parsed = nlohmann::json::parse(read_text(path));
    if (!parsed.is_array()) fail("{} is not a JSON array of token ids", path);
    for (const auto& id : parsed) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab))
        fail("{}: {} is not the id of a token, 0 to {}", path, id.dump(), vocab - 1);
      ids.push_back(id.get<int32_t>());
    }
  } catch (const nlohmann::json::exception& error) {
    fail("{} is not a JSON array of token ids: {}", path, error.what());
  }
  if (ids.empty()) fail("{} holds no token ids", path);
  return ids;
}

void run(const Options& o) {
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const LoadedModel loaded = load_model(o.model, *backend, *pool, weight_use(o.compute));
  const Config& config = loaded.model.config;
  if (o.layers && *o.layers > config.layers)
    fail("{} has {} layers, and --layers is {}", o.model, config.layers, *o.layers);
  const Model model = first_layers(loaded.model, o.layers.value_or(config.layers));
  const std::vector<int32_t> ids = read_ids(o.ids, config.vocab);
  const auto T = static_cast<int64_t>(ids.size());
  AtomicFile out(o.out, static_cast<uint64_t>(T * config.vocab) * sizeof(float));

  Context ctx{*backend, *pool};
  TokenBatch batch = make_token_batch(1, T, *pool);
  std::copy(ids.begin(), ids.end(), batch.tokens.i32());
  const RopeTable table = make_rope_table(config, T, *pool);
  const Tensor scores = logits(ctx, model, forward(ctx, model, table, batch));

  out.write(std::span(scores.data(), scores.bytes()));
  out.commit();
}

}  // namespace

void add_logits(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("logits", "Writes the scores of every token at every position, to compare programs");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  command->add_option("--ids-json", o->ids, "File with a JSON array of token ids")->required();
  command->add_option("--out", o->out, "Output: little-endian float32 [tokens, vocabulary]")->required();
  command
      ->add_option("--layers", o->layers,
                   "Only so many layers before the last norm and the head: to see from where programs differ")
      ->check(whole(0, 1000000));
  add_inference_options(*command, o->compute);
  command->footer(
      "Example:\n  echo '[1, 306, 626]' > ids.json\n  gladius logits model.gguf --ids-json ids.json --out "
      "logits.f32");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
