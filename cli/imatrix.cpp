#include <fmt/format.h>

#include <algorithm>

#include "cli/arguments.h"
#include "cli/chunk_options.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "eval/importance_collector.h"
#include "export/atomic_file.h"
#include "model/tokenizer.h"
#include "model/utf8.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string model, data, out, form;
  int64_t context = 0, chunks = 0;
  bool with_head = false;
  ComputeOptions compute;
};

ImportanceForm form_of(const Options& o) {
  const bool dat = o.form.empty() ? o.out.ends_with(".dat") : o.form == "dat";
  return dat ? ImportanceForm::dat : ImportanceForm::gguf;
}

void run(const Options& o) {
  static_cast<void>(AtomicFile(o.out));  // a place that cannot be written to is refused before the work
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const LoadedModel loaded = load_model(o.model, *backend, *pool, WeightUse::rows);
  const auto tokenizer = make_tokenizer(loaded.vocab, o.model);
  if (o.data.ends_with(".jsonl")) fail("{} is no plain text; give a text file", o.data);
  const std::vector<int32_t> tokens = tokenizer->encode(read_text(o.data), true);
  const int32_t bos = added_bos(loaded.vocab);
  const int64_t context = chunk_context(o.context, loaded.model.config);
  note_long_context(context, loaded.model.config);

  catch_interrupts();
  note("{} tokens of text, in chunks of {}\n", grouped(static_cast<int64_t>(tokens.size())), context);
  Progress progress("collecting");
  Context ctx{*backend, *pool};
  ImportanceMatrix matrix = collect_importance(
      ctx, loaded.model, tokens, bos, {context, o.chunks, o.with_head}, [&](int64_t done, int64_t total) {
        progress.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
        return !interrupted().load();
      });
  progress.done();
  if (utf8_is_valid(o.data)) matrix.datasets = {o.data};  // else no file could hold it
  write_importance(o.out, matrix, form_of(o));
  fmt::print("{}: {} matrices, {} chunk{} of {} tokens\n", o.out, matrix.entries.size(),
             grouped(matrix.chunks), matrix.chunks == 1 ? "" : "s", context);
  stop_if_interrupted();
}

}  // namespace

void add_imatrix(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "imatrix", "Importance matrix of a model's weights on a text, for quantize and llama-quantize");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  command->add_option("--data", o->data, "Text file; - for standard input")->required();
  command->add_option("--out", o->out, "File to write")->required();
  command->add_option("--form", o->form, "Form of the file: gguf or dat; by default what its name ends in")
      ->check(CLI::IsMember({"gguf", "dat"}));
  command
      ->add_option("--context", o->context,
                   "Tokens in a chunk; 0: 512, or the model's context length where that is less")
      ->check(whole(0, kMostContext))
      ->capture_default_str();
  command->add_option("--chunks", o->chunks, "At most so many chunks; 0: the whole text")
      ->check(whole(0, kMostSteps))
      ->capture_default_str();
  command->add_flag("--process-output", o->with_head, "Also for the head (output.weight)");
  add_compute_options(*command, o->compute);
  command->footer(
      "Ctrl-C writes what was collected so far.\n"
      "Example:\n"
      "  gladius imatrix model-F32.gguf --data text.txt --out imatrix.gguf\n"
      "  gladius quantize model-F32.gguf model-Q4_K_M.gguf Q4_K_M --imatrix imatrix.gguf");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
