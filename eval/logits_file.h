// The base's distributions as `llama-perplexity --kl-divergence-base FILE` writes them.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/mapped_file.h"
#include "eval/chunks.h"

namespace gladius {

// The file, little-endian:
//   "_logits_", i32 context, i32 vocabulary V, i32 chunks, i32 tokens[chunks * context]
//   for every scored position, chunk by chunk: f32 scale, f32 least, u16 codes[V, made even]
//   ln p[v] = scale * codes[v] + least
class LogitsFile {
 public:
  // Throws Error naming the file and what is wrong with its head: no such file, sizes that cannot be, tokens
  // beyond the vocabulary. What is missing of the rows is told by chunks() and rows().
  static LogitsFile open(const std::filesystem::path& path);

  int64_t vocab() const { return vocab_; }
  // At most `most` chunks, 0: all. Throws Error when the file ends before they do, or goes on after all.
  Chunks chunks(int64_t most) const;
  // ln p of one position, [V]. Throws Error where the row's scale and least cannot be.
  void read_row(int64_t chunk, int64_t i, float* log_p) const;
  std::string name() const { return file_->path().string(); }

 private:
  size_t row_bytes() const { return 2 * (4 + static_cast<size_t>(vocab_ + vocab_ % 2)); }

  std::shared_ptr<const MappedFile> file_;
  int64_t vocab_ = 0;
  std::vector<int32_t> tokens_;
  Chunks all_;  // as the head announces
  size_t rows_begin_ = 0;
};

class LogitsFileScores final : public ScoreSource {
 public:
  // All references must stay.
  LogitsFileScores(Context& ctx, const LogitsFile& file) : ctx_(ctx), file_(file) {}
  void begin(int64_t chunk) override { chunk_ = chunk; }
  // Also throws where a row's probabilities do not sum to 1.
  ScoredRows rows(int64_t first, int64_t last) override;

 private:
  Context& ctx_;
  const LogitsFile& file_;
  int64_t chunk_ = 0;
};

}  // namespace gladius
