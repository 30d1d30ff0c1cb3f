#include "model/generate.h"

#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string model, prompt, prompt_file;
  bool quiet = false;
  GenerateOptions generate;
  ComputeOptions compute;
};

void run(const Options& o) {
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const LoadedModel loaded = load_model(o.model, *backend, *pool, weight_use(o.compute));
  const auto tokenizer = make_tokenizer(loaded.vocab, o.model);
  const std::string prompt = o.prompt_file.empty() ? o.prompt : read_text(o.prompt_file);
  const std::vector<int32_t> ids = tokenizer->encode(prompt, true);
  if (ids.empty())
    fail("the prompt is empty and {} has no token to start a text with; give --prompt", o.model);
  check_prompt(ids, loaded.model, o.generate);
  if (!o.quiet) note_long_context(o.generate.context, loaded.model.config);

  catch_interrupts();
  if (!o.quiet) print(prompt);
  Context ctx{*backend, *pool};
  const Generated result = generate(ctx, loaded.model, *tokenizer, ids, o.generate, print, &interrupted());
  if (!o.quiet) {
    print("\n");
    const auto rate = [](size_t n, double seconds) {
      return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
    };
    note("{}; prompt {} tokens at {:.0f}/s, {} generated at {:.0f}/s\n", describe(result.reason), ids.size(),
         rate(ids.size(), result.prompt_seconds), result.tokens.size(),
         rate(result.tokens.size(), result.generation_seconds));
  }
  if (result.reason == StopReason::cancelled) throw Exit{kInterruptedExit};
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continues a text");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  auto* prompt = command->add_option("-p,--prompt", o->prompt, "Text to continue");
  command
      ->add_option("-f,--prompt-file", o->prompt_file, "File with the text to continue; - for standard input")
      ->excludes(prompt);
  command->add_option("-n,--tokens", o->generate.max_tokens, "Most tokens to generate")
      ->check(whole(0, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--context", o->generate.context, "Tokens to remember; 0: the model's context length")
      ->check(whole(0, kMostContext))
      ->capture_default_str();
  add_sampling_options(*command, o->generate);
  command->add_flag("--ignore-end", o->generate.ignore_end, "Go on past end-of-text tokens");
  command->add_flag("-q,--quiet", o->quiet, "Print the continuation alone");
  add_kv_type_option(*command, o->generate.kv_type);
  add_inference_options(*command, o->compute);
  command->footer("Example:\n  gladius generate model-Q4_K_M.gguf --prompt \"ROMEO:\" --tokens 200 --seed 1");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
