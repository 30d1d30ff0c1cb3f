#include "cli/validate_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/chunk_options.h"
#include "cli/terminal.h"
#include "model/utf8.h"

namespace gladius::cli {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kShownTokens = 40;     // that is before a position, at most,
constexpr size_t kShownCharacters = 40;  // and as many characters of it

void print_line(const char* what, const Estimate& e, double unit = 1, const char* after = "") {
  fmt::print("  {:<20} {:>12.6f} +/- {:.6f}{}\n", what, e.value * unit, e.error * unit, after);
}

std::string percentile_name(size_t i) {
  if (i == 0) return "maximum";
  if (i + 1 == kPercentiles.size()) return "minimum";
  return kPercentiles[i] == 50 ? "median" : fmt::format("{} %", kPercentiles[i]);
}

void print_distribution(const Distribution& d, double unit, const char* after) {
  for (size_t i = 0; i < kPercentiles.size(); ++i)
    fmt::print("  {:<20} {:>12.6f}{}\n", percentile_name(i), d.percentiles[i] * unit, after);
}

// The text that the position's token continues, within its chunk, its end at most.
std::string text_before(const PositionScore& score, const Tokenizer& tokenizer, const Chunks& chunks) {
  const int64_t chunk_begin = score.position / chunks.context * chunks.context;
  const int64_t begin = std::max(chunk_begin, score.position - kShownTokens);
  const std::string text = tokenizer.decode(
      chunks.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(score.position - begin)), true);
  size_t at = text.size();
  for (size_t characters = 0; at > 0 && characters < kShownCharacters;)
    if ((static_cast<unsigned char>(text[--at]) & 0xC0) != 0x80) ++characters;
  return (at > 0 || begin > chunk_begin ? "…" : "") + printable(std::string_view(text).substr(at));
}

std::string token_text(const Tokenizer& tokenizer, int32_t token) {
  return printable(tokenizer.piece(token, true));
}

ordered_json distribution_json(const Distribution& d) {
  ordered_json json = {{"mean", to_json(d.mean)}};
  for (size_t i = 0; i < kPercentiles.size(); ++i)
    json[fmt::format("{}%", kPercentiles[i])] = d.percentiles[i];
  return json;
}

std::vector<size_t> costliest_first(const TensorErrors& errors) {
  std::vector<size_t> order(errors.kld.size());
  for (size_t k = 0; k < order.size(); ++k) order[k] = k;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return errors.kld[a].value > errors.kld[b].value; });
  return order;
}

}  // namespace

void print_comparison(const Comparison& c) {
  constexpr double kPercent = 100;
  fmt::print("\nperplexity\n");
  print_line("tested", c.perplexity);
  print_line("base", c.base_perplexity);
  fmt::print("  {:<20} {:>12.4f} %\n", "correlation", kPercent * c.correlation);
  print_line("ln (tested / base)", c.log_ratio);
  print_line("tested / base", c.ratio);
  print_line("tested - base", c.difference);
  fmt::print("\nKL divergence of the tested model from the base, nats\n");
  print_line("mean", c.kld.mean);
  print_distribution(c.kld, 1, "");
  fmt::print("\nprobability of the right token, tested less base\n");
  print_line("mean", c.delta_p.mean, kPercent, " %");
  print_line("root mean square", c.rms_delta_p, kPercent, " %");
  print_distribution(c.delta_p, kPercent, " %");
  fmt::print("\n");
  fmt::print("same likeliest token   {:>12.3f} +/- {:.3f} %\n", kPercent * c.same_top.value,
             kPercent * c.same_top.error);
}

void print_worst(std::span<const PositionScore> worst, const Tokenizer& tokenizer, const Chunks& chunks) {
  if (!worst.empty()) fmt::print("\nlargest divergences\n");
  for (const PositionScore& s : worst) {
    fmt::print("  {:.4f} nats at token {}, after \"{}\"\n", s.kld, grouped(s.position),
               text_before(s, tokenizer, chunks));
    fmt::print(
        "      right \"{}\" {:.1f} -> {:.1f} %, base's first \"{}\" {:.1f} %, tested's \"{}\" {:.1f} %\n",
        token_text(tokenizer, s.target), 100 * std::exp(-s.base_loss), 100 * std::exp(-s.loss),
        token_text(tokenizer, s.base_top), 100 * s.base_top_p, token_text(tokenizer, s.top), 100 * s.top_p);
  }
}

ordered_json comparison_json(const Comparison& c) {
  return {{"positions", c.positions},
          {"perplexity", to_json(c.perplexity)},
          {"base_perplexity", to_json(c.base_perplexity)},
          {"correlation", c.correlation},
          {"log_ratio", to_json(c.log_ratio)},
          {"ratio", to_json(c.ratio)},
          {"difference", to_json(c.difference)},
          {"kld", distribution_json(c.kld)},
          {"delta_p", distribution_json(c.delta_p)},
          {"rms_delta_p", to_json(c.rms_delta_p)},
          {"same_top", to_json(c.same_top)}};
}

ordered_json worst_json(std::span<const PositionScore> worst, const Tokenizer& tokenizer,
                        const Chunks& chunks) {
  ordered_json list = ordered_json::array();
  for (const PositionScore& s : worst) {
    list.push_back({{"position", s.position},
                    {"kld", s.kld},
                    {"before", text_before(s, tokenizer, chunks)},
                    {"right", token_text(tokenizer, s.target)},
                    {"base_p", std::exp(-s.base_loss)},
                    {"p", std::exp(-s.loss)},
                    {"base_top", token_text(tokenizer, s.base_top)},
                    {"base_top_p", s.base_top_p},
                    {"top", token_text(tokenizer, s.top)},
                    {"top_p", s.top_p}});
  }
  return list;
}

std::string WeightReport::failure() const {
  if (another_model()) return {};
  std::string text = config;
  if (!faults.empty())
    text += fmt::format("{}{} of {} tensors are not the base's, converted: {} {}", text.empty() ? "" : "; ",
                        faults.size(), checks.size(), faults.front().name, faults.front().fault);
  if (!text.empty()) text += "; --no-weight-check compares such models, too";
  return text;
}

void print_weights(const WeightReport& report) {
  if (report.checks.empty()) return;
  if (report.another_model()) {
    fmt::print(
        "\nthe weights are other ones than the base's: {} of {} tensors differ by more than types round\n",
        report.faults.size(), report.checks.size());
  } else if (report.faults.empty()) {
    fmt::print("\nall {} tensors are the base's, as far as their types hold them\n", report.checks.size());
  } else {
    fmt::print("\ntensors that are not the base's, converted\n");
    for (const WeightCheck& check : report.faults)
      fmt::print("  {:<26} {:<5} {}\n", check.name, dtype_info(check.type).name, check.fault);
  }
}

ordered_json weights_json(const WeightReport& report) {
  ordered_json tensors = ordered_json::array(), faults = ordered_json::array();
  for (const WeightCheck& check : report.checks)
    tensors.push_back({{"name", check.name},
                       {"type", dtype_info(check.type).name},
                       {"base_type", dtype_info(check.base_type).name},
                       {"rms", check.rms},
                       {"limit", check.limit}});
  for (const WeightCheck& check : report.faults)
    faults.push_back({{"name", check.name}, {"fault", check.fault}});
  return {{"another_model", report.another_model()}, {"faults", faults}, {"tensors", tensors}};
}

void print_tensor_errors(const TensorErrors& errors, const Model& tested) {
  fmt::print("\nKL divergence by each tensor alone, estimated from {} windows of {} tokens, nats\n",
             errors.windows, errors.context);
  for (const size_t k : costliest_first(errors)) {
    if (errors.kld[k].value > 0)
      fmt::print("  {:<26} {:<5} {:.2e} +/- {:.1e}\n", errors.specs[k].gguf_name,
                 dtype_info(tested.weights[k].dtype()).name, errors.kld[k].value, errors.kld[k].error);
  }
  fmt::print("  {:<26} {:<5} {:.2e} +/- {:.1e}\n", "all together", "", errors.together.value,
             errors.together.error);
}

ordered_json tensor_errors_json(const TensorErrors& errors, const Model& tested) {
  ordered_json tensors = ordered_json::array();
  for (const size_t k : costliest_first(errors))
    tensors.push_back({{"name", errors.specs[k].gguf_name},
                       {"type", dtype_info(tested.weights[k].dtype()).name},
                       {"kld", to_json(errors.kld[k])}});
  return {{"windows", errors.windows},
          {"context", errors.context},
          {"together", to_json(errors.together)},
          {"tensors", tensors}};
}

}  // namespace gladius::cli
