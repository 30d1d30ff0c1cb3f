#include <fmt/format.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <optional>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/exports.h"
#include "cli/machine.h"
#include "cli/model_source.h"
#include "cli/step_options.h"
#include "cli/terminal.h"
#include "cli/train_progress.h"
#include "kernels/peak.h"
#include "train/folder_lock.h"
#include "train/plan.h"
#include "train/tokenizer_train.h"
#include "train/trainer.h"

namespace gladius::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<fs::path> inputs, validation_inputs;
  std::string out, model = "gladius-tiny", tokenizer, init_from, cache;
  double epochs = 1, lr = 1e-3, validation = 0.05;
  int64_t steps = 0, context = 0, vocab = 0;
  std::optional<double> min_lr;
  std::optional<int64_t> warmup;
  bool resume = false, allow_changes = false;
  std::vector<std::string> export_gguf;
  TrainSettings settings;
  StepOptions step;
  ComputeOptions compute;
};

// Arguments that contradict each other, before any work is done.
void check_arguments(const Options& o) {
  if (o.min_lr.value_or(0) > o.lr)
    wrong_argument("--min-lr", fmt::format("{} is above --lr, {}", *o.min_lr, o.lr));
  if (o.steps > 0 && o.warmup.value_or(0) > o.steps)
    wrong_argument("--warmup", fmt::format("{} steps do not fit --steps {}", *o.warmup, o.steps));
}

// The texts to train on and those to validate on, if they are apart.
struct Texts {
  Corpus training;
  std::optional<Corpus> validation;
};

Texts open_texts(const Options& o) {
  Texts texts{Corpus::open(o.inputs), {}};
  if (!o.validation_inputs.empty()) texts.validation = Corpus::open(o.validation_inputs);
  return texts;
}

// Makes a tokenizer of the run's own.
Vocab train_own_vocab(const Options& o, const Corpus& corpus, int64_t size) {
  note("training a tokenizer of {} pieces\n", grouped(size));
  TokenizerTrainOptions options;
  options.vocab_size = static_cast<int32_t>(size);
  Vocab vocab;
  try {
    vocab = train_tokenizer(texts_of(corpus), options);
  } catch (const Error& error) {
    fail("{}; choose another size with --vocab, or a tokenizer with --tokenizer", error.what());
  }
  save_vocab((fs::path(o.out) / "tokenizer.gguf").string(), vocab);
  return vocab;
}

std::shared_ptr<const TokenCache> prepare(const Options& o, const Corpus& corpus, const Tokenizer& tokenizer,
                                          int threads) {
  Progress progress("encoding");
  CacheOptions options;
  options.folder = o.cache.empty() ? fs::path(o.out) / "cache" : fs::path(o.cache);
  options.threads = threads;
  options.cancel = &interrupted();
  options.progress = [&](CacheOptions::Stage, uint64_t done, uint64_t total) {
    progress.update(done, total);
  };
  PreparedTokens prepared;
  try {
    prepared = prepare_tokens(corpus, tokenizer, options);
  } catch (const Cancelled&) {
    throw Exit{kInterruptedExit};
  }
  progress.done();
  if (!prepared.damage.empty()) note("the token cache was made anew: {}\n", prepared.damage);
  return prepared.cache;
}

struct Data {
  TokenSplits splits;
  std::string id;  // TrainState::data
};

Data prepare_data(const Options& o, const Texts& texts, const Tokenizer& tokenizer, int threads) {
  const auto cache = prepare(o, texts.training, tokenizer, threads);
  Data data{split_tokens(cache, texts.validation ? 0 : o.validation), cache->key()};
  if (texts.validation) {
    const auto held_out = prepare(o, *texts.validation, tokenizer, threads);
    data.splits.validation = {held_out, 0, held_out->tokens()};
    data.splits.description = "held out: the validation files";
    data.id += "+" + held_out->key();
  } else {
    data.id += fmt::format("+{}", data.splits.validation.size());
  }
  return data;
}

TrainSettings settle(const Options& o, const Config& config, const TokenSplits& splits) {
  TrainSettings s = o.settings;
  s.folder = o.out;
  s.context = training_context(o.context, config);
  const double windows =
      std::ceil(static_cast<double>(splits.training.size()) / static_cast<double>(s.context));
  const double steps = std::ceil(o.epochs * windows / static_cast<double>(s.batch * s.accum));
  s.schedule.total_steps = o.steps > 0 ? o.steps : std::max<int64_t>(1, static_cast<int64_t>(steps));
  s.schedule.warmup_steps = o.warmup.value_or(std::min<int64_t>(s.schedule.total_steps / 20, 2000));
  s.schedule.peak = o.lr;
  s.schedule.floor = o.min_lr.value_or(o.lr / 10);
  return s;
}

// What a run starts from: the model that --init-from names, or a shape whose weights are still to be drawn.
struct Start {
  Model model;  // without weights in the second case
  Vocab vocab;
};

// found: the checkpoint to resume, whose tokenizer the run keeps unless another is named; null: none.
Start choose_start(const Options& o, const Corpus& corpus, const FoundCheckpoint* found, Backend& backend,
                   BufferPool& pool) {
  Start start;
  if (!o.init_from.empty()) {
    SourceModel source = load_model(o.init_from, backend, pool, WeightUse::training);
    start = {std::move(source.model), std::move(source.vocab)};
    set_trainable(start.model, pool);
  } else {
    start.model.config = config_from(o.model);
  }
  training_context(o.context, start.model.config);  // a wrong one fails before the work
  if (!o.tokenizer.empty()) {
    Vocab given = load_vocab(o.tokenizer);
    if (!o.init_from.empty() && fingerprint(given) != fingerprint(start.vocab)) {
      note("{} is not the tokenizer of {}: the model has to learn its tokens anew\n", o.tokenizer,
           o.init_from);
    }
    start.vocab = std::move(given);
  } else if (o.init_from.empty()) {
    start.vocab = found ? found->checkpoint.vocab
                        : train_own_vocab(o, corpus, o.vocab > 0 ? o.vocab : start.model.config.vocab);
  }
  if (o.init_from.empty()) {
    if (start.model.config.vocab != start.vocab.size()) {
      note("the model's vocabulary becomes the tokenizer's: {} tokens\n", grouped(start.vocab.size()));
    }
    start.model.config.vocab = start.vocab.size();
    validate(start.model.config, o.model);
  }
  return start;
}

// The newest checkpoint of the run's folder, when --resume asks for it and there is one.
std::optional<FoundCheckpoint> find_resumed(const Options& o) {
  if (!o.resume) return std::nullopt;
  std::vector<std::string> damaged;
  auto found = find_newest_checkpoint(o.out, damaged);
  for (const std::string& line : damaged) note("{}\n", line);
  if (!found && !damaged.empty())
    fail("every checkpoint in {} is damaged; start over in another --out", o.out);
  if (!found) note("{} holds no checkpoint yet: starting at the first step\n", o.out);
  return found;
}

// A run keeps the precision that it began with: "auto" chooses once.
Precision run_precision(const Options& o, const FoundCheckpoint* found, const Config& config,
                        const TrainSettings& settings, Backend& backend) {
  const bool keeps = o.step.precision == "auto" && found;
  return choose_precision(keeps ? precision_of(found->checkpoint.state) : o.step.precision, config,
                          settings.batch, settings.context, backend);
}

// Goes on from a checkpoint. Says what changed since, and refuses unless that is allowed.
void resume(const Options& o, const FoundCheckpoint& found, Trainer& trainer, const Vocab& vocab) {
  const std::vector<std::string> changes =
      differences(found.checkpoint, trainer.model().config, vocab, trainer.state());
  for (const std::string& change : changes) note("changed since the checkpoint: {}\n", change);
  if (!changes.empty() && !o.allow_changes) {
    fail(
        "this is not the run of {}; give the options of its first call, or --allow-changes to go on all the "
        "same",
        found.path.string());
  }
  trainer.resume(found.checkpoint);
  note("resuming after step {}\n", grouped(trainer.state().step));
}

void export_run(const Options& o, Backend& backend) {
  const auto pool = BufferPool::make();
  const SourceModel source = load_model(o.out, backend, *pool, WeightUse::rows, true);
  for (const std::string& type : o.export_gguf) {
    QuantizeOptions options;
    options.type = file_type_from_name(type);
    const fs::path path = export_gguf(source, o.out, file_name(source.model.config.name), options, backend);
    fmt::print("{}  {}\n", path.string(), human_bytes(fs::file_size(path)));
  }
}

// Makes the run's folder and keeps other processes out of it until this one ends.
FolderLock claim_folder(const Options& o) {
  if (!o.resume && has_checkpoints(o.out))
    fail("{} holds a run already: continue it with --resume, or give another --out", o.out);
  make_folder(o.out);
  return FolderLock(o.out);
}

void run(const Options& o) {
  std::signal(SIGPIPE, SIG_IGN);  // progress that nobody reads stops no training
  check_arguments(o);
  const Texts texts = open_texts(o);  // a wrong name fails before anything is made
  const auto backend = make_backend(o.compute);
  const MemoryBefore before;
  const FolderLock lock = claim_folder(o);
  const auto pool = BufferPool::make();
  std::optional<FoundCheckpoint> found = find_resumed(o);
  auto [model, vocab] = choose_start(o, texts.training, found ? &*found : nullptr, *backend, *pool);
  const Config config = model.config;
  catch_interrupts();  // from here on there is something to save
  const std::shared_ptr<const Tokenizer> tokenizer = make_tokenizer(vocab, o.tokenizer);
  const Data data = prepare_data(o, texts, *tokenizer, backend->threads());
  TrainSettings settings = settle(o, config, data.splits);
  settings.precision = run_precision(o, found ? &*found : nullptr, config, settings, *backend);
  if (o.init_from.empty()) model = new_model(config, o.settings.seed, *pool, backend->threads());

  note("{}: {} parameters, {} on {} thread{}\n", config.name, grouped(config.parameters()), backend->name(),
       backend->threads(), backend->threads() == 1 ? "" : "s");
  note("{} tokens to train on; {}\n", grouped(static_cast<int64_t>(data.splits.training.size())),
       data.splits.description);
  const StepShape shape{settings.batch, settings.context, settings.precision};
  const MemoryChoice memory = choose_recompute(o.step, config, shape, *backend, before);
  require_memory(o.step, memory, config, before);
  settings.recompute = memory.recompute;
  Trainer trainer(settings, std::move(model), tokenizer, data.splits, data.id, *backend, pool);
  if (found) resume(o, *found, trainer, vocab);
  found.reset();  // its file is mapped

  const double peak = measure_peak_flops(backend->threads(), settings.precision);
  TrainProgress progress(settings.schedule.total_steps, trainer.state().step,
                         peak / training_flops(config, settings.context));
  const Trainer::Outcome outcome = trainer.run(progress.events(), interrupted());
  progress.finish(trainer.state());
  if (outcome == Trainer::Outcome::interrupted) {
    note("stopped after step {}, saved; go on with the same command and --resume\n",
         grouped(trainer.state().step));
    throw Exit{kInterruptedExit};
  }
  if (!o.export_gguf.empty()) export_run(o, *backend);
}

void add_data_options(CLI::App& command, Options& o) {
  command
      .add_option("input", o.inputs,
                  ".txt files (a document each), .jsonl files (field \"text\"), folders of both")
      ->required();
  command.add_option("--out", o.out, "Folder of the run: checkpoints, metrics.jsonl, token cache")
      ->required();
  command.add_option("--tokenizer", o.tokenizer,
                     "Tokenizer or model to take it from; by default a new one is trained");
  command.add_option("--vocab", o.vocab, "Tokens of a new tokenizer; by default the model's number")
      ->check(whole(1, 1 << 20));
  command.add_option("--validation", o.validation, "Part of the tokens that is held out")
      ->check(number(0, 0.99, "between 0 and 0.99"))
      ->capture_default_str();
  command
      .add_option("--validation-data", o.validation_inputs,
                  "Texts to validate on, in place of a part of the input")
      ->allow_extra_args(false);
  command.add_option("--cache", o.cache, "Folder of the token caches; by default in --out");
}

void add_model_options(CLI::App& command, Options& o) {
  CLI::Option* model =
      command.add_option("--model", o.model, "Preset (gladius-125m, gladius-tiny) or a config.json");
  model->capture_default_str();
  command
      .add_option("--init-from", o.init_from,
                  "Start from the weights of this model (GGUF, Hugging Face, checkpoint)")
      ->excludes(model);
  command.add_option("--seed", o.settings.seed, "Of weights and data order")
      ->check(whole(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
}

void add_schedule_options(CLI::App& command, Options& o) {
  const CLI::Validator beta = number(0, kBelowOne, "that is at least 0 and below 1");
  TrainSettings& s = o.settings;
  CLI::Option* epochs = command.add_option("--epochs", o.epochs, "Passes over the data");
  epochs->check(number(1e-9, 1e9, "above 0 and at most 1e9"))->capture_default_str();
  command.add_option("--steps", o.steps, "Steps, in place of --epochs")
      ->excludes(epochs)
      ->check(whole(1, kMostSteps));
  command.add_option("--batch", s.batch, "Sequences in a micro-batch")
      ->check(whole(1, kMostSequences))
      ->capture_default_str();
  command
      .add_option("--context", o.context,
                  "Tokens in a sequence; by default 256, or the model's when that is less")
      ->check(whole(1, kMostContext));
  command.add_option("--accum", s.accum, "Micro-batches in a step")
      ->check(whole(1, kMostMicroBatches))
      ->capture_default_str();
  command.add_option("--lr", o.lr, "Highest learning rate")->check(not_negative())->capture_default_str();
  command.add_option("--min-lr", o.min_lr, "Learning rate at the end; by default a tenth of --lr")
      ->check(not_negative());
  command
      .add_option("--warmup", o.warmup,
                  "Steps of linear warm-up; by default a twentieth of all, at most 2000")
      ->check(whole(0, kMostSteps));
  command.add_option("--weight-decay", s.adamw.weight_decay, "Of matrices; norms do not decay")
      ->check(not_negative())
      ->capture_default_str();
  command.add_option("--beta1", s.adamw.beta1, "AdamW's decay of the first moment")
      ->check(beta)
      ->capture_default_str();
  command.add_option("--beta2", s.adamw.beta2, "AdamW's decay of the second moment")
      ->check(beta)
      ->capture_default_str();
  command.add_option("--eps", s.adamw.eps, "AdamW's epsilon")
      ->check(number(std::numeric_limits<float>::min(), 1, "above 0 and at most 1"))
      ->capture_default_str();
  command.add_option("--clip", s.adamw.clip, "Norm that gradients are scaled down to; 0: never")
      ->check(not_negative())
      ->capture_default_str();
}

void add_run_options(CLI::App& command, Options& o) {
  TrainSettings& s = o.settings;
  command.add_flag("--resume", o.resume,
                   "Go on from the newest checkpoint in --out, exactly as if it had never stopped");
  command.add_flag("--allow-changes", o.allow_changes,
                   "With --resume: go on although data or options changed");
  command.add_option("--save-every", s.save_every, "Steps between checkpoints, each with a validation")
      ->check(whole(1, kMostSteps))
      ->capture_default_str();
  command.add_option("--keep", s.keep, "Newest checkpoints to keep, besides the best")
      ->check(whole(1, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--validation-windows", s.validation_windows, "At most so many held-out windows; 0: all")
      ->check(whole(0, kMostSteps))
      ->capture_default_str();
  command.add_flag("--skip-not-finite", s.skip_not_finite,
                   "Leave out a step whose loss or gradient is not finite");
  command
      .add_option("--export-gguf", o.export_gguf, "At the end, write the best checkpoint as these GGUF types")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(file_type());
}

}  // namespace

void add_train(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Trains a model on text");
  add_data_options(*command, *o);
  add_model_options(*command, *o);
  add_schedule_options(*command, *o);
  add_run_options(*command, *o);
  add_step_options(*command, o->step);
  add_compute_options(*command, o->compute);
  command->footer(
      "Example:\n  gladius train corpus.txt --out run --model gladius-tiny --epochs 4 --batch 16 "
      "--export-gguf Q4_K_M\n"
      "Ctrl-C saves and stops; the same command with --resume goes on.");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
