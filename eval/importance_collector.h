// Collects an importance matrix: runs a model over a text and adds up the squares of what its weight matrices
// are multiplied with. As llama.cpp's llama-imatrix (tools/imatrix/imatrix.cpp).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/context.h"
#include "export/importance.h"
#include "kernels/forwarding_backend.h"
#include "model/model.h"

namespace gladius {

// A Backend that adds up x[m,k]² over the rows m of every input x[M,K] of a product x · Wᵀ with a matrix W of
// the model's layers, and passes the product on: its results have the same bits as without. A matrix is known
// by where its data lies.
//
// Sums are added in double, row after row, column by column on all threads: the same bits at any number of
// threads, and after n rows within (n + 1) * 2^-53 of the exact sum, relatively.
class ImportanceCollector final : public ForwardingBackend {
 public:
  // with_head: also the head's matrix, which has its own entry, or the embedding's where they are tied.
  ImportanceCollector(Backend& backend, const Model& model, bool with_head);

  void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override;
  void matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) override;

  // Adds the rows of x[M,K] to the sums of the matrix that lies at `weight`, if it is one of those.
  void observe(const void* weight, int64_t M, int64_t K, const float* x);

  // What was added up so far, rounded to float; names and chunks are the caller's to set. Throws Error naming
  // the weight where a sum is no finite float.
  ImportanceMatrix matrix() const;

 private:
  struct Sums {
    std::string weight;
    std::vector<double> squares;  // [K]
    int64_t rows = 0;
  };
  std::unordered_map<const void*, Sums> sums_;
};

struct CollectOptions {
  int64_t context = 512;   // tokens in a chunk
  int64_t chunks = 0;      // at most so many; 0: all
  bool with_head = false;  // see ImportanceCollector
};

// Runs the model over the text's whole chunks (what is left at its end is not used). bos takes the place of
// each chunk's first token; negative: none does. All positions count. progress(done, total) in chunks, may be
// empty; returning false stops early, with what was collected so far. Throws Error when the text is shorter
// than a chunk.
ImportanceMatrix collect_importance(Context& ctx, const Model& model, std::span<const int32_t> tokens,
                                    int32_t bos, const CollectOptions& options,
                                    const std::function<bool(int64_t done, int64_t total)>& progress = {});

}  // namespace gladius
