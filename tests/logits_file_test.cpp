// Files of llama-perplexity --kl-divergence-base: read as they are defined, and refused where they are
// damaged.
#include "eval/logits_file.h"

#include <cstring>

#include "eval/comparison.h"
#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

constexpr int64_t kContext = 8, kVocab = 67, kCount = 2, kScored = 3;
constexpr size_t kHead = 20, kRows = kHead + kCount * kContext * 4, kRow = 2 * (4 + 68);

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}
template <class T>
void put(std::string& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

// A file, and what it says: ln p [positions, V].
struct Material {
  std::string bytes;
  std::vector<int32_t> tokens;
  std::vector<std::vector<double>> log_p;
};

Material make_material() {
  Material m;
  Random random(9);
  m.bytes = "_logits_";
  for (const int64_t value : {kContext, kVocab, kCount}) append(m.bytes, static_cast<int32_t>(value));
  for (int64_t i = 0; i < kCount * kContext; ++i) {
    m.tokens.push_back(static_cast<int32_t>(random.below(kVocab)));
    append(m.bytes, m.tokens.back());
  }
  for (int64_t row = 0; row < kCount * kScored; ++row) {
    std::vector<double> x;
    double largest = -100, sum = 0;
    for (int64_t v = 0; v < kVocab; ++v) x.push_back(static_cast<double>(random.uniform(-20, 15)));
    for (const double value : x) largest = std::max(largest, value);
    for (const double value : x) sum += std::exp(value);
    const double least = std::max(*std::min_element(x.begin(), x.end()), largest - (row % 2 == 0 ? 16 : 24));
    const auto scale = static_cast<float>((largest - least) / 65535);
    const auto least_log_p = static_cast<float>(least - std::log(sum));
    append(m.bytes, scale), append(m.bytes, least_log_p);
    m.log_p.emplace_back();
    for (int64_t v = 0; v < kVocab + 1; ++v) {
      const double value = v < kVocab ? std::max(least, x[static_cast<size_t>(v)]) : least;
      const auto code = static_cast<uint16_t>(std::lround((value - least) / (largest - least) * 65535));
      append(m.bytes, code);
      if (v < kVocab)
        m.log_p.back().push_back(static_cast<double>(scale) * code + static_cast<double>(least_log_p));
    }
  }
  return m;
}

// The first failure of everything that is done with a file; empty: none.
std::string failure_of(const std::string& bytes, int64_t most = 0) {
  const TemporaryFolder folder;
  write(folder / "base.kld", bytes);
  const std::string message = message_of([&] {
    const auto pool = BufferPool::make();
    const auto backend = make_reference_backend();
    Context ctx{*backend, *pool};
    const LogitsFile file = LogitsFile::open(folder / "base.kld");
    LogitsFileScores scores(ctx, file);
    for_each_piece(
        file.chunks(most), 2, [&](int64_t chunk) { scores.begin(chunk); },
        [&](int64_t, int64_t first, int64_t last) { scores.rows(first, last); }, {});
  });
  CHECK((message.empty() || contains(message, "base.kld")));
  return message;
}

}  // namespace

TEST_CASE("a base's file stands for the base") {
  const Material m = make_material();
  REQUIRE(m.bytes.size() == kRows + kCount * kScored * kRow);
  const TemporaryFolder folder;
  write(folder / "base.kld", m.bytes);
  const LogitsFile file = LogitsFile::open(folder / "base.kld");
  CHECK(file.vocab() == kVocab);
  const Chunks chunks = file.chunks(0);
  CHECK(chunks.context == kContext);
  CHECK(chunks.count == kCount);
  CHECK(std::equal(chunks.tokens.begin(), chunks.tokens.end(), m.tokens.begin(), m.tokens.end()));

  for_each_backend([&](Backend& backend) {
    const auto pool = BufferPool::make();
    Context ctx{backend, *pool};
    const Config config = test::small_config();
    const Model model = random_model(config, 7, *pool);
    LogitsFileScores base(ctx, file);
    ModelScores tested(ctx, model, chunks, -1, "tested"), same(ctx, model, chunks, -1, "tested");
    const std::vector<PositionScore> scores = compare(base, tested, chunks, config, 2);
    REQUIRE(scores.size() == m.log_p.size());
    for (size_t i = 0; i < scores.size(); ++i) {
      const auto chunk = static_cast<int64_t>(i) / kScored, row = static_cast<int64_t>(i) % kScored;
      same.begin(chunk);
      const ScoredRows q = same.rows(0, kScored);
      double kld = 0, terms = 0;
      for (int32_t v = 0; v < kVocab; ++v) {
        const double log_p = m.log_p[i][static_cast<size_t>(v)], difference = log_p + q.loss(row, v);
        if (log_p <= -16) continue;
        kld += std::exp(log_p) * difference;
        terms += std::exp(log_p) * std::fabs(difference);
      }
      const double bound = roundings(24 + 8) * (1 + terms) + roundings(2) * 30;  // ln p, up to 30, is rounded
      CHECK(std::fabs(scores[i].kld - kld) <= bound);
      const auto& log_p = m.log_p[i];
      CHECK(std::fabs(scores[i].base_loss + log_p[static_cast<size_t>(scores[i].target)]) <= bound);
      const auto top = std::max_element(log_p.begin(), log_p.end());
      CHECK(scores[i].base_top == top - log_p.begin());
      CHECK(std::fabs(scores[i].base_top_p - std::exp(*top)) <= bound);
    }
  });
}

TEST_CASE("a base's file that is cut off is refused, but for the chunks that it holds") {
  const std::string bytes = make_material().bytes;
  CHECK(failure_of(bytes).empty());
  for (size_t length = 0; length < bytes.size(); length += length < kRows ? 1 : 7) {
    CAPTURE(length);
    CHECK(!failure_of(bytes.substr(0, length)).empty());
  }
  CHECK(contains(failure_of(bytes.substr(0, kRows - 1)), "cut off"));
  CHECK(contains(failure_of(bytes.substr(0, bytes.size() - 1)), "--chunks 1"));
  CHECK(failure_of(bytes.substr(0, bytes.size() - 1), 1).empty());
  CHECK(contains(failure_of(bytes + "more"), "4 bytes follow"));
}

TEST_CASE("a base's file whose contents cannot be is refused") {
  const std::string good = make_material().bytes;
  const auto with = [&](size_t offset, auto value) {
    std::string bytes = good;
    put(bytes, offset, value);
    return failure_of(bytes);
  };
  CHECK(contains(with(0, 'x'), "does not start with"));
  for (const int32_t wrong : {-1, 0, 3, 2000000000}) CHECK(contains(with(8, wrong), "base.kld is"));
  for (const int32_t wrong : {-1, 0, 2000000000}) CHECK(contains(with(12, wrong), "base.kld is"));
  for (const int32_t wrong : {-1, 0, 2000000000}) CHECK(contains(with(16, wrong), "base.kld is"));
  CHECK(contains(with(kHead + 4, int32_t{67}), "token 1"));
  CHECK(contains(with(kHead + 4, int32_t{-1}), "token 1"));
  const size_t second = kRows + kRow;
  for (const float wrong : {-1.0f, 1.0f, std::nanf(""), HUGE_VALF})
    CHECK(contains(with(second, wrong), "chunk 1, position 1"));
  for (const float wrong : {1.0f, -100.0f, std::nanf(""), -HUGE_VALF})
    CHECK(contains(with(second + 4, wrong), "chunk 1, position 1"));
  std::string zeros = good;
  std::memset(zeros.data() + second + 8, 0, kRow - 8);
  CHECK(contains(failure_of(zeros), "sum to"));
}
