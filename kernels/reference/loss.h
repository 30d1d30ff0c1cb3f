// Next-token cross entropy of the LM head.
#pragma once

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/softmax.h"

namespace gladius::reference {

// losses[m] = ln sum_v exp z[m,v] - z[m, targets[m]], and 0 for rows whose target is negative. With
// `gradient`, z becomes grad_scale * (softmax(z) - [v = target]), 0 for those rows.
template <class T>
void cross_entropy(int64_t M, int64_t V, T* z, const int32_t* targets, double grad_scale, bool gradient,
                   T* losses) {
  for (int64_t m = 0; m < M; ++m, z += V) {
    const int32_t target = targets[m];
    const double lse = log_sum_exp(V, z);
    losses[m] = target < 0 ? T(0) : T(lse - double(z[target]));
    if (!gradient) continue;
    for (int64_t v = 0; v < V; ++v)
      z[v] = target < 0 ? T(0) : T(grad_scale * (std::exp(double(z[v]) - lse) - (v == target ? 1.0 : 0.0)));
  }
}

// z = h[M,C] · W[V,C]ᵀ and its cross entropy; dh = dz · W, dW = dzᵀ · h, where dh and dW are not null.
// `logits` is room for chunk_rows * V numbers.
template <class T>
void linear_cross_entropy(const LossDims& d, const T* h, const T* W, const int32_t* targets,
                          double grad_scale, T* logits, int64_t chunk_rows, T* losses, T* dh, T* dW,
                          bool accumulate_dW) {
  if (dW && d.M == 0 && !accumulate_dW) std::fill(dW, dW + d.V * d.C, T(0));
  for (int64_t m = 0; m < d.M; m += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, d.M - m);
    matmul_nt({rows, d.V, d.C, d.precision}, h + m * d.C, W, logits);
    cross_entropy(rows, d.V, logits, targets + m, grad_scale, dh != nullptr, losses + m);
    if (!dh) continue;
    matmul_nn({rows, d.C, d.V, d.precision}, logits, W, dh + m * d.C);
    matmul_tn({d.V, d.C, rows, d.precision}, logits, h + m * d.C, dW, accumulate_dW || m > 0);
  }
}

}  // namespace gladius::reference
