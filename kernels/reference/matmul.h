// Matrix products as their definition. T is float or double; every sum is in double.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/half.h"

namespace gladius::reference {

// A matrix or its transpose: element (i, k) is data[i * row + k * step].
template <class T>
struct Strided {
  const T* data;
  int64_t row, step;
  Precision precision = Precision::fp32;
  double at(int64_t i, int64_t k) const {
    const T x = data[i * row + k * step];
    return precision == Precision::bf16 ? double(bf16_to_f32(f32_to_bf16(float(x)))) : double(x);
  }
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
void matmul_nt(MatmulDims d, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(d.M, d.N, d.K, Strided<T>{A, d.K, 1, d.precision}, Strided<T>{B, d.K, 1, d.precision}, C, accumulate,
         residual);
}

// C[M,N] = A[M,K] · B[K,N]
template <class T>
void matmul_nn(MatmulDims d, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(d.M, d.N, d.K, Strided<T>{A, d.K, 1, d.precision}, Strided<T>{B, 1, d.N, d.precision}, C, accumulate,
         residual);
}

// C[M,N] = A[K,M]ᵀ · B[K,N]
template <class T>
void matmul_tn(MatmulDims d, const T* A, const T* B, T* C, bool accumulate = false,
               const T* residual = nullptr) {
  matmul(d.M, d.N, d.K, Strided<T>{A, 1, d.M, d.precision}, Strided<T>{B, 1, d.N, d.precision}, C, accumulate,
         residual);
}

}  // namespace gladius::reference
