// A text in chunks, as llama.cpp's llama-perplexity cuts and scores it, and where the scores come from.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "eval/row_scores.h"
#include "model/model.h"

namespace gladius {

// `count` chunks of `context` tokens, one after the other, each read on its own. Its first half is context
// only: position i of [0, scored()) stands after the chunk's token first_scored() + i and predicts the next.
struct Chunks {
  std::span<const int32_t> tokens;  // [count * context]
  int64_t context = 0, count = 0;

  int64_t first_scored() const { return context / 2; }
  int64_t scored() const { return context - 1 - context / 2; }
  int64_t positions() const { return count * scored(); }
  int32_t target(int64_t chunk, int64_t i) const {
    return tokens[static_cast<size_t>(chunk * context + first_scored() + i + 1)];
  }
};

// What is left after the last whole chunk is dropped; `most` chunks at most, 0: all. Throws Error for a
// context below 4 and for a text that is shorter than a chunk.
Chunks cut_chunks(std::span<const int32_t> tokens, int64_t context, int64_t most);

// A chunk's tokens as a batch of one sequence; `bos` takes the place of the first, negative: nothing does.
void fill(const TokenBatch& batch, const Chunks& chunks, int64_t chunk, int32_t bos);

// (chunks done, chunks in all) after each; returning false stops early. May be empty.
using ChunkProgress = std::function<bool(int64_t done, int64_t total)>;

// Scores of chunks' positions, one chunk at a time.
class ScoreSource {
 public:
  virtual ~ScoreSource() = default;
  virtual void begin(int64_t chunk) = 0;
  // Of positions [first, last) of the chunk that was begun. Throws Error where they are not finite.
  virtual ScoredRows rows(int64_t first, int64_t last) = 0;
};

// A model's. Only scored positions' logits are computed, and only those that are asked for at a time.
class ModelScores final : public ScoreSource {
 public:
  // bos: stands in place of each chunk's first token; negative: that token stays. name: for errors. All
  // references must stay.
  ModelScores(Context& ctx, const Model& model, const Chunks& chunks, int32_t bos, std::string name);
  void begin(int64_t chunk) override;
  ScoredRows rows(int64_t first, int64_t last) override;

 private:
  Context& ctx_;
  const Model& model_;
  const Chunks chunks_;
  const int32_t bos_;
  const std::string name_;
  RopeTable rope_table_;
  TokenBatch batch_;
  Tensor hidden_;  // [scored, C]
  int64_t chunk_ = 0;
};

// Calls f(chunk, first, last) for pieces of at most `rows` positions, begin(chunk) before each chunk's first
// and progress after its last. Returns how many chunks were done.
int64_t for_each_piece(const Chunks& chunks, int64_t rows, const std::function<void(int64_t chunk)>& begin,
                       const std::function<void(int64_t chunk, int64_t first, int64_t last)>& f,
                       const ChunkProgress& progress);

}  // namespace gladius
