#include "eval/logits_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gladius {
namespace {

constexpr std::string_view kMagic = "_logits_";
constexpr size_t kHeadBytes = kMagic.size() + 3 * sizeof(int32_t);
constexpr int32_t kMostContext = 1 << 24, kMostVocab = 1 << 24;
// Logits are clipped at 16 below the largest (24 in some versions), so codes are at most 24 / 65535 apart, by
// which ln p and so the sum of all p may be off; clipping adds less than V e^-16 to that, float's roundings
// are below 24 * 2^-24.
constexpr float kMostScale = 24.0f / 65535 * 1.001f;
double most_log_sum(int64_t vocab) {
  return 24.0 / 65535 + std::log1p(static_cast<double>(vocab) * std::exp(-16.0)) + 1e-5;
}

template <class T>
T value_at(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace

LogitsFile LogitsFile::open(const std::filesystem::path& path) {
  LogitsFile f;
  f.file_ = MappedFile::open(path);
  const auto bytes = f.file_->bytes();
  if (bytes.size() < kHeadBytes || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    fail("{} is no file of llama-perplexity --kl-divergence-base: it does not start with \"{}\"", f.name(),
         kMagic);
  const auto context = value_at<int32_t>(bytes, 8), vocab = value_at<int32_t>(bytes, 12),
             count = value_at<int32_t>(bytes, 16);
  if (context < 4 || context > kMostContext || vocab < 1 || vocab > kMostVocab || count < 1)
    fail("{} is damaged: it announces {} chunks of {} tokens and a vocabulary of {}", f.name(), count,
         context, vocab);
  const size_t tokens = static_cast<size_t>(count) * static_cast<size_t>(context);
  if ((bytes.size() - kHeadBytes) / sizeof(int32_t) < tokens)
    fail("{} is cut off: it announces {} tokens and ends before them", f.name(), tokens);
  f.vocab_ = vocab;
  f.tokens_.resize(tokens);
  std::memcpy(f.tokens_.data(), bytes.data() + kHeadBytes, tokens * sizeof(int32_t));
  for (size_t i = 0; i < tokens; ++i)
    if (f.tokens_[i] < 0 || f.tokens_[i] >= vocab)
      fail("{} is damaged: token {} is {}, not within a vocabulary of {}", f.name(), i, f.tokens_[i], vocab);
  f.all_ = {{}, context, count};
  f.rows_begin_ = kHeadBytes + tokens * sizeof(int32_t);
  return f;
}

Chunks LogitsFile::chunks(int64_t most) const {
  const int64_t count = most > 0 ? std::min(most, all_.count) : all_.count;
  const size_t chunk_bytes = row_bytes() * static_cast<size_t>(all_.scored());
  const size_t held = file_->bytes().size() - rows_begin_;
  const auto complete = static_cast<int64_t>(held / chunk_bytes);
  if (complete < count)
    fail("{} is cut off: of {} chunks it holds {}{}", name(), all_.count, complete,
         complete > 0 ? fmt::format("; --chunks {} compares those", complete) : "");
  if (held > static_cast<size_t>(all_.count) * chunk_bytes)
    fail("{} is damaged: {} bytes follow its last chunk", name(),
         held - static_cast<size_t>(all_.count) * chunk_bytes);
  return {std::span(tokens_).first(static_cast<size_t>(count * all_.context)), all_.context, count};
}

void LogitsFile::read_row(int64_t chunk, int64_t i, float* log_p) const {
  const size_t row = static_cast<size_t>(chunk * all_.scored() + i);
  const auto bytes = file_->bytes().subspan(rows_begin_ + row * row_bytes(), row_bytes());
  const auto scale = value_at<float>(bytes, 0), least = value_at<float>(bytes, 4);
  // The largest ln p is not above 0 and the least not more than 24 below ln 1/V.
  const float lowest = -24.0f - std::log(static_cast<float>(vocab_)) - 1;
  if (!(scale >= 0 && scale <= kMostScale && least >= lowest && least <= 0))
    fail("{} is damaged: chunk {}, position {} has scale {} and least {}", name(), chunk + 1, i, scale,
         least);
  const std::byte* codes = bytes.data() + 8;
  for (int64_t v = 0; v < vocab_; ++v) {
    uint16_t code;
    std::memcpy(&code, codes + 2 * v, sizeof code);
    log_p[v] = scale * static_cast<float>(code) + least;
  }
}

ScoredRows LogitsFileScores::rows(int64_t first, int64_t last) {
  const Tensor log_p = ctx_.empty({last - first, file_.vocab()});
  for (int64_t i = first; i < last; ++i) file_.read_row(chunk_, i, log_p.f32() + (i - first) * file_.vocab());
  ScoredRows scored = score_rows(ctx_, log_p);
  for (int64_t i = first; i < last; ++i) {
    RowScore& row = scored.rows[static_cast<size_t>(i - first)];
    if (!(std::fabs(row.log_sum) <= most_log_sum(file_.vocab())))
      fail("{} is damaged: the probabilities of chunk {}, position {} sum to {}", file_.name(), chunk_ + 1, i,
           std::exp(row.log_sum));
    row.top_p *= std::exp(row.log_sum);  // p as the file has it, off as its sum is
    row.log_sum = 0;
  }
  return scored;
}

}  // namespace gladius
