// Matrix products as their definition. T is float or double; every sum is in double.
#pragma once

#include <cstdint>

namespace gladius::reference {

// C[M,N] = sum_k A(m, k) * B(n, k) (+ C) (+ residual), where A(m, k) = A[m * a_row + k * a_step] and B alike.
template <class T>
void matmul(int64_t M, int64_t N, int64_t K, const T* A, int64_t a_row, int64_t a_step, const T* B,
            int64_t b_row, int64_t b_step, T* C, bool accumulate, const T* residual) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k)
        sum += double(A[m * a_row + k * a_step]) * double(B[n * b_row + k * b_step]);
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
  matmul(M, N, K, A, K, 1, B, K, 1, C, accumulate, residual);
}

// C[M,N] = A[M,K] · B[K,N]
template <class T>
void matmul_nn(int64_t M, int64_t N, int64_t K, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(M, N, K, A, K, 1, B, 1, N, C, accumulate, residual);
}

// C[M,N] = A[K,M]ᵀ · B[K,N]
template <class T>
void matmul_tn(int64_t M, int64_t N, int64_t K, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(M, N, K, A, 1, M, B, 1, N, C, accumulate, residual);
}

}  // namespace gladius::reference
