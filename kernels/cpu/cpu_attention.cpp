// Attention: tasks are tiles of query rows (forward) or whole key/value heads of a sequence (backward, where
// the rows of a head add to the same keys).
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/parallel.h"
#include "kernels/reference/attention.h"

namespace gladius::cpu {

void CpuBackend::attention(const AttentionDims& d, const float* q, const float* k, const float* v, float* o,
                           float* lse) {
  if (d.D > attention_max_width) return reference::attention(d, q, k, v, o, lse);
  const int64_t rows = d.Tq * (d.H / d.G), tiles = (rows + attention_rows - 1) / attention_rows;
  parallel_tasks(threads_, d.B * d.G * tiles, [&](int64_t task, int worker) {
    // Head by head, so that its keys stay in cache. The last rows see the most keys: their tiles go first, so
    // that no thread is left with a long one at the end.
    const int64_t tile = tiles - 1 - task % tiles, head = task / tiles;
    f_.attention({.d = &d,
                  .b = head / d.G,
                  .g = head % d.G,
                  .row_begin = tile * attention_rows,
                  .row_end = std::min(rows, (tile + 1) * attention_rows),
                  .q = q,
                  .k = k,
                  .v = v,
                  .o = o,
                  .lse = lse,
                  .scratch = attention_.data() + worker * attention_scratch});
  });
}

void CpuBackend::attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                                    const AttentionGradients& g) {
  if (d.D > attention_max_width)
    return reference::attention_backward(d, {f.q, f.k, f.v, f.o, f.lse}, dO, g.dq, g.dk, g.dv);
  parallel_tasks(threads_, d.B * d.G, [&](int64_t head, int worker) {
    f_.attention_backward({.d = &d,
                           .b = head / d.G,
                           .g = head % d.G,
                           .q = f.q,
                           .k = f.k,
                           .v = f.v,
                           .o = f.o,
                           .lse = f.lse,
                           .dO = dO,
                           .dq = g.dq,
                           .dk = g.dk,
                           .dv = g.dv,
                           .scratch = attention_.data() + worker * attention_scratch});
  });
}

}  // namespace gladius::cpu
