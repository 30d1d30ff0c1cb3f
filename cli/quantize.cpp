#include "export/quantize.h"

#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/exports.h"
#include "cli/terminal.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string in, out, type, importance;
  bool requantize = false;
  ComputeOptions compute;
};

void run(const Options& o) {
  const auto backend = make_backend(o.compute);
  std::optional<ImportanceMatrix> importance;
  if (!o.importance.empty()) importance = read_importance(o.importance);
  QuantizeOptions options;
  options.type = file_type_from_name(o.type);
  options.importance = importance ? &*importance : nullptr;
  options.requantize = o.requantize;
  catch_interrupts();
  Progress progress("quantising");
  options.progress = shown_on(progress);
  const std::vector<Fallback> fallbacks = quantize_file(o.in, o.out, options, *backend);
  progress.done();
  note_fallbacks(fallbacks);
  fmt::print("{}: {} → {}: {}\n", o.out, human_bytes(std::filesystem::file_size(o.in)),
             file_type_name(options.type), human_bytes(std::filesystem::file_size(o.out)));
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("quantize", "Converts a GGUF file to another type");
  command->add_option("input", o->in, "GGUF file, usually F32, F16 or BF16")->required();
  command->add_option("output", o->out, "GGUF file to write")->required();
  std::string types;
  for (const std::string_view name : file_type_names())
    types += (types.empty() ? "" : ", ") + std::string(name);
  command->add_option("type", o->type, "One of " + types)->required()->check(file_type());
  command->add_option("--imatrix", o->importance, "Importance matrix (GGUF or .dat) that weighs the errors");
  command->add_flag("--requantize", o->requantize,
                    "Allow tensors that are quantised already (loses quality)");
  add_compute_options(*command, o->compute);
  command->footer("Example:\n  gladius quantize model-F32.gguf model-Q4_K_M.gguf Q4_K_M");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
