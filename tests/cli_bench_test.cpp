// `gladius bench` as people meet it: formats, names and what it refuses.
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli_support.h"

namespace gladius::test {
namespace {

std::vector<std::string> bench_of(const std::string& model, const std::string& format) {
  return {"bench", material().path(model), "-r", "3", "--no-measure", "-o", format};
}

TEST_CASE("bench: one result for each combination, by llama-bench's names, whose means are of its samples") {
  const Outcome outcome = run(with(bench_of("m-Q8_0.gguf", "json"), {"-p", "5,16", "-n", "3", "--pg", "6,2",
                                                                     "-d", "0,7", "-t", "1", "-t", "2"}));
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  const auto results = nlohmann::json::parse(outcome.out);
  std::vector<std::array<int64_t, 4>> got, expected;
  for (const int64_t threads : {1, 2})
    for (const int64_t depth : {0, 7})
      for (const auto& [p, n] : {std::pair{5, 0}, {16, 0}, {0, 3}, {6, 2}})
        expected.push_back({threads, depth, p, n});
  for (const auto& r : results) {
    got.push_back({r.at("n_threads"), r.at("n_depth"), r.at("n_prompt"), r.at("n_gen")});
    const std::vector<double> ns = r.at("samples_ns"), ts = r.at("samples_ts");
    REQUIRE(ns.size() == 3);
    REQUIRE(ts.size() == 3);
    const auto tokens = static_cast<double>(got.back()[2] + got.back()[3]);
    for (size_t i = 0; i < 3; ++i) CHECK(ts[i] == doctest::Approx(1e9 * tokens / ns[i]).epsilon(1e-12));
    CHECK(r.at("avg_ts") == doctest::Approx((ts[0] + ts[1] + ts[2]) / 3).epsilon(1e-12));
    CHECK(std::fabs(r.at("avg_ns").get<double>() - (ns[0] + ns[1] + ns[2]) / 3) < 1);  // a whole number
    CHECK(r.at("model_filename") == material().path("m-Q8_0.gguf"));
    CHECK(r.at("model_type") == "llama Q8_0");
    CHECK(r.at("model_n_params") == 2 * 300 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 3 * 32);
    CHECK(r.at("peak_resident_mib") > 1);
    CHECK(r.at("percent_of_peak").is_null());
    for (const char* name : {"backends", "cpu_info", "build_version", "test_time"})
      CHECK(r.at(name).is_string());
  }
  CHECK(got == expected);
}

TEST_CASE("bench: shares of the measured roofs, a prompt's of the peak, generation's of the bandwidth") {
  const Outcome outcome =
      run({"bench", material().path("m-F32.gguf"), "-p", "8", "-n", "8", "-t", "1", "-o", "json"});
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  for (const auto& r : nlohmann::json::parse(outcome.out)) {
    const bool prompt = r.at("n_prompt") == 8;
    const auto& roof = r.at(prompt ? "fp32_peak_flops" : "memory_bandwidth");
    const auto& share = r.at(prompt ? "percent_of_peak" : "percent_of_bandwidth");
    CHECK(r.at(prompt ? "percent_of_bandwidth" : "percent_of_peak").is_null());
    CHECK(r.at(prompt ? "memory_bandwidth" : "fp32_peak_flops").is_null());
    CHECK(share.is_null() == roof.is_null());  // there may be no memory to measure it with
    if (!roof.is_null()) CHECK(share > 0);
  }
}

TEST_CASE("bench: a table and comma-separated values, one row for each test") {
  const std::vector<std::string> tests = {"-p", "5", "-n", "3,4", "-t", "1"};
  const Outcome table = run(with(bench_of("m-F32.gguf", "md"), tests));
  REQUIRE_MESSAGE(table.code == 0, table.err);
  std::istringstream lines(table.out);
  std::vector<std::string> rows;
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("|")) rows.push_back(line);
  REQUIRE(rows.size() == 5);
  for (const char* column : {"model", "size", "params", "backend", "threads", "test", "t/s"})
    CHECK(contains(rows[0], column));
  for (const std::string& row : rows) CHECK(std::count(row.begin(), row.end(), '|') == 9);
  for (const auto& [row, name] : {std::pair{2u, "pp5 "}, {3u, "tg3 "}, {4u, "tg4 "}}) {
    CHECK(contains(rows[row], name));
    CHECK(contains(rows[row], " ± "));
    CHECK(contains(rows[row], "llama F32"));
  }

  const Outcome csv = run(with(bench_of("m-F32.gguf", "csv"), tests));
  REQUIRE_MESSAGE(csv.code == 0, csv.err);
  std::istringstream values(csv.out);
  std::string names;
  std::getline(values, names);
  CHECK(contains("," + names + ",", ",n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts,"));
  size_t count = 0;
  for (std::string line; std::getline(values, line); ++count) {
    CHECK(line.starts_with('"'));
    CHECK(line.ends_with('"'));
  }
  CHECK(count == 3);
}

TEST_CASE("bench: Ctrl-C ends it with what was measured, exit code 130") {
  const Outcome outcome = run({"bench", material().path("m-F32.gguf"), "-p", "1", "-n", "47", "-r", "3000",
                               "-t", "1", "--no-measure"},
                              once_printed, SIGINT);
  CHECK(outcome.code == 130);
  CHECK(outcome.signal == 0);
  CHECK(contains(outcome.out, "pp1 "));
  CHECK(contains(outcome.out, "resident at most"));
}

}  // namespace
}  // namespace gladius::test
