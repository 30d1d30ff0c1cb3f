// Perplexity and the comparison of two models against plain formulas in double.
#include <map>

#include "eval/comparison.h"
#include "eval/perplexity.h"
#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;
using Doubles = std::vector<double>;

namespace {

constexpr int64_t kContext = 16;
constexpr int32_t kBos = 1;

std::vector<int32_t> random_tokens(int64_t n, int64_t vocab) {
  Random random(3);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random.below(vocab)));
  return tokens;
}

// ln p of every token after each of a chunk's tokens, by whole rows in double.
std::vector<Doubles> log_probabilities(Context& ctx, const Model& model, std::span<const int32_t> tokens) {
  const auto T = static_cast<int64_t>(tokens.size()), V = model.config.vocab;
  TokenBatch batch = make_token_batch(1, T, ctx.pool);
  std::copy(tokens.begin(), tokens.end(), batch.tokens.i32());
  const Tensor scores =
      logits(ctx, model, forward(ctx, model, make_rope_table(model.config, T, ctx.pool), batch));
  std::vector<Doubles> rows;
  for (int64_t t = 0; t < T; ++t) {
    Doubles row(scores.f32() + t * V, scores.f32() + (t + 1) * V);
    double sum = 0;
    for (const double x : row) sum += std::exp(x);
    for (double& x : row) x -= std::log(sum);
    rows.push_back(row);
  }
  return rows;
}

// Of a mean, as llama-perplexity writes it: sqrt((E[x²] - E[x]²) / (n - 1)), and the like for two series.
double mean(const Doubles& x) {
  double sum = 0;
  for (const double value : x) sum += value;
  return sum / static_cast<double>(x.size());
}
Doubles times(const Doubles& x, const Doubles& y) {
  Doubles products;
  for (size_t i = 0; i < x.size(); ++i) products.push_back(x[i] * y[i]);
  return products;
}
double covariance(const Doubles& x, const Doubles& y) {
  return (mean(times(x, y)) - mean(x) * mean(y)) / static_cast<double>(x.size() - 1);
}
double error(const Doubles& x) { return std::sqrt(covariance(x, x)); }

// What a model's losses may be off by, relative to its largest score.
double loss_bound(const Config& config) {
  constexpr double largest_score = 16;
  return 2 * roundings(forward_roundings(config, kContext)) * largest_score;
}

double relative(double got, double expected) { return std::fabs(got / expected - 1); }

}  // namespace

TEST_CASE("perplexity: the second halves of whole chunks, each after BOS, against double") {
  const Config config = test::small_config();
  const std::vector<int32_t> tokens = random_tokens(3 * kContext + 5, config.vocab);
  const auto pool = BufferPool::make();
  const Model model = random_model(config, 7, *pool);

  for (const int32_t bos : {kBos, -1}) {
    CAPTURE(bos);
    const auto reference = make_reference_backend();
    Context plain{*reference, *pool};
    Doubles losses;
    for (int64_t chunk = 0; chunk < 3; ++chunk) {
      std::vector<int32_t> input(tokens.begin() + chunk * kContext, tokens.begin() + (chunk + 1) * kContext);
      const std::vector<int32_t> original = input;
      if (bos >= 0) input[0] = bos;
      const std::vector<Doubles> rows = log_probabilities(plain, model, input);
      for (size_t j = 8; j <= 14; ++j) losses.push_back(-rows[j][static_cast<size_t>(original[j + 1])]);
    }
    const double expected = std::exp(mean(losses)), bound = loss_bound(config);

    for_each_backend([&](Backend& backend) {
      Context ctx{backend, *pool};
      const Chunks chunks = cut_chunks(tokens, kContext, 0);
      ModelScores scores(ctx, model, chunks, bos, "model");
      const Perplexity p = perplexity(scores, chunks, config);
      CHECK(p.chunks == 3);
      CHECK(p.positions == 3 * 7);
      CHECK(relative(p.perplexity.value, expected) <= bound);
      CHECK(relative(p.perplexity.error, expected * error(losses)) <= 10 * bound);
    });
  }
}

TEST_CASE("chunks: as many as asked for, and a context that does not fit is refused") {
  const std::vector<int32_t> tokens = random_tokens(40, 10);
  CHECK(cut_chunks(tokens, 16, 0).count == 2);
  CHECK(cut_chunks(tokens, 16, 1).count == 1);
  CHECK(cut_chunks(tokens, 16, 9).count == 2);
  CHECK(cut_chunks(tokens, 40, 0).positions() == 19);
  CHECK(cut_chunks(tokens, 9, 0).scored() == 4);
  CHECK(contains(message_of([&] { cut_chunks(tokens, 41, 0); }), "40 tokens"));
  CHECK(contains(message_of([&] { cut_chunks(tokens, 3, 0); }), "3 tokens"));
}

TEST_CASE("a run that is stopped reports the chunks that were done") {
  const Config config = test::small_config();
  const std::vector<int32_t> tokens = random_tokens(3 * kContext, config.vocab);
  const auto pool = BufferPool::make();
  const auto backend = make_cpu_backend(1);
  Context ctx{*backend, *pool};
  const Model model = random_model(config, 7, *pool);
  const Chunks all = cut_chunks(tokens, kContext, 0), two = cut_chunks(tokens, kContext, 2);
  ModelScores scores(ctx, model, all, kBos, "model");
  const Perplexity stopped =
      perplexity(scores, all, config, [](int64_t done, int64_t total) { return done < 2 && total == 3; });
  const Perplexity whole = perplexity(scores, two, config);
  CHECK(stopped.chunks == 2);
  CHECK(stopped.perplexity.value == whole.perplexity.value);
}

TEST_CASE("means and percentiles of known numbers") {
  const Doubles x = {1, 2, 3, 4}, y = {4, 2, 0, -2};
  CHECK(mean_of(x).value == 2.5);
  CHECK(mean_of(x).error == doctest::Approx(std::sqrt(1.25 / 3)).epsilon(1e-14));
  CHECK(covariance_of_means(x, y) == doctest::Approx(-2.5 / 3).epsilon(1e-14));
  CHECK(std::isnan(mean_of(Doubles{1}).error));
  const Doubles sorted = {-1, 0, 10, 20, 50};
  CHECK(percentile(sorted, 0) == -1);
  CHECK(percentile(sorted, 1) == 50);
  CHECK(percentile(sorted, 0.5) == 10);
  CHECK(percentile(sorted, 0.25) == 0);
  CHECK(percentile(sorted, 0.9) == doctest::Approx(20 + 0.6 * 30).epsilon(1e-14));  // place 3.6
  CHECK(percentile(Doubles{7}, 0.3) == 7);
}

TEST_CASE("summary: against the formulas by moments") {
  Random random(5);
  std::vector<PositionScore> scores(1000);
  std::map<std::string, Doubles> s;
  for (PositionScore& score : scores) {
    score.base_loss = static_cast<double>(random.uniform(0, 5));
    score.loss = score.base_loss + static_cast<double>(random.uniform(-0.3f, 0.5f));
    score.kld = static_cast<double>(random.uniform(0, 1));
    score.base_top = static_cast<int32_t>(random.below(3));
    s["a"].push_back(score.base_loss), s["b"].push_back(score.loss), s["kld"].push_back(score.kld);
    s["dp"].push_back(std::exp(-score.loss) - std::exp(-score.base_loss));
    s["same"].push_back(score.base_top == 0);
  }
  const Comparison c = summarise(scores);
  const auto close = [](double value) { return doctest::Approx(value).epsilon(1e-9); };
  const double a = std::exp(mean(s["a"])), b = std::exp(mean(s["b"]));
  const double ea = error(s["a"]), eb = error(s["b"]), ab = covariance(s["a"], s["b"]);
  CHECK(c.positions == 1000);
  CHECK(c.base_perplexity.value == close(a));
  CHECK(c.perplexity.error == close(b * eb));
  CHECK(c.correlation == close(ab / (ea * eb)));
  CHECK(c.log_ratio.value == close(std::log(b / a)));
  CHECK(c.log_ratio.error == close(std::sqrt(ea * ea + eb * eb - 2 * ab)));
  CHECK(c.ratio.error == close(b / a * c.log_ratio.error));
  CHECK(c.difference.value == close(b - a));
  CHECK(c.difference.error == close(std::sqrt(a * a * ea * ea + b * b * eb * eb - 2 * a * b * ab)));
  CHECK(c.kld.mean.error == close(error(s["kld"])));
  CHECK(c.delta_p.mean.value == close(mean(s["dp"])));
  const Doubles squares = times(s["dp"], s["dp"]);
  CHECK(c.rms_delta_p.value == close(std::sqrt(mean(squares))));
  CHECK(c.rms_delta_p.error == close(0.5 / std::sqrt(mean(squares)) * error(squares)));
  const double share = mean(s["same"]);
  CHECK(c.same_top.value == close(share));
  CHECK(c.same_top.error == close(std::sqrt(share * (1 - share) / 999)));
  std::sort(s["kld"].begin(), s["kld"].end());
  CHECK(c.kld.percentiles.front() == s["kld"].back());
  CHECK(c.kld.percentiles.back() == s["kld"].front());
  CHECK(c.kld.percentiles[1] == close(s["kld"][998] + 0.001 * (s["kld"][999] - s["kld"][998])));  // 998.001

  const std::vector<PositionScore> worst = worst_positions(scores, 3);
  REQUIRE(worst.size() == 3);
  for (size_t i = 0; i < 3; ++i) CHECK(worst[i].kld == s["kld"][999 - i]);
  CHECK(worst_positions(scores, 5000).size() == 1000);
}

TEST_CASE("divergence of rows: against double, without what is below e^-16") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Context ctx{backend, *pool};
    Random random(11);
    for (const int64_t V : {1, 7, 8, 67, 1000}) {
      CAPTURE(V);
      const Tensor x = random_tensor(random, *pool, {3, V}, -12, 12),
                   y = random_tensor(random, *pool, {3, V});
      const ScoredRows a = score_rows(ctx, x), b = score_rows(ctx, y);
      for (int64_t i = 0; i < 3; ++i) {
        double sum_a = 0, sum_b = 0, expected = 0;
        for (int64_t v = 0; v < V; ++v) {
          sum_a += std::exp(static_cast<double>(a.row(i)[v]));
          sum_b += std::exp(static_cast<double>(b.row(i)[v]));
        }
        double terms = 0;
        for (int64_t v = 0; v < V; ++v) {
          const double log_a = static_cast<double>(a.row(i)[v]) - std::log(sum_a);
          const double log_b = static_cast<double>(b.row(i)[v]) - std::log(sum_b);
          if (log_a <= -16) continue;
          expected += std::exp(log_a) * (log_a - log_b);
          terms += std::exp(log_a) * std::fabs(log_a - log_b);
        }
        // An exponential's argument, up to 24 in size, is rounded; the function adds a few roundings.
        const double bound = roundings(24 + 8) * (1 + terms);
        CHECK(std::fabs(divergence(a, b, i) - expected) <= bound);
        const float* row = a.row(i);
        CHECK(a.rows[static_cast<size_t>(i)].top == std::max_element(row, row + V) - row);
        CHECK(std::fabs(a.loss(i, 0) - (std::log(sum_a) - static_cast<double>(row[0]))) <= bound);
      }
    }
  });
}

TEST_CASE(
    "two models: divergences against double; a model and itself: none; equal at any number of threads") {
  const Config config = test::small_config(true);
  const std::vector<int32_t> tokens = random_tokens(2 * kContext, config.vocab);
  const auto pool = BufferPool::make();
  const Model one = random_model(config, 7, *pool), other = random_model(config, 8, *pool);
  const Chunks chunks = cut_chunks(tokens, kContext, 0);
  const auto scores_of = [&](Backend& backend, const Model& a, const Model& b) {
    Context ctx{backend, *pool};
    ModelScores base(ctx, a, chunks, -1, "a"), tested(ctx, b, chunks, -1, "b");
    return compare(base, tested, chunks, config, backend.threads());
  };
  const auto backend = make_cpu_backend(2), narrow = make_cpu_backend(1);
  const std::vector<PositionScore> scores = scores_of(*backend, one, other);
  REQUIRE(static_cast<int64_t>(scores.size()) == chunks.positions());

  const auto reference = make_reference_backend();
  Context plain{*reference, *pool};
  const double bound = loss_bound(config);
  for (size_t chunk = 0; chunk < 2; ++chunk) {
    const auto input = chunks.tokens.subspan(chunk * kContext, kContext);
    const auto a = log_probabilities(plain, one, input), b = log_probabilities(plain, other, input);
    for (size_t i = 0; i < 7; ++i) {
      const PositionScore& s = scores[chunk * 7 + i];
      const Doubles &p = a[8 + i], &q = b[8 + i];
      double kld = 0, terms = 0;
      for (size_t v = 0; v < p.size(); ++v) {
        kld += std::exp(p[v]) * (p[v] - q[v]);
        terms += std::exp(p[v]) * std::fabs(p[v] - q[v]);
      }
      const auto target = static_cast<size_t>(input[9 + i]);
      CHECK(s.position == static_cast<int64_t>(chunk * kContext + 9 + i));
      CHECK(s.target == input[9 + i]);
      CHECK(std::fabs(s.base_loss + p[target]) <= bound);
      CHECK(std::fabs(s.loss + q[target]) <= bound);
      CHECK(std::fabs(s.kld - kld) <= 2 * bound * (1 + terms));
      CHECK(s.top_p == doctest::Approx(std::exp(q[static_cast<size_t>(s.top)])).epsilon(bound));
    }
  }

  for (const PositionScore& s : scores_of(*backend, one, one)) {
    CHECK(s.kld == 0);
    CHECK(s.base_top == s.top);
    CHECK(s.delta_p() == 0);
  }
  const std::vector<PositionScore> again = scores_of(*narrow, one, other);
  for (size_t i = 0; i < scores.size(); ++i) {
    CHECK(scores[i].kld == again[i].kld);
    CHECK(scores[i].loss == again[i].loss);
    CHECK(scores[i].base_loss == again[i].base_loss);
  }
}

TEST_CASE("scores that are not finite are an error that names the model") {
  const Config config = test::small_config();
  const auto pool = BufferPool::make();
  const auto backend = make_cpu_backend(1);
  Context ctx{*backend, *pool};
  const Model model = random_model(config, 7, *pool);
  model.head().f32()[5] = std::nanf("");
  const std::vector<int32_t> tokens = random_tokens(kContext, config.vocab);
  const Chunks chunks = cut_chunks(tokens, kContext, 0);
  ModelScores scores(ctx, model, chunks, -1, "broken.gguf");
  CHECK(contains(message_of([&] { perplexity(scores, chunks, config); }), "broken.gguf"));
}

TEST_CASE("vocabularies that differ are refused with the first difference") {
  const Vocab a = llama_vocab(20);
  Vocab b = a;
  check_same_vocab(a, "a", b, "b");
  b.tokens[270].text = "other";
  b.tokens[272].text += "y";
  const std::string message = message_of([&] { check_same_vocab(a, "a.gguf", b, "b.gguf"); });
  CHECK(contains(message, "270"));
  CHECK(contains(message, "a.gguf"));
  CHECK(contains(message, "\"other\""));
  b.tokens.pop_back();
  CHECK(contains(message_of([&] { check_same_vocab(a, "a", b, "b"); }), std::to_string(b.size())));
}
