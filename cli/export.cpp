#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <tuple>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/exports.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "cli/verify_export.h"
#include "export/hf.h"
#include "export/model_gguf.h"

namespace gladius::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string source, out, name, dtype = "F32", importance;
  std::vector<std::string> gguf;
  bool hf = false, best = false, requantize = false;
  VerifyOptions verify;
  ComputeOptions compute;
};

void run(const Options& o) {
  if (o.gguf.empty() && !o.hf) wrong_argument("--gguf TYPE or --hf", "nothing to export without one of them");
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const SourceModel source = load_model(o.source, *backend, *pool, WeightUse::rows, o.best);
  const std::string name = o.name.empty() ? file_name(source.model.config.name) : o.name;
  std::optional<ImportanceMatrix> importance;
  if (!o.importance.empty()) importance = read_importance(o.importance);
  QuantizeOptions options;
  options.importance = importance ? &*importance : nullptr;
  options.requantize = o.requantize;
  Context ctx{*backend, *pool};
  std::optional<ExportVerifier> verifier;
  if (o.verify.wanted) verifier.emplace(o.verify, ctx, source, o.source);
  make_folder(o.out);
  catch_interrupts();
  for (const std::string& type : o.gguf) {
    options.type = file_type_from_name(type);
    const fs::path path = export_gguf(source, fs::path(o.out), name, options, *backend);
    fmt::print("{}  {}\n", path.string(), human_bytes(fs::file_size(path)));
    if (verifier) verifier->gguf(path, options.importance);
  }
  if (o.hf) {
    stop_if_interrupted();
    const fs::path folder = fs::path(o.out) / (name + "-hf");
    save_hf(folder, source.model, source.vocab, {*dtype_from_name(o.dtype), source.provenance}, *backend);
    fmt::print("{}  {} weights\n", folder.string(), o.dtype);
    if (verifier) verifier->hugging_face(folder, *dtype_from_name(o.dtype));
  }
}

}  // namespace

std::string file_name(std::string name) {
  for (char& c : name) {
    if (c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '-';
  }
  return name.empty() || name == "." || name == ".." ? "model" : name;
}

std::function<void(const QuantizeStep&)> shown_on(Progress& progress) {
  return [&progress](const QuantizeStep& step) {
    stop_if_interrupted();
    progress.update(step.done, step.total, std::string(step.name));
  };
}

void note_fallbacks(const std::vector<Fallback>& fallbacks) {
  constexpr size_t kNames = 3;  // that a line lists
  std::map<std::tuple<DType, DType, int64_t>, std::vector<std::string>> groups;
  for (const Fallback& f : fallbacks) groups[{f.wanted, f.used, f.columns}].push_back(f.name);
  for (auto& [key, names] : groups) {
    const auto& [wanted, used, columns] = key;
    const size_t count = names.size();
    names.resize(std::min(count, kNames));
    if (count > kNames) names.back() += fmt::format(" and {} more", count - kNames);
    note("rows of {} are no multiple of {}'s {}: {} instead for {}\n", columns, dtype_info(wanted).name,
         dtype_info(wanted).block_size, dtype_info(used).name, fmt::join(names, ", "));
  }
}

fs::path export_gguf(const SourceModel& source, const fs::path& folder, const std::string& name,
                     QuantizeOptions options, Backend& backend) {
  const fs::path path = folder / fmt::format("{}-{}.gguf", name, file_type_name(options.type));
  Progress progress(fmt::format("writing {}", path.filename().string()));
  options.progress = shown_on(progress);
  const auto fallbacks = save_gguf(path, source.model, source.vocab, source.provenance, options, backend);
  progress.done();
  note_fallbacks(fallbacks);
  return path;
}

void add_export(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("export", "Writes a model as GGUF files and as a Hugging Face folder");
  command->add_option("source", o->source, "Checkpoint, training folder, GGUF file or Hugging Face folder")
      ->required();
  command->add_option("--gguf", o->gguf, "GGUF types, for example F32,Q4_K_M")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(file_type());
  command->add_flag("--hf", o->hf, "Write a Hugging Face folder");
  command->add_option("--out", o->out, "Folder to write into")->required();
  command->add_option("--name", o->name, "Start of the names; the model's own by default")
      ->check([](const std::string& name) {
        return file_name(name) == name ? std::string()
                                       : fmt::format("'{}' cannot be the start of a file's name", name);
      });
  command->add_option("--dtype", o->dtype, "Weights of the Hugging Face folder: F32, BF16 or F16")
      ->check(CLI::IsMember({"F32", "BF16", "F16"}))
      ->capture_default_str();
  command->add_option("--imatrix", o->importance,
                      "Importance matrix (GGUF or .dat) that weighs the quantisers' errors");
  command->add_flag("--requantize", o->requantize,
                    "Allow tensors that are quantised already (loses quality)");
  command->add_flag("--best", o->best,
                    "Of a training folder: the checkpoint with the best validation loss, not the newest");
  add_verify_options(*command, o->verify);
  add_compute_options(*command, o->compute);
  command->footer("Example:\n  gladius export run --gguf F32,Q4_K_M --hf --verify --out exported");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
