// Matrix products as their definition. T is float or double; every sum is in double.
#pragma once

#include <cstdint>

namespace gladius::reference {

// A matrix or its transpose: element (i, k) is data[i * row + k * step].
template <class T>
struct Strided {
  const T* data;
  int64_t row, step;
  double at(int64_t i, int64_t k) const { return double(data[i * row + k * step]); }
};

// C[M,N] = sum_k A(m, k) * B(n, k) (+ C) (+ residual).
template <class T>
void matmul(int64_t M, int64_t N, int64_t K, Strided<T> A, Strided<T> B, T* C, bool accumulate,
            const T* residual) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += A.at(m, k) * B.at(n, k);
      if (accumulate) sum += double(C[m * N + n]);
      if (residual) sum += double(residual[m * N + n]);
      C[m * N + n] = T(sum);
    }
  }
}

// C[M,N] = A[M,K] · B[N,K]ᵀ
template <class T>
void matmul_nt(int64_t M, int64_t N, int64_t K, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(M, N, K, {A, K, 1}, {B, K, 1}, C, accumulate, residual);
}

// C[M,N] = A[M,K] · B[K,N]
template <class T>
void matmul_nn(int64_t M, int64_t N, int64_t K, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(M, N, K, {A, K, 1}, {B, 1, N}, C, accumulate, residual);
}

// C[M,N] = A[K,M]ᵀ · B[K,N]
template <class T>
void matmul_tn(int64_t M, int64_t N, int64_t K, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(M, N, K, {A, 1, M}, {B, 1, N}, C, accumulate, residual);
}

}  // namespace gladius::reference
