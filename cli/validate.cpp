#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "cli/arguments.h"
#include "cli/chunk_options.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "cli/validate_report.h"
#include "eval/comparison.h"
#include "eval/logits_file.h"
#include "eval/tensor_errors.h"
#include "eval/weight_check.h"

namespace gladius::cli {
namespace {

struct Options {
  std::vector<std::string> models;  // base and tested, or tested only
  std::string base_logits;
  ChunkOptions text;
  int64_t worst = 10;
  std::optional<double> max_kld, min_top1;
  int64_t per_tensor = 0;
  std::string svg;
  bool check_weights = true;
  ComputeOptions compute;

  const std::string& base() const { return base_logits.empty() ? models.front() : base_logits; }
  const std::string& tested() const { return models.back(); }
};

constexpr int64_t kFewPositions = 100;

void check_arguments(const Options& o) {
  if (o.base_logits.empty()) {
    if (o.models.size() != 2)
      wrong_argument("models", "give two, the base and the tested one, or --base-logits");
    if (o.text.data.empty()) wrong_argument("--data", "is required");
  } else if (o.models.size() != 1) {
    wrong_argument("models", "with --base-logits, which stands for the base, give the tested one only");
  }
  if (!o.svg.empty() && o.per_tensor == 0) wrong_argument("--svg", "draws what --per-tensor estimates");
}

// The base: a model, or a file of another program.
struct Base {
  std::optional<LoadedModel> model;
  std::optional<LogitsFile> file;
};

Base open_base(const Options& o, const LoadedModel& tested, Backend& backend, BufferPool& pool) {
  Base base;
  if (o.base_logits.empty()) {
    base.model = load_model(o.base(), backend, pool, weight_use(o.compute));
    check_same_vocab(base.model->vocab, o.base(), tested.vocab, o.tested());
    if (const int64_t a = base.model->model.config.vocab, b = tested.model.config.vocab; a != b)
      fail("{} and {} cannot be compared: they score {} and {} tokens", o.base(), o.tested(), a, b);
  } else {
    base.file = LogitsFile::open(o.base_logits);
    if (base.file->vocab() != tested.model.config.vocab)
      fail("{} and {} cannot be compared: they have {} and {} tokens", o.base(), o.tested(),
           base.file->vocab(), tested.model.config.vocab);
  }
  return base;
}

std::vector<PositionScore> score(const Options& o, Context& ctx, const Base& base, const LoadedModel& tested,
                                 const Chunks& chunks, int32_t bos) {
  std::unique_ptr<ScoreSource> base_scores;
  if (base.file) {
    base_scores = std::make_unique<LogitsFileScores>(ctx, *base.file);
  } else {
    base_scores = std::make_unique<ModelScores>(ctx, base.model->model, chunks, bos, o.base());
  }
  ModelScores tested_scores(ctx, tested.model, chunks, bos, o.tested());
  catch_interrupts();
  note_chunks(chunks);
  Progress progress("comparing");
  return compare(*base_scores, tested_scores, chunks, tested.model.config, ctx.backend.threads(),
                 [&](int64_t done, int64_t total) {
                   progress.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total),
                                   fmt::format("chunk {} of {}", done, total));
                   return !interrupted().load();
                 });
}

// Which limits were missed, and by which figures; empty: none.
std::string missed_limits(const Options& o, const Comparison& c) {
  std::string missed;
  const double kld = c.kld.mean.value, top1 = 100 * c.same_top.value;
  if (o.max_kld && !(kld <= *o.max_kld))
    missed = fmt::format("the mean KL divergence is {:.6f}, above --max-kld {}", kld, *o.max_kld);
  if (o.min_top1 && !(top1 >= *o.min_top1))
    missed += fmt::format("{}the likeliest token is the same at {:.3f} %, below --min-top1 {}",
                          missed.empty() ? "" : "; ", top1, *o.min_top1);
  return missed;
}

// What the comparison works on.
struct Subject {
  Base base;
  LoadedModel tested;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<int32_t> tokens;
  Chunks chunks;
  int32_t bos = -1;
};

Subject open_subject(const Options& o, Backend& backend, BufferPool& pool) {
  Subject s;
  // --per-tensor reads the rows of its weights.
  s.tested =
      load_model(o.tested(), backend, pool, o.per_tensor > 0 ? WeightUse::rows : weight_use(o.compute));
  s.base = open_base(o, s.tested, backend, pool);
  const Vocab& vocab = s.base.model ? s.base.model->vocab : s.tested.vocab;
  s.tokenizer = make_tokenizer(vocab, s.base.model ? o.base() : o.tested());
  s.bos = added_bos(vocab);
  if (s.base.model) {
    if (o.per_tensor > 0) check_same_architecture(s.base.model->model, o.base(), s.tested.model, o.tested());
    s.tokens = read_tokens(*s.tokenizer, o.text.data);
    const int64_t context = std::min(chunk_context(o.text.context, s.base.model->model.config),
                                     chunk_context(o.text.context, s.tested.model.config));
    s.chunks = cut_chunks(s.tokens, context, o.text.chunks);
  } else {
    s.chunks = s.base.file->chunks(o.text.chunks);
  }
  note_long_context(s.chunks.context, s.tested.model.config);
  return s;
}

// A model's weights in rows, which are mapped or in memory already: little is read twice.
Model rows_of(const Model& model, const std::string& path, Context& ctx) {
  const bool panels = std::any_of(model.weights.begin(), model.weights.end(),
                                  [](const Tensor& weight) { return weight.panels(); });
  return panels ? load_model(path, ctx.backend, ctx.pool, WeightUse::rows).model : model;
}

// Whether the tested weights are the base's, converted. Nothing where there is no base to look into.
WeightReport compare_weights(const Options& o, Context& ctx, const Subject& s) {
  WeightReport report;
  if (!o.check_weights || !s.base.model || interrupted().load()) return report;
  const Model &base = s.base.model->model, &tested = s.tested.model;
  if (!table_difference(base, o.base(), tested, o.tested()).empty()) return report;
  report.config = config_difference(base, o.base(), tested, o.tested());
  report.checks = check_weights(ctx, rows_of(base, o.base(), ctx), rows_of(tested, o.tested(), ctx),
                                s.base.model->importance || s.tested.importance);
  report.faults = faults_of(report.checks);
  return report;
}

// Needs the base's weights in F32, which take the place of those that were compared.
TensorErrors estimate_by_tensor(const Options& o, Context& ctx, Subject& s) {
  s.base = {};
  ctx.pool.release_free();
  LoadedModel base = load_model(o.base(), ctx.backend, ctx.pool, WeightUse::training);
  set_trainable(base.model, ctx.pool);
  const int64_t context = std::min(kTensorErrorWindow, s.chunks.context);
  const int64_t samples = std::max<int64_t>(2, o.per_tensor / context);
  const Chunks windows = cut_chunks(s.tokens, context, samples);
  Progress progress("estimating by tensor");
  return tensor_errors(ctx, base.model, s.tested.model, windows, samples, s.bos, 1,
                       [&](int64_t done, int64_t total) {
                         progress.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
                         return !interrupted().load();
                       });
}

void report(const Options& o, const Subject& s, const Comparison& comparison,
            std::span<const PositionScore> worst, const WeightReport& weights) {
  fmt::print("base    {}\ntested  {}\n{} positions in chunks of {} tokens\n", o.base(), o.tested(),
             grouped(comparison.positions), s.chunks.context);
  print_comparison(comparison);
  print_worst(worst, *s.tokenizer, s.chunks);
  print_weights(weights);
}

void report_by_tensor(const Options& o, Context& ctx, Subject& s, AtomicFile* svg, bool print,
                      nlohmann::ordered_json& results) {
  const TensorErrors errors = estimate_by_tensor(o, ctx, s);
  if (print) print_tensor_errors(errors, s.tested.model);
  if (svg) {
    const auto name = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
    svg->write(tensor_errors_svg(errors, fmt::format("KL divergence by tensor, nats: {} in place of {}",
                                                     name(o.tested()), name(o.base()))));
    svg->commit();
  }
  results["per_tensor"] = tensor_errors_json(errors, s.tested.model);
}

void run(const Options& o) {
  check_arguments(o);
  JsonOutput json(o.text.json);
  std::unique_ptr<AtomicFile> svg;
  if (!o.svg.empty()) svg = std::make_unique<AtomicFile>(o.svg);
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  Context ctx{*backend, *pool};
  Subject s = open_subject(o, *backend, *pool);
  const std::vector<PositionScore> scores = score(o, ctx, s.base, s.tested, s.chunks, s.bos);
  const Comparison comparison = summarise(scores);
  const std::vector<PositionScore> worst = worst_positions(scores, o.worst);
  const WeightReport weights = compare_weights(o, ctx, s);
  if (!json.to_stdout()) report(o, s, comparison, worst, weights);
  if (comparison.positions < kFewPositions)
    note("{} positions are fewer than {}: too few for these errors and percentiles to mean much\n",
         comparison.positions, kFewPositions);
  nlohmann::ordered_json results = {
      {"base", o.base()}, {"tested", o.tested()}, {"context", s.chunks.context}};
  results.update(comparison_json(comparison));
  results["worst"] = worst_json(worst, *s.tokenizer, s.chunks);
  if (!weights.checks.empty()) results["weights"] = weights_json(weights);
  if (o.per_tensor > 0 && !interrupted().load())
    report_by_tensor(o, ctx, s, svg.get(), !json.to_stdout(), results);
  json.write(results);
  stop_if_interrupted();
  std::string wrong = weights.failure();
  if (const std::string missed = missed_limits(o, comparison); !missed.empty())
    wrong += fmt::format("{}{}", wrong.empty() ? "" : "; ", missed);
  if (!wrong.empty()) fail("{}", wrong);
}

}  // namespace

void add_validate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "validate", "How far a model's predictions are from another's, as llama-perplexity measures it");
  command
      ->add_option("models", o->models,
                   "Base and tested model: GGUF files, Hugging Face folders, checkpoints or training folders")
      ->required()
      ->expected(1, 2);
  CLI::Option* data = add_chunk_options(*command, o->text);
  command
      ->add_option("--base-logits", o->base_logits,
                   "File of llama-perplexity --kl-divergence-base, in place of the base and the text")
      ->excludes(data)
      ->excludes(command->get_option("--context"));
  command->add_option("--worst", o->worst, "Positions of largest divergence to show")
      ->check(whole(0, 1000000))
      ->capture_default_str();
  command
      ->add_option("--max-kld", o->max_kld, "Fail (exit code 1) where the mean KL divergence, nats, is above")
      ->check(not_negative());
  command
      ->add_option("--min-top1", o->min_top1, "Fail where the likeliest token is the same at fewer, percent")
      ->check(number(0, 100, "from 0 to 100"));
  command
      ->add_option(
          "--per-tensor", o->per_tensor,
          "Also estimate each tensor's share, on so many tokens of the text: from gradients of the base "
          "in F32 (Fisher information), which takes a training run's memory less the moments; 0: do not")
      ->check(whole(0, int64_t{1} << 40))
      ->excludes(command->get_option("--base-logits"));
  command->add_option("--svg", o->svg, "File for a heat map of these shares, by layer and kind of tensor");
  command->add_flag(
      "!--no-weight-check", o->check_weights,
      "Do not look whether the tested weights are the base's, converted: by default tensors that "
      "differ by more than their types round are named (exit code 1), unless most do");
  add_inference_options(*command, o->compute);
  command->footer(
      "Example:\n  gladius validate model-F32.gguf model-Q4_K_M.gguf --data held-out.txt --max-kld 0.05\n"
      "  gladius validate model-Q4_K_M.gguf --base-logits model-F32.kld");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
