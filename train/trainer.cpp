#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace gladius {
namespace {

constexpr int kMostSkips = 20;  // in a row: by then the weights themselves are likely broken

std::optional<int32_t> window_start(const Vocab& vocab) { return vocab.add_bos ? vocab.bos : std::nullopt; }

void copy_into(const std::vector<Tensor>& from, const std::vector<Tensor>& to) {
  for (size_t i = 0; i < to.size(); ++i) std::memcpy(to[i].data(), from[i].data(), to[i].bytes());
}

// Throws Error unless the checkpoint's tensors have the model's shapes.
void require_same_shapes(const Checkpoint& checkpoint, const Model& model) {
  if (checkpoint.weights.size() != model.weights.size()) {
    fail("the checkpoint holds {} weights, the model {}: they are of different shapes",
         checkpoint.weights.size(), model.weights.size());
  }
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const Shape &stored = checkpoint.weights[i].shape(), &wanted = model.weights[i].shape();
    if (stored == wanted) continue;
    fail("the checkpoint's {} has the shape {}, the model's {}", model.specs[i].gguf_name, stored.text(),
         wanted.text());
  }
}

void require_positive(const char* name, int64_t value) {
  if (value < 1) fail("{} is {}, but must be at least 1", name, value);
}

}  // namespace

void validate(const TrainSettings& s) {
  require_positive("the batch size", s.batch);
  require_positive("the context", s.context);
  require_positive("the number of micro-batches", s.accum);
  require_positive("the number of steps between checkpoints", s.save_every);
  require_positive("the number of checkpoints to keep", s.keep);
  validate(s.schedule);
  validate(s.adamw);
}

Trainer::Trainer(TrainSettings settings, Model model, std::shared_ptr<const Tokenizer> tokenizer,
                 TokenSplits splits, std::string data, Backend& backend, std::shared_ptr<BufferPool> pool)
    : settings_((validate(settings), std::move(settings))),
      pool_(std::move(pool)),
      ctx_{backend, *pool_},
      model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      optimizer_(settings_.adamw, model_, ctx_),
      gradients_(backend, *pool_, model_,
                 {settings_.batch, settings_.context, settings_.precision, settings_.recompute}),
      training_(splits.training, settings_.context, window_start(tokenizer_->vocab()), settings_.seed),
      micro_batches_(static_cast<size_t>(settings_.accum)) {
  if (tokenizer_->vocab().size() != model_.config.vocab) {
    fail("the model has a vocabulary of {}, the tokenizer one of {}", model_.config.vocab,
         tokenizer_->vocab().size());
  }
  if (splits.validation.size() > 0) {
    validation_.emplace(splits.validation, settings_.context, window_start(tokenizer_->vocab()));
  }
  state_.seed = settings_.seed;
  state_.schedule = settings_.schedule;
  state_.data = std::move(data);
  state_.options = {{"batch", settings_.batch},
                    {"context", settings_.context},
                    {"accum", settings_.accum},
                    {"precision", std::string(precision_name(settings_.precision))},
                    {"beta1", settings_.adamw.beta1},
                    {"beta2", settings_.adamw.beta2},
                    {"eps", settings_.adamw.eps},
                    {"weight-decay", settings_.adamw.weight_decay},
                    {"clip", settings_.adamw.clip},
                    {"validation-windows", settings_.validation_windows},
                    {"skip-not-finite", settings_.skip_not_finite}};
}

void Trainer::resume(const Checkpoint& checkpoint) {
  require_same_shapes(checkpoint, model_);
  copy_into(checkpoint.weights, model_.weights);
  copy_into(checkpoint.m, optimizer_.first_moments());
  copy_into(checkpoint.v, optimizer_.second_moments());
  const TrainState now = std::move(state_);
  state_ = checkpoint.state;
  // What the caller may have changed on purpose holds from here on.
  state_.seed = now.seed;
  state_.schedule = now.schedule;
  state_.data = now.data;
  state_.options = now.options;
  optimizer_.set_steps_done(state_.optimizer_steps);
}

StepReport Trainer::step() {
  const auto start = std::chrono::steady_clock::now();
  int64_t targets = 0;
  for (Batch& batch : micro_batches_) {
    state_.position = training_.fill(state_.position, settings_.batch, batch);
    targets += batch.target_count;
  }
  StepReport report{.step = state_.step + 1,
                    .loss = gradients_.run(micro_batches_),
                    .learning_rate = settings_.schedule.learning_rate(state_.step),
                    .gradient_norm = optimizer_.gradient_norm(ctx_, model_),
                    .targets = targets,
                    .seconds = 0};
  if (std::isfinite(report.loss) && std::isfinite(report.gradient_norm)) {
    optimizer_.step(ctx_, model_, report.learning_rate, report.gradient_norm);
    state_.optimizer_steps = optimizer_.steps_done();
  }
  ++state_.step;
  state_.tokens_seen += targets;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

void Trainer::not_finite(double loss, const TrainEvents& events) {
  std::string what = fmt::format("step {}: the loss is {}", state_.step, loss);
  for (size_t i = 0; i < model_.weights.size(); ++i) {
    const Tensor& weight = model_.weights[i];
    if (std::isfinite(ctx_.backend.sum_of_squares(weight.shape().elements(), weight.f32()))) continue;
    fail(
        "{} because the weight {} holds values that are not finite; start anew from an earlier checkpoint "
        "with "
        "--init-from",
        what, model_.specs[i].gguf_name);
  }
  if (const auto name = optimizer_.first_not_finite(ctx_, model_)) {
    what += fmt::format(", and the gradient of {} holds values that are not finite", *name);
  }
  if (!settings_.skip_not_finite) {
    fail(
        "{}; earlier checkpoints are kept: resume with --allow-changes and a lower --lr, or with "
        "--skip-not-finite to "
        "leave such steps out",
        what);
  }
  if (++skipped_in_a_row_ == kMostSkips) fail("{}; {} steps in a row were skipped", what, kMostSkips);
  for (const Tensor& weight : model_.weights) weight.reset_grad();
  if (events.on_warning) events.on_warning(what + "; skipped");
}

std::optional<ValidationReport> Trainer::validate_now(const TrainEvents& events,
                                                      const std::atomic<bool>& stop) {
  if (!validation_) return std::nullopt;
  const int64_t most = settings_.validation_windows;
  const int64_t windows = most > 0 ? std::min(most, validation_->windows()) : validation_->windows();
  double sum = 0;
  int64_t targets = 0;
  for (int64_t first = 0; first < windows; first += settings_.batch) {
    if (stop.load()) return std::nullopt;
    validation_->fill(first, settings_.batch, validation_batch_);
    for (int64_t row = windows - first; row < settings_.batch;
         ++row) {  // rows beyond the windows that are asked for
      for (int64_t t = 0; t < settings_.context; ++t) {
        int32_t& target = validation_batch_.targets[static_cast<size_t>(row * settings_.context + t)];
        validation_batch_.target_count -= target != kIgnoredTarget;
        target = kIgnoredTarget;
      }
    }
    sum += gradients_.evaluate(validation_batch_);
    targets += validation_batch_.target_count;
    if (events.on_validation_progress) {
      events.on_validation_progress(static_cast<uint64_t>(first + settings_.batch),
                                    static_cast<uint64_t>(windows));
    }
  }
  if (targets == 0) return std::nullopt;
  const uint64_t bytes = std::max<uint64_t>(1, validation_->bytes(windows, *tokenizer_));
  const double loss = sum / static_cast<double>(targets);
  return ValidationReport{
      .step = state_.step,
      .loss = loss,
      .loss_per_byte = sum / static_cast<double>(bytes),
      .best = std::isfinite(loss) && (!state_.best_validation_loss || loss < *state_.best_validation_loss)};
}

void Trainer::save(const TrainEvents& events) {
  const std::filesystem::path path = checkpoint_path(settings_.folder, state_.step);
  write_checkpoint(path, {model_.config, tokenizer_->vocab(), state_, model_.weights,
                          optimizer_.first_moments(), optimizer_.second_moments()});
  prune_checkpoints(settings_.folder, state_, settings_.keep);
  if (events.on_checkpoint) events.on_checkpoint(path);
}

void Trainer::validate_and_save(const TrainEvents& events, const std::atomic<bool>& stop) {
  if (const auto report = validate_now(events, stop)) {
    if (report->best) {
      state_.best_validation_loss = report->loss;
      state_.best_step = state_.step;
    }
    StepMetrics line;
    line.step = state_.step;
    line.tokens = state_.tokens_seen;
    line.validation_loss = report->loss;
    line.validation_loss_per_byte = report->loss_per_byte;
    metrics_->append(line);
    if (events.on_validation) events.on_validation(*report);
    state_.validated_step = state_.step;
  }
  save(events);
}

bool Trainer::validation_due() const {
  const bool at_save = state_.step > 0 && (state_.step % settings_.save_every == 0 ||
                                           state_.step == settings_.schedule.total_steps);
  return validation_ && at_save && state_.validated_step != state_.step;
}

Trainer::Outcome Trainer::run(const TrainEvents& events, const std::atomic<bool>& stop) {
  remove_checkpoints_after(settings_.folder, state_.step);
  metrics_.emplace(settings_.folder / "metrics.jsonl", state_.step > 0 ? state_.step : -1);
  int64_t saved = state_.step > 0 ? state_.step : -1;
  if (validation_due()) validate_and_save(events, stop);  // the one that an interruption cut short
  while (state_.step < settings_.schedule.total_steps && !stop.load()) {
    const StepReport report = step();
    if (std::isfinite(report.loss) && std::isfinite(report.gradient_norm)) {
      skipped_in_a_row_ = 0;
    } else {
      not_finite(report.loss, events);
    }
    StepMetrics line;
    line.step = report.step;
    line.tokens = state_.tokens_seen;
    line.loss = report.loss;
    line.learning_rate = report.learning_rate;
    line.gradient_norm = report.gradient_norm;
    line.tokens_per_second = static_cast<double>(report.targets) / report.seconds;
    metrics_->append(line);
    if (events.on_step) events.on_step(report);
    if (state_.step % settings_.save_every == 0 && state_.step < settings_.schedule.total_steps) {
      validate_and_save(events, stop);
      saved = state_.step;
    }
  }
  if (state_.step < settings_.schedule.total_steps) {
    if (saved != state_.step) save(events);
    return Outcome::interrupted;
  }
  if (saved != state_.step) validate_and_save(events, stop);
  return stop.load() && validation_due() ? Outcome::interrupted : Outcome::finished;
}

}  // namespace gladius
