#include "eval/importance_collector.h"

#include <algorithm>
#include <cmath>

#include "eval/chunks.h"
#include "kernels/parallel.h"

namespace gladius {

ImportanceCollector::ImportanceCollector(Backend& backend, const Model& model, bool with_head)
    : ForwardingBackend(backend) {
  for (size_t i = 0; i < model.specs.size(); ++i) {
    const Tensor& weight = model.weights[i];
    const bool head = weight.data() == model.head().data();
    if (weight.shape().rank() != 2 || (model.specs[i].layer < 0 && !(with_head && head))) continue;
    const auto columns = static_cast<size_t>(weight.shape()[-1]);
    sums_[weight.data()] = {model.specs[i].gguf_name, std::vector<double>(columns), 0};
  }
}

void ImportanceCollector::matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  observe(B, d.M, d.K, A);
  backend_->matmul_nt(d, A, B, C, e);
}

void ImportanceCollector::matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) {
  observe(W.data, d.M, d.K, A);
  backend_->matmul_weight(d, A, W, C, e);
}

void ImportanceCollector::observe(const void* weight, int64_t M, int64_t K, const float* x) {
  constexpr int64_t kColumnsPerTask = 64;
  const auto position = sums_.find(weight);
  if (position == sums_.end()) return;
  Sums& sums = position->second;
  sums.rows += M;
  double* squares = sums.squares.data();
  parallel_ranges(threads(), K, kColumnsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M; ++m) {
      for (int64_t k = begin; k < end; ++k) {
        const double value = x[m * K + k];
        squares[k] += value * value;
      }
    }
  });
}

ImportanceMatrix ImportanceCollector::matrix() const {
  ImportanceMatrix result;
  for (const auto& [data, sums] : sums_) {
    ImportanceMatrix::Entry entry{{sums.squares.begin(), sums.squares.end()}, sums.rows};
    const auto finite = [](float sum) { return std::isfinite(sum); };
    if (!std::all_of(entry.sums.begin(), entry.sums.end(), finite)) {
      fail("what '{}' is multiplied with has no finite sum of squares: the model is damaged or diverged",
           sums.weight);
    }
    result.entries.emplace(sums.weight, std::move(entry));
  }
  return result;
}

ImportanceMatrix collect_importance(Context& ctx, const Model& model, std::span<const int32_t> tokens,
                                    int32_t bos, const CollectOptions& options,
                                    const std::function<bool(int64_t done, int64_t total)>& progress) {
  const int64_t T = options.context, whole = static_cast<int64_t>(tokens.size()) / T;
  if (whole == 0)
    fail("the text has {} tokens, fewer than the {} of a chunk; give more text or a smaller context",
         tokens.size(), T);
  const int64_t count = options.chunks > 0 ? std::min(options.chunks, whole) : whole;
  const Chunks chunks{tokens.first(static_cast<size_t>(count * T)), T, count};
  const RopeTable table = make_rope_table(model.config, T, ctx.pool);
  ImportanceCollector collector(ctx.backend, model, options.with_head);
  Context watched{collector, ctx.pool, nullptr, ctx.precision};
  int64_t done = 0;
  while (done < chunks.count) {
    const TokenBatch batch = make_token_batch(1, T, ctx.pool);
    fill(batch, chunks, done, bos);
    const Tensor hidden = forward(watched, model, table, batch);
    // The head's input is all that is asked for: its product, the dearest of all, is not computed.
    collector.observe(model.head().data(), T, model.config.hidden, hidden.f32());
    ++done;
    if (progress && !progress(done, chunks.count)) break;
  }
  ImportanceMatrix result = collector.matrix();
  result.chunks = static_cast<uint32_t>(done);
  result.chunk_size = static_cast<uint32_t>(T);
  return result;
}

}  // namespace gladius
