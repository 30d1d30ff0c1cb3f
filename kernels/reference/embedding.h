// Looking up rows of a table, and the gradient of the table.
#pragma once

#include <cstdint>

namespace gladius::reference {

// y[m,:] = W[tokens[m],:]
template <class T>
void embedding(int64_t M, int64_t C, const int32_t* tokens, const T* W, T* y) {
  for (int64_t m = 0; m < M; ++m)
    for (int64_t c = 0; c < C; ++c) y[m * C + c] = W[tokens[m] * C + c];
}

// dW[v,c] = sum over m with tokens[m] = v of dy[m,c]
template <class T>
void embedding_backward(int64_t M, int64_t C, int64_t V, const int32_t* tokens, const T* dy, T* dW,
                        bool accumulate) {
  for (int64_t v = 0; v < V; ++v) {
    for (int64_t c = 0; c < C; ++c) {
      double sum = accumulate ? double(dW[v * C + c]) : 0.0;
      for (int64_t m = 0; m < M; ++m)
        if (tokens[m] == v) sum += double(dy[m * C + c]);
      dW[v * C + c] = T(sum);
    }
  }
}

}  // namespace gladius::reference
