#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/arguments.h"
#include "cli/chunk_options.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "eval/text_loss.h"
#include "model/tokenizer.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string model, data;
  int64_t context = 0;
  ComputeOptions compute;
};

int64_t characters(const std::string& text) {  // UTF-8: every byte but continuation bytes starts one
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

void run(const Options& o) {
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const LoadedModel loaded = load_model(o.model, *backend, *pool, weight_use(o.compute));
  const auto tokenizer = make_tokenizer(loaded.vocab, o.model);
  if (o.data.ends_with(".jsonl")) fail("{} is no plain text; give a text file", o.data);
  const std::string text = read_text(o.data);
  const std::vector<int32_t> tokens = tokenizer->encode(text, false);
  const int32_t bos = added_bos(loaded.vocab);
  const int64_t context = o.context > 0 ? o.context : loaded.model.config.context;
  note_long_context(context, loaded.model.config);

  catch_interrupts();
  Progress progress("evaluating");
  Context ctx{*backend, *pool};
  const TextLoss loss = text_loss(ctx, loaded.model, tokens, bos, context, [&](int64_t done, int64_t total) {
    progress.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
    return !interrupted().load();
  });
  progress.done();
  stop_if_interrupted();
  if (loss.targets == 0) fail("{} holds no text to evaluate", o.data);

  const int64_t length = characters(text);
  fmt::print("{:.2f} nats per character\n", loss.nats / static_cast<double>(length));
  fmt::print("{:.4f} nats per token, perplexity {:.3f}: {} tokens, {} characters, {} bytes, windows of {}\n",
             loss.nats / static_cast<double>(loss.targets),
             std::exp(loss.nats / static_cast<double>(loss.targets)), grouped(loss.targets), grouped(length),
             grouped(static_cast<int64_t>(text.size())), context);
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("evaluate", "How well a model predicts a text");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  command->add_option("--data", o->data, "Text file; - for standard input")->required();
  command->add_option("--context", o->context, "Tokens in a window; 0: the model's context length")
      ->check(whole(0, kMostContext))
      ->capture_default_str();
  add_inference_options(*command, o->compute);
  command->footer("Example:\n  gladius evaluate model-Q4_K_M.gguf --data held-out.txt --context 256");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
