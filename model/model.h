// A Llama model: configuration and weights.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/ops.h"
#include "engine/tensor.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/params.h"

namespace gladius {

// The weights of one decoder layer, by what they do.
struct Layer {
  const Tensor &attn_norm, &q, &k, &v, &attn_output, &ffn_norm, &gate, &up, &down;
};

struct Model {
  Config config;
  std::vector<ParamSpec> specs;  // parameter_table(config)
  std::vector<Tensor> weights;   // one for each row of specs
  Tensor head_panels{};          // use_panels: the head where it is tied to the embedding

  const Tensor& embedding() const { return weights[0]; }
  const Tensor& output_norm() const { return weights[1]; }
  const Tensor& head() const {
    return head_panels.defined() ? head_panels : config.tied ? weights[0] : weights[2];
  }
  Layer layer(int64_t index) const;
};

// How weights start (Init in params.h): norms at 1; matrices normal with deviation 0.02 (GPT-2, Radford et
// al. 2019), small enough that logits start near 0 and the loss near ln V; the projections into the residual
// stream (attn_output and ffn_down) by a further 1/sqrt(2 * layers), so that the sum of all layers'
// contributions has the variance of one, however deep the model. Each parameter draws from its own stream,
// named by its GGUF name: the values depend on the seed and the shape alone.
void initialise(const Config& config, uint64_t seed, const ParamSpec& spec, int threads, float* values);

// A new trainable model. The weights have gradients. The values do not depend on the number of threads.
Model new_model(const Config& config, uint64_t seed, BufferPool& pool, int threads = 1);

// A model whose weights exist but hold nothing, for measuring memory.
Model blank_model(const Config& config, BufferPool& pool);

// Replaces the weights of matrix products by copies in the backend's own form (Tensor::in_panels), one by
// one, in the pool's memory, in one piece, which huge pages can hold: for inference, which they make faster.
// replaced(weight), if given, is called with each weight whose rows are hardly needed any more.
void use_panels(Model& model, Backend& backend, BufferPool& pool,
                const std::function<void(const Tensor&)>& replaced = {});

// The model without the layers from `layers` on: what the residual stream holds there, through the last norm
// and the head. Shares the weights.
Model first_layers(const Model& model, int64_t layers);

// Makes every weight trainable; they must be F32.
void set_trainable(Model& model, BufferPool& pool);

// Cosines and sines for positions [0, positions) (Su et al. 2021): angle p * theta^(-2i/D) / divisor_i,
// computed in double.
RopeTable make_rope_table(const Config& config, int64_t positions, BufferPool& pool);

// Tokens of B sequences of T each, and where each stands in its sequence.
struct TokenBatch {
  int64_t B, T;
  Tensor tokens;     // I32 [B*T]
  Tensor positions;  // I32 [B*T]
};
// Positions 0 .. T-1 of every sequence; tokens undefined.
TokenBatch make_token_batch(int64_t B, int64_t T, BufferPool& pool);

// What a batch continues: rows of sequences that a cache holds.
struct Past {
  KvCache& cache;
  std::span<const SequenceRows> sequences;
  bool last_only = false;  // of each sequence only the last row's hidden states are wanted
};

// The forward pass: hidden states [B*T, C] after the last norm. With a past, the batch's rows are those of
// its sequences (inference); the same function trains, reads prompts and decodes, with dense and with
// quantised weights. Where only last rows are wanted, the result [sequences, C] has those alone: of the
// others the last layer computes no more than keys and values.
Tensor forward(Context& ctx, const Model& model, const RopeTable& rope_table, const TokenBatch& batch,
               const Past* past = nullptr);

// The logits of every token of the vocabulary: [M, V] for hidden states [M, C].
Tensor logits(Context& ctx, const Model& model, const Tensor& hidden);

}  // namespace gladius
