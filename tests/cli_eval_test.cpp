// `gladius perplexity` and `gladius validate` as people meet them.
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cli_support.h"

namespace gladius::test {
namespace {

std::vector<std::string> scoring(const std::string& command, const std::vector<std::string>& models) {
  std::vector<std::string> arguments = {command};
  for (const std::string& model : models) arguments.push_back(material().path(model));
  return with(arguments, {"--data", material().path("text.txt"), "--context", "48"});
}

double number_after(const std::string& text, const std::string& label) {
  const size_t at = text.find(label);
  REQUIRE_MESSAGE(at != std::string::npos, text);
  return std::strtod(text.c_str() + at + label.size(), nullptr);
}

TEST_CASE("perplexity: text and JSON say the same, and the threads do not matter") {
  const TemporaryFolder folder;
  const std::string file = (folder / "p.json").string();
  const Outcome text =
      run(with(scoring("perplexity", {"m-F32.gguf"}), {"--chunks", "3", "--json", file, "--threads", "1"}));
  REQUIRE_MESSAGE(text.code == 0, text.err);
  CHECK(contains(text.out, "69 tokens scored"));  // 3 * (48 - 1 - 24)
  CHECK(contains(text.out, "in 3 chunks of 48 tokens"));
  const auto json = nlohmann::json::parse(read(file));
  CHECK(json["tokens"] == 69);
  CHECK(std::fabs(json["perplexity"]["value"].get<double>() - number_after(text.out, "PPL = ")) < 1e-4);
  CHECK(std::fabs(json["perplexity"]["error"].get<double>() - number_after(text.out, "+/- ")) < 1e-4);
  const Outcome printed =
      run(with(scoring("perplexity", {"m-F32.gguf"}), {"--chunks", "3", "--json", "-", "--threads", "2"}));
  CHECK(printed.out == read(file));
}

TEST_CASE("validate: a model beside itself and beside its quantised form") {
  const Outcome same = run(with(scoring("validate", {"m-F32.gguf", "m-F32.gguf"}),
                                {"--json", "-", "--max-kld", "0", "--min-top1", "100"}));
  REQUIRE_MESSAGE(same.code == 0, same.err);
  const auto none = nlohmann::json::parse(same.out);
  CHECK(none["kld"]["100%"] == 0);
  CHECK(none["same_top"]["value"] == 1);

  const auto arguments = scoring("validate", {"m-F32.gguf", "m-Q8_0.gguf"});
  const Outcome one = run(with(arguments, {"--json", "-", "--threads", "1"}));
  const Outcome two = run(with(arguments, {"--json", "-", "--threads", "2"}));
  REQUIRE_MESSAGE(one.code == 0, one.err);
  CHECK(one.out == two.out);
  const double kld = nlohmann::json::parse(one.out)["kld"]["mean"]["value"];
  CHECK(kld > 0);
  CHECK(kld < 0.01);  // 8 bits

  const Outcome text = run(with(arguments, {"--worst", "2"}));
  REQUIRE_MESSAGE(text.code == 0, text.err);
  for (const char* part : {"correlation", "99.9 %", "median", "root mean square", "same likeliest token"})
    CHECK(contains(text.out, part));
  CHECK(contains(text.out, "largest divergences"));
  CHECK(contains(text.out, "after \"…"));
  CHECK(text.err.starts_with("scoring "));
  CHECK(std::count(text.err.begin(), text.err.end(), '\n') == 1);
}

TEST_CASE("validate: a missed limit is exit code 1 and one line with the figure, after the report") {
  const auto arguments = scoring("validate", {"m-F32.gguf", "m-Q8_0.gguf"});
  const Outcome missed = run(with(arguments, {"--max-kld", "1e-12"}));
  CHECK(missed.code == 1);
  CHECK(contains(missed.out, "same likeliest token"));
  const std::string line = missed.err.substr(missed.err.find('\n') + 1);  // after what is scored
  CHECK(line.starts_with("gladius: "));
  CHECK(contains(line, "--max-kld 1e-12"));
  CHECK(std::count(line.begin(), line.end(), '\n') == 1);
  CHECK(run(with(arguments, {"--max-kld", "1"})).code == 0);
}

TEST_CASE("validate: a base's file of another program takes the place of the base and the text") {
  // Every token equally likely: scale 0, ln p = -ln 300 everywhere.
  constexpr int32_t context = 8, vocab = 300;
  const float scale = 0, least = -std::log(300.0f);
  std::string bytes = "_logits_";
  const auto append = [&](const auto& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  append(context), append(vocab), append(int32_t{1});
  for (int32_t i = 0; i < context; ++i) append(int32_t{260 + i});
  for (int row = 0; row < 3; ++row) append(scale), append(least), bytes.append(2 * vocab, '\0');
  const TemporaryFolder folder;
  const std::string file = (folder / "base.kld").string();
  write(file, bytes);
  const Outcome outcome =
      run({"validate", material().path("m-F32.gguf"), "--base-logits", file, "--json", "-"});
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  const auto json = nlohmann::json::parse(outcome.out);
  CHECK(json["positions"] == 3);
  CHECK(std::fabs(json["base_perplexity"]["value"].get<double>() - 300) < 1e-3);
  CHECK(json["worst"].size() == 3);
  write(file, bytes.substr(0, bytes.size() - 1));
  check_refused({"validate", material().path("m-F32.gguf"), "--base-logits", file}, 1,
                {"base.kld", "cut off"});
}

TEST_CASE("validate: each tensor's share, as text, JSON and a heat map") {
  const TemporaryFolder folder;
  const std::string svg = (folder / "map.svg").string(), json = (folder / "v.json").string();
  const auto arguments = scoring("validate", {"m-Q8_0.gguf", "m-F32.gguf"});
  const Outcome outcome = run(with(arguments, {"--per-tensor", "480", "--svg", svg, "--json", json}));
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(contains(outcome.out, "estimated from 10 windows of 48 tokens"));
  CHECK(contains(outcome.out, "blk.0.ffn_down.weight"));
  CHECK_FALSE(contains(outcome.out, "attn_norm"));  // F32 in both files
  CHECK(nlohmann::json::parse(read(json))["per_tensor"]["tensors"].size() == 12);
  CHECK(read(svg).starts_with("<svg "));
  CHECK(names_in(folder.path()) == std::vector<std::string>{"map.svg", "v.json"});
}

TEST_CASE("validate: few positions are noticed") {
  const Outcome few = run(with(scoring("validate", {"m-F32.gguf", "m-Q8_0.gguf"}), {"--chunks", "1"}));
  CHECK(few.code == 0);
  CHECK(contains(few.err, "23 positions"));
}

TEST_CASE("perplexity and validate: wrong arguments and files") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string model = m.path("m-F32.gguf"), text = m.path("text.txt");
  check_refused({"perplexity", model}, 2, {"--data"});
  check_refused({"perplexity", model, "--data", text, "--context", "3"}, 2, {"--context", "3"});
  check_refused({"perplexity", model, "--data", text, "--context", "100000"}, 1, {"100000", "shorter"});
  check_refused({"perplexity", model, "--data", text, "--json", (folder / "no" / "p").string()}, 1, {"no/p"});
  check_refused({"perplexity", (folder / "none").string(), "--data", text}, 1, {"none"});
  check_refused({"validate", model, "--data", text}, 2, {"two"});
  check_refused({"validate", model, model}, 2, {"--data"});
  check_refused({"validate", model, model, "--base-logits", text}, 2, {"--base-logits"});
  check_refused({"validate", model, "--base-logits", text, "--data", text}, 2, {"--data"});
  check_refused({"validate", model, model, "--data", text, "--svg", "a.svg"}, 2, {"--svg", "--per-tensor"});
  check_refused({"validate", model, "--base-logits", text, "--per-tensor", "100"}, 2, {"--per-tensor"});
  check_refused({"validate", model, "--base-logits", text}, 1, {"text.txt", "_logits_"});
  check_refused({"validate", model, model, "--data", text, "--max-kld", "nan"}, 2, {"--max-kld"});
  check_refused({"validate", model, model, "--data", text, "--min-top1", "101"}, 2, {"--min-top1"});
}

TEST_CASE("Ctrl-C: figures of what was done, exit code 130") {
  const Material& m = material();
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 300; ++i) text += read(m.path("text.txt"));
  write(folder / "long.txt", text);
  // It says how much it scores when it starts on it.
  const auto at_work = [](const fs::path& out) { return once_printed(out.parent_path() / "err"); };
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"perplexity", m.path("m-F32.gguf")}, {"validate", m.path("m-F32.gguf"), m.path("m-Q8_0.gguf")}}) {
    CAPTURE(arguments[0]);
    const Outcome outcome =
        run(with(arguments, {"--data", (folder / "long.txt").string(), "--context", "48", "--threads", "1"}),
            at_work, SIGINT);
    CHECK(outcome.signal == 0);
    CHECK(outcome.code == 130);
    CHECK(contains(outcome.out, arguments[0] == "perplexity" ? "PPL = " : "same likeliest token"));
  }
}

}  // namespace
}  // namespace gladius::test
