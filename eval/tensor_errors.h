// What each tensor of a tested model costs: the KL divergence from the base of the base with that tensor
// alone taken from the tested model, estimated.
//
// To second order in E = W_tested - W_base it is half the Fisher information along E,
//   KL = 1/2 mean over positions of E_{y ~ p} (g_y · E)²,  g_y = the gradient of ln p(y) by W.
// Of n positions, let targets y_i be drawn from the base's own predictions; the gradient of their summed loss
// is G = -sum_i g_i. Each g_i has mean 0 and the draws are independent, so E (G · E)² = sum_i E (g_i · E)²:
// one backward pass gives the unbiased estimate (G · E)² / 2n for every tensor at once. Being the square of a
// nearly normal sum, it deviates by about sqrt(2) times its mean, whatever n is: the error falls with the
// number of windows, and many short windows say more than a few long ones.
//
// Only weights are exchanged: what a quantised product's rounding of activations costs is not in it.
#pragma once

#include <string>
#include <vector>

#include "eval/chunks.h"
#include "eval/statistics.h"

namespace gladius {

inline constexpr int64_t kTensorErrorWindow = 128;  // tokens: short, but with context for what is scored

struct TensorErrors {
  std::vector<ParamSpec> specs;  // the models' parameter table
  std::vector<Estimate> kld;     // of each, nats per position
  Estimate together;             // of all at once
  int64_t windows = 0;           // that were drawn,
  int64_t context = 0;           // of so many tokens
};

// How the tables of two models' parameters, or what their configurations say besides, are not the same;
// empty: they are.
std::string table_difference(const Model& a, const std::string& a_name, const Model& b,
                             const std::string& b_name);
std::string config_difference(const Model& a, const std::string& a_name, const Model& b,
                              const std::string& b_name);
// Throws Error where there is one of the two.
void check_same_architecture(const Model& a, const std::string& a_name, const Model& b,
                             const std::string& b_name);

// Draws targets for `samples` windows (at least 2), which come from `windows` in turn; on further rounds with
// new targets. base: F32 and trainable, so memory for gradients, 4 bytes a weight. bos as in ModelScores. The
// same seed gives the same bits at any number of threads.
TensorErrors tensor_errors(Context& ctx, const Model& base, const Model& tested, const Chunks& windows,
                           int64_t samples, int32_t bos, uint64_t seed, const ChunkProgress& progress = {});

// A heat map: a row for each layer, a column for each kind of tensor, what is outside the layers above them;
// colours by the logarithm, over four decades below the largest.
std::string tensor_errors_svg(const TensorErrors& errors, const std::string& title);

}  // namespace gladius
