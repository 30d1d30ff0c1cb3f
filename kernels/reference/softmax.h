// Softmax over rows, shifted by the row's maximum so that nothing overflows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace gladius::reference {

// ln sum_n exp x[n]
template <class T>
double log_sum_exp(int64_t N, const T* x) {
  double largest = -INFINITY, sum = 0;
  for (int64_t n = 0; n < N; ++n) largest = std::max(largest, double(x[n]));
  for (int64_t n = 0; n < N; ++n) sum += std::exp(double(x[n]) - largest);
  return largest + std::log(sum);
}

// y[m,n] = exp(x[m,n]) / sum_k exp(x[m,k]); y may be x.
template <class T>
void softmax(int64_t M, int64_t N, const T* x, T* y) {
  for (int64_t m = 0; m < M; ++m, x += N, y += N) {
    const double lse = log_sum_exp(N, x);
    for (int64_t n = 0; n < N; ++n) y[n] = T(std::exp(double(x[n]) - lse));
  }
}

// dx[m,n] = y[m,n] * (dy[m,n] - sum_k dy[m,k] y[m,k]); dx may be dy.
template <class T>
void softmax_backward(int64_t M, int64_t N, const T* y, const T* dy, T* dx) {
  for (int64_t m = 0; m < M; ++m, y += N, dy += N, dx += N) {
    double sum = 0;
    for (int64_t n = 0; n < N; ++n) sum += double(dy[n]) * double(y[n]);
    for (int64_t n = 0; n < N; ++n) dx[n] = T(double(y[n]) * (double(dy[n]) - sum));
  }
}

}  // namespace gladius::reference
