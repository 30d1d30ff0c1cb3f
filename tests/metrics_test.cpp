#include "train/metrics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;
using nlohmann::json;

TEST_CASE("metrics are JSON lines; those after the resumed step go") {
  const TemporaryFolder folder;
  const fs::path path = folder / "metrics.jsonl";
  {
    MetricsLog log(path, -1);
    for (int64_t step = 1; step <= 4; ++step) {
      StepMetrics metrics;
      metrics.step = step;
      metrics.tokens = step * 100;
      metrics.loss = 1.0 / 3.0 * static_cast<double>(step);
      if (step == 2) metrics.validation_loss = 2.5, metrics.validation_loss_per_byte = std::nan("");
      log.append(metrics);
    }
  }
  std::vector<json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  REQUIRE(lines.size() == 4);
  CHECK(lines[3]["step"] == 4);
  CHECK(lines[3]["tokens"] == 400);
  CHECK(lines[2]["loss"].get<double>() == 1.0 / 3.0 * 3);
  CHECK(!lines[0].contains("validation_loss"));
  CHECK(lines[1]["validation_loss"] == 2.5);
  CHECK(lines[1]["validation_loss_per_byte"].is_null());

  const std::string all = read(path);
  const std::string two = all.substr(0, all.find('\n', all.find('\n') + 1) + 1);
  write(path, all + "garbage\n{\"loss\":1}\n[1]\n{\"step\":2,\"cut");
  {
    const MetricsLog log(path, 2);
  }
  CHECK(read(path) == two);
  {
    MetricsLog log(path, 2);
    StepMetrics metrics;
    metrics.step = 3, metrics.tokens = 300;
    log.append(metrics);
  }
  CHECK(read(path) == two + "{\"step\":3,\"tokens\":300}\n");
  {
    const MetricsLog log(path, -1);
  }
  CHECK(read(path).empty());
  CHECK(contains(message_of([&] { MetricsLog(folder / "none/metrics.jsonl", -1); }), "none"));
}
