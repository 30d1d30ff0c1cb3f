// Whether a model read back from a file that was just written is the one that was to be written: tensor by
// tensor, and by the logits of the same tokens.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/weight_check.h"
#include "export/loaded_model.h"

namespace gladius {

// Of all tokens' logits; KL(base || tested) in nats as eval/row_scores.h sums it.
struct LogitsDifference {
  double largest = 0, rms = 0;  // of the logits' differences
  double kl_mean = 0, kl_max = 0;
  double same_top = 1;  // share of positions with the same likeliest token
  bool same = true;     // bits
};
// The tokens are one sequence, at most the context long. Throws Error where a logit is not finite.
LogitsDifference compare_logits(Context& ctx, const Model& base, const Model& tested,
                                std::span<const int32_t> tokens);

// The first layer whose output has other bits; -1: the embedding; config.layers: none, only what comes behind
// them (the last norm and the head).
int64_t departing_layer(Context& ctx, const Model& base, const Model& tested,
                        std::span<const int32_t> tokens);

struct Verification {
  std::vector<WeightCheck> weights;
  LogitsDifference logits;  // from the base's; not compared where a weight is faulty
  std::string fault;  // empty: none; else all that is wrong, by name: "blk.0.attn_q.weight differs by …"
};

struct Written {
  const LoadedModel* rows;       // the file's tensors as they lie in it
  const LoadedModel* inference;  // as it is run
  std::string name;              // for messages
};

// base: what was written, in rows. Throws Error where the configuration or the vocabulary is another one.
// Every tensor must have the bits that converting the base's gives, and the logits the bits of the base so
// converted, in memory. How far they are from those of the base itself is what the file's types cost, and for
// information.
Verification verify(Context& ctx, const LoadedModel& base, const std::string& base_name,
                    const Written& written, const Conversion& conversion, std::span<const int32_t> tokens,
                    const WeightProgress& progress = {});

// Token ids drawn with a fixed seed: they suit every vocabulary, and their rows are spread over all of the
// embedding.
std::vector<int32_t> verification_tokens(const Config& config, int64_t count);

}  // namespace gladius
