// Perplexity as llama.cpp's llama-perplexity defines it.
#pragma once

#include "eval/chunks.h"
#include "eval/statistics.h"

namespace gladius {

struct Perplexity {
  Estimate loss;        // mean -ln p of the scored tokens, nats
  Estimate perplexity;  // exp of it; error = perplexity * loss.error
  int64_t positions = 0, chunks = 0;
};

// exp(x) of an estimate x.
Estimate exponential(const Estimate& x);

// Weights of any dtype. The figures are those of the chunks that were done when progress stopped it.
Perplexity perplexity(ModelScores& scores, const Chunks& chunks, const Config& config,
                      const ChunkProgress& progress = {});

}  // namespace gladius
