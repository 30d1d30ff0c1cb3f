#include "eval/perplexity.h"

#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/chunk_options.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string model;
  ChunkOptions text;
  ComputeOptions compute;
};

void report(const Options& o, const Chunks& chunks, const Perplexity& p, JsonOutput& json) {
  if (!json.to_stdout()) {
    fmt::print("PPL = {:.4f} +/- {:.4f}\n", p.perplexity.value, p.perplexity.error);
    fmt::print("{} tokens scored, {:.4f} +/- {:.4f} nats each, in {} chunks of {} tokens\n",
               grouped(p.positions), p.loss.value, p.loss.error, grouped(p.chunks), chunks.context);
  }
  json.write({{"model", o.model},
              {"context", chunks.context},
              {"chunks", p.chunks},
              {"tokens", p.positions},
              {"perplexity", to_json(p.perplexity)},
              {"loss", to_json(p.loss)}});
}

void run(const Options& o) {
  JsonOutput json(o.text.json);
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const LoadedModel loaded = load_model(o.model, *backend, *pool, weight_use(o.compute));
  const auto tokenizer = make_tokenizer(loaded.vocab, o.model);
  const std::vector<int32_t> tokens = read_tokens(*tokenizer, o.text.data);
  const Chunks chunks = cut_chunks(tokens, chunk_context(o.text.context, loaded.model.config), o.text.chunks);
  note_long_context(chunks.context, loaded.model.config);

  catch_interrupts();
  note_chunks(chunks);
  Context ctx{*backend, *pool};
  ModelScores scores(ctx, loaded.model, chunks, added_bos(loaded.vocab), o.model);
  Progress progress("scoring");
  const Perplexity result = perplexity(scores, chunks, loaded.model.config, [&](int64_t done, int64_t total) {
    progress.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total),
                    fmt::format("chunk {} of {}", done, total));
    return !interrupted().load();
  });
  progress.done();
  report(o, chunks, result, json);
  stop_if_interrupted();
}

}  // namespace

void add_perplexity(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("perplexity", "A model's perplexity of a text, as llama-perplexity measures it");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  add_chunk_options(*command, o->text)->required();
  add_inference_options(*command, o->compute);
  command->footer("Example:\n  gladius perplexity model-Q4_K_M.gguf --data held-out.txt --chunks 40");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
