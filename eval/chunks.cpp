#include "eval/chunks.h"

#include <algorithm>
#include <cmath>

namespace gladius {

Chunks cut_chunks(std::span<const int32_t> tokens, int64_t context, int64_t most) {
  if (context < 4) fail("chunks of {} tokens are too short to score any", context);
  const int64_t whole = static_cast<int64_t>(tokens.size()) / context;
  if (whole == 0)
    fail("the text has {} tokens, less than one chunk of {}; choose a shorter context", tokens.size(),
         context);
  const int64_t count = most > 0 ? std::min(most, whole) : whole;
  return {tokens.first(static_cast<size_t>(count * context)), context, count};
}

void fill(const TokenBatch& batch, const Chunks& chunks, int64_t chunk, int32_t bos) {
  std::copy_n(chunks.tokens.begin() + chunk * chunks.context, chunks.context, batch.tokens.i32());
  if (bos >= 0) batch.tokens.i32()[0] = bos;
}

ModelScores::ModelScores(Context& ctx, const Model& model, const Chunks& chunks, int32_t bos,
                         std::string name)
    : ctx_(ctx),
      model_(model),
      chunks_(chunks),
      bos_(bos),
      name_(std::move(name)),
      rope_table_(make_rope_table(model.config, chunks.context, ctx.pool)),
      batch_(make_token_batch(1, chunks.context, ctx.pool)) {}

void ModelScores::begin(int64_t chunk) {
  chunk_ = chunk;
  fill(batch_, chunks_, chunk, bos_);
  hidden_ = {};  // its memory serves the next
  const int64_t first = chunks_.first_scored();
  hidden_ = forward(ctx_, model_, rope_table_, batch_).slice(first, first + chunks_.scored());
}

ScoredRows ModelScores::rows(int64_t first, int64_t last) {
  ScoredRows scored = score_rows(ctx_, logits(ctx_, model_, hidden_.slice(first, last)));
  for (const RowScore& row : scored.rows)
    if (!std::isfinite(row.log_sum)) fail("{}: scores in chunk {} are not finite", name_, chunk_ + 1);
  return scored;
}

int64_t for_each_piece(const Chunks& chunks, int64_t rows, const std::function<void(int64_t chunk)>& begin,
                       const std::function<void(int64_t chunk, int64_t first, int64_t last)>& f,
                       const ChunkProgress& progress) {
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    begin(chunk);
    for (int64_t first = 0; first < chunks.scored(); first += rows)
      f(chunk, first, std::min(chunks.scored(), first + rows));
    if (progress && !progress(chunk + 1, chunks.count)) return chunk + 1;
  }
  return chunks.count;
}

}  // namespace gladius
