#include "cli/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/machine.h"
#include "cli/terminal.h"
#include "export/loaded_model.h"
#include "kernels/median.h"

namespace gladius::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMiB = 1024.0 * 1024;

std::vector<double> tokens_per_second(const BenchResult& result) {
  std::vector<double> rates;
  for (const int64_t ns : result.nanoseconds)
    rates.push_back(1e9 * static_cast<double>(result.test.counted()) / static_cast<double>(ns));
  return rates;
}

Spread times(const BenchResult& result) {  // nanoseconds
  return spread(std::vector<double>(result.nanoseconds.begin(), result.nanoseconds.end()));
}

// `amount` a repetition, in percent of the roof around it.
std::vector<double> percents(double amount, const BenchResult& result) {
  std::vector<double> percents;
  for (size_t i = 0; i + 1 < result.roofs.size() && i < result.nanoseconds.size(); ++i) {
    if (result.roofs[i] <= 0 || result.roofs[i + 1] <= 0) continue;
    const double seconds = 1e-9 * static_cast<double>(result.nanoseconds[i]);
    percents.push_back(100 * amount / seconds / ((result.roofs[i] + result.roofs[i + 1]) / 2));
  }
  return percents;
}

std::optional<double> median_if_any(std::vector<double> x) {  // of those that are known
  std::erase_if(x, [](double value) { return value <= 0; });
  return x.empty() ? std::nullopt : std::optional(median(std::move(x)));
}

// As llama.cpp spells it.
std::string kv_type_name(DType type) {
  std::string name(dtype_info(type).name);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

Json or_null(std::optional<double> value) { return value ? Json(*value) : Json(); }

// The values of one test, by llama-bench's names and, behind them, by ours.
Json values(const BenchedModel& model, const BenchResult& r) {
  const std::vector<double> rates = tokens_per_second(r);
  const Spread ns = times(r), ts = spread(rates);
  return {{"build_version", version()},
          {"build_compiler", __VERSION__},
          {"cpu_info", cpu_model()},
          {"backends", r.backend},
          {"model_filename", model.path},
          {"model_type", model.type},
          {"model_size", model.bytes},
          {"model_n_params", model.parameters},
          {"n_threads", r.threads},
          {"type_k", kv_type_name(r.kv_type)},
          {"type_v", kv_type_name(r.kv_type)},
          {"n_prompt", r.test.prompt},
          {"n_gen", r.test.generated},
          {"n_depth", r.test.depth},
          {"test_time", r.start},
          {"avg_ns", static_cast<int64_t>(ns.mean)},
          {"stddev_ns", static_cast<int64_t>(ns.deviation)},
          {"avg_ts", ts.mean},
          {"stddev_ts", ts.deviation},
          {"samples_ns", r.nanoseconds},
          {"samples_ts", rates},
          {"n_sequences", r.test.sequences},
          {"load_seconds", model.load_seconds},
          {"peak_resident_mib", static_cast<double>(r.peak_resident) / kMiB},
          {"fp32_peak_flops", or_null(r.fp32_peak())},
          {"memory_bandwidth", or_null(r.memory_bandwidth())},
          {"percent_of_peak", or_null(r.percent_of_peak())},
          {"percent_of_bandwidth", or_null(r.percent_of_bandwidth())}};
}

std::string text(const Json& value, int indent = -1) {  // a path need not be UTF-8
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

void flush() { std::fflush(stdout); }

class JsonReport : public BenchReport {
 public:
  explicit JsonReport(BenchedModel model) : model_(std::move(model)) {}
  void add(const BenchResult& result) override { results_.push_back(values(model_, result)); }
  void finish() override { fmt::print("{}\n", text(results_, 2)); }

 private:
  BenchedModel model_;
  Json results_ = Json::array();
};

class CsvReport : public BenchReport {
 public:
  explicit CsvReport(BenchedModel model) : model_(std::move(model)) {}
  void add(const BenchResult& result) override {
    Json row = values(model_, result);
    row.erase("samples_ns");
    row.erase("samples_ts");
    std::string names, line;
    for (const auto& [name, value] : row.items()) {
      names += (names.empty() ? "" : ",") + name;
      line += (line.empty() ? "" : ",") + quoted(value);
    }
    if (!std::exchange(begun_, true)) fmt::print("{}\n", names);
    fmt::print("{}\n", line);
    flush();
  }
  void finish() override {}

 private:
  static std::string quoted(const Json& value) {
    std::string field = value.is_null() ? "" : value.is_string() ? value.get<std::string>() : text(value);
    for (size_t at = 0; (at = field.find('"', at)) != field.npos; at += 2) field.insert(at, 1, '"');
    return '"' + field + '"';
  }

  BenchedModel model_;
  bool begun_ = false;
};

class MarkdownReport : public BenchReport {
 public:
  explicit MarkdownReport(BenchedModel model) : model_(std::move(model)) {}
  void add(const BenchResult& result) override {
    if (results_++ == 0) {
      line({"model", "size", "params", "backend", "threads", "test", "t/s", "of the roof"});
      line({":---", "---:", "---:", ":---", "---:", "---:", "---:", "---:"});
    }
    const Spread ts = spread(tokens_per_second(result));
    line({model_.type, human_bytes(model_.bytes),
          fmt::format("{:.2f} M", 1e-6 * static_cast<double>(model_.parameters)), result.backend,
          std::to_string(result.threads), test_name(result.test),
          fmt::format("{:.2f} ± {:.2f}", ts.mean, ts.deviation), share(result)});
    peak_ = std::max(peak_, result.peak_resident);
    flush();
  }
  void finish() override {
    if (results_ == 0) return;
    fmt::print("\ngladius {}, {}: loaded in {:.2f} s, {} resident at most\n", version(), cpu_model(),
               model_.load_seconds, human_bytes(peak_));
  }

 private:
  // A column is as wide as its usual contents, so that the text reads as a table, too.
  static void line(const std::array<std::string, 8>& fields) {
    constexpr std::array<int, 8> widths = {-14, 10, 10, -19, 7, 14, 18, 20};  // negative: to the left
    for (size_t i = 0; i < fields.size(); ++i) {
      const std::string& field = fields[i];
      const bool left = widths[i] < 0;
      const bool rule = field.find("---") != field.npos;
      const auto width = static_cast<size_t>(std::abs(widths[i]));
      const std::string padded = rule   ? field.substr(0, 1) + std::string(width - 2, '-') + field.back()
                                 : left ? fmt::format("{:<{}}", field, width)
                                        : fmt::format("{:>{}}", field, width);
      fmt::print("| {} ", padded);
    }
    fmt::print("|\n");
  }
  static std::string share(const BenchResult& result) {
    if (const auto part = result.percent_of_peak())
      return fmt::format("{:.0f} % of {:.0f} GFLOP/s", *part, *result.fp32_peak() * 1e-9);
    if (const auto part = result.percent_of_bandwidth())
      return fmt::format("{:.0f} % of {:.1f} GB/s", *part, *result.memory_bandwidth() * 1e-9);
    return "";
  }

  BenchedModel model_;
  size_t results_ = 0;
  uint64_t peak_ = 0;
};

}  // namespace

std::optional<double> BenchResult::fp32_peak() const {
  return test.generated == 0 ? median_if_any(roofs) : std::nullopt;
}
std::optional<double> BenchResult::memory_bandwidth() const {
  return test.prompt == 0 ? median_if_any(roofs) : std::nullopt;
}
std::optional<double> BenchResult::percent_of_peak() const {
  return test.generated == 0 ? median_if_any(percents(flops, *this)) : std::nullopt;
}
std::optional<double> BenchResult::percent_of_bandwidth() const {
  return test.prompt == 0 ? median_if_any(percents(bytes, *this)) : std::nullopt;
}

std::unique_ptr<BenchReport> make_bench_report(const std::string& format, const BenchedModel& model) {
  if (format == "json") return std::make_unique<JsonReport>(model);
  if (format == "csv") return std::make_unique<CsvReport>(model);
  return std::make_unique<MarkdownReport>(model);
}

}  // namespace gladius::cli
