// The operations on tensors. Each lives in one file, ops/NAME.cpp: shape check, forward and backward next to
// each other. Letters as in kernels/backend.h. All values are F32 unless said; weights may be of any dtype
// where nothing is recorded. Wrong shapes throw Error with the operation's name and the shapes.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/context.h"

namespace gladius {

// y[M,C] = weight[tokens[m], :]; weight [V,C] of any dtype but I32, tokens I32 [M]. Throws for a token that
// is not in [0, V).
Tensor embedding(Context& ctx, const Tensor& weight, const Tensor& tokens);

// y[M,C] = x * rsqrt(mean(x²) + eps) * weight; weight [C].
Tensor rms_norm(Context& ctx, const Tensor& x, const Tensor& weight, float eps);

// y[M,N] = x[M,K] · weight[N,K]ᵀ (+ residual[M,N]); weight of any dtype but I32 and those of activations.
Tensor linear(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& residual = {});

// The same, without residual, by several weights [N_i,K]: y_i[M,N_i]. Where weights are quantised, x is
// converted once.
void linears(Context& ctx, const Tensor& x, std::span<const Tensor* const> weights, std::span<Tensor> y);
template <size_t N>
std::array<Tensor, N> linears(Context& ctx, const Tensor& x, const std::array<const Tensor*, N>& weights) {
  std::array<Tensor, N> y;
  linears(ctx, x, std::span(weights), std::span(y));
  return y;
}

// Rotation angles' cosines and sines for every position: [P, D/2] each.
struct RopeTable {
  Tensor cos, sin;
};
// Rotates the adjacent pairs of each head of x[M, heads*D] in place, by the positions (I32 [M], each within
// the table), and returns x. In place is safe because no operation needs the values of a linear layer's
// output in its backward pass.
Tensor rope(Context& ctx, const Tensor& x, const Tensor& positions, const RopeTable& table, int64_t heads);

struct AttentionHeads {
  int64_t batch;  // B; q has B*T rows
  int64_t query;  // H
  int64_t kv;     // G
  int64_t width;  // D
};
// Causal grouped-query attention: q [B*T, H*D], k, v [B*T, G*D] to [B*T, H*D], scores scaled by 1/sqrt(D).
Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionHeads& heads);

// Keys and values of many sequences' tokens, for one layer: blocks [blocks, G, kv_block_tokens, D].
struct LayerKvCache {
  Tensor k, v;
};
// The same for rows that continue sequences (inference only): k and v [M, G*D] are put into the cache, and
// the queries see all that it holds of their sequence. The sequences' rows are all M in order. The queries
// are theirs [M, H*D], or those of each sequence's last row alone [sequences, H*D]. heads.batch has no
// meaning.
Tensor cached_attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionHeads& heads, LayerKvCache& cache,
                        std::span<const SequenceRows> sequences);

// y = silu(gate) * up.
Tensor swiglu(Context& ctx, const Tensor& gate, const Tensor& up);

// The rows x[rows[i], :] (inference only).
Tensor take_rows(Context& ctx, const Tensor& x, std::span<const int64_t> rows);

// a + b.
Tensor add(Context& ctx, const Tensor& a, const Tensor& b);

// Softmax over the last dimension.
Tensor softmax(Context& ctx, const Tensor& x);

// scale * sum over m of cross entropy(h[m] · weight[V,C]ᵀ, targets[m]) as one number; targets I32 [M],
// negative: ignored. The logits exist only for some rows at a time (at most kMaxLogitsBytes, one row at
// least). Gradients are computed in the forward pass, while the logits are there, so the loss must be where
// backward starts (its gradient 1): anything else throws. So the weight's gradient is written even when
// backward is never called (Tape::clear). losses, if given, receives each row's cross entropy [M], unscaled.
inline constexpr int64_t kMaxLogitsBytes = 32 << 20;
Tensor cross_entropy(Context& ctx, const Tensor& h, const Tensor& weight, const Tensor& targets, float scale,
                     const Tensor& losses = {});

}  // namespace gladius
