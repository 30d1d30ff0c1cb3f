// What an operation costs at least, by the formulas in kernels/backend.h: what its speed is compared with.
//
// Floating-point operations count each multiplication, addition, division, root and exponential as one
// (attention its visible half). Bytes count each operand once: an array that is updated is read and written.
#pragma once

#include "kernels/backend.h"
#include "kernels/reference/cached_attention.h"

namespace gladius::bench {

struct Cost {
  double flops = 0, bytes = 0;
  Cost& operator+=(const Cost& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
};

namespace cost {

inline double product(int64_t a, int64_t b, int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

// An operation on n numbers of `arrays` float arrays.
inline Cost per_element(double n, double flops, double arrays) { return {flops * n, 4 * arrays * n}; }

inline Cost matmul_weight(MatmulDims d, DType dtype) {
  return {2 * product(d.M, d.N, d.K),
          4 * (product(d.M, d.K) + product(d.M, d.N)) +
              static_cast<double>(d.N) * static_cast<double>(row_bytes(dtype, d.K))};
}
inline Cost matmul(MatmulDims d) { return matmul_weight(d, DType::F32); }

inline Cost embedding(LossDims d, DType dtype) {
  return {0, static_cast<double>(d.M) * static_cast<double>(row_bytes(dtype, d.C) + 4 * d.C)};
}
inline Cost embedding_backward(LossDims d, bool accumulate) {
  return {product(d.M, d.C), 4 * (product(d.M, d.C, 3) + (accumulate ? 0 : product(d.V, d.C)))};
}

inline Cost rms_norm(int64_t M, int64_t C) { return per_element(product(M, C), 4, 2); }
inline Cost rms_norm_backward(int64_t M, int64_t C, bool accumulate) {
  return per_element(product(M, C), 9, accumulate ? 4 : 3);
}
inline Cost rope(RopeDims d) { return per_element(product(d.M, d.heads, d.D), 3, 2); }

// Of one product of queries with the keys that they see.
inline double visible_flops(const AttentionDims& d) {
  const int64_t keys = d.Tq * (d.Tk - d.Tq) + d.Tq * (d.Tq + 1) / 2;
  return 2 * product(d.B * d.H, keys, d.D);
}
inline double query_numbers(const AttentionDims& d) { return product(d.B * d.H, d.Tq, d.D); }
inline double key_numbers(const AttentionDims& d) { return product(d.B * d.G, d.Tk, d.D); }
inline double statistics(const AttentionDims& d) { return product(d.B, d.H, d.Tq); }

inline Cost attention(const AttentionDims& d) {
  return {2 * visible_flops(d), 4 * (2 * query_numbers(d) + 2 * key_numbers(d) + statistics(d))};
}
inline Cost attention_backward(const AttentionDims& d) {  // q, o, dO, dq; k, v, dk, dv; lse
  return {5 * visible_flops(d), 4 * (4 * query_numbers(d) + 4 * key_numbers(d) + statistics(d))};
}

inline Cost append_to_cache(const CachedAttentionDims& d, const SequenceRows& s, DType dtype) {
  const double appended = 2 * product(s.rows, d.G);
  return {0, appended * (4 * static_cast<double>(d.D) + static_cast<double>(row_bytes(dtype, d.D)))};
}
inline Cost cached_attention(const CachedAttentionDims& d, const SequenceRows& s, DType dtype) {
  const AttentionDims dims = reference::sequence_dims(d, s, d.D);
  const double cached = 2 * product(s.length, d.G) * static_cast<double>(row_bytes(dtype, d.D));
  return {2 * visible_flops(dims), 4 * 2 * query_numbers(dims) + cached};
}

inline Cost swiglu(int64_t n) { return per_element(static_cast<double>(n), 4, 3); }
inline Cost swiglu_backward(int64_t n) { return per_element(static_cast<double>(n), 11, 5); }

inline Cost softmax(int64_t M, int64_t N) { return per_element(product(M, N), 4, 2); }
inline Cost softmax_backward(int64_t M, int64_t N) { return per_element(product(M, N), 4, 3); }

// Logits are not operands: they exist only on the way.
inline Cost linear_cross_entropy(LossDims d, bool gradients) {
  const double operands = product(d.M, d.C) + product(d.V, d.C);
  return {(gradients ? 6 : 2) * product(d.M, d.C, d.V), 4 * (gradients ? 2 : 1) * operands};
}

inline Cost adamw(int64_t n) { return per_element(static_cast<double>(n), 17, 7); }
inline Cost sum_of_squares(int64_t n) { return per_element(static_cast<double>(n), 2, 1); }
inline Cost add(int64_t n) { return per_element(static_cast<double>(n), 1, 3); }
inline Cost copy(int64_t n) { return per_element(static_cast<double>(n), 0, 2); }
inline Cost fill(int64_t n) { return per_element(static_cast<double>(n), 0, 1); }

// Either way between floats and dtype. The searches of quantisers are not arithmetic that must be done.
inline Cost convert(DType dtype, int64_t rows, int64_t cols) {
  return {0, static_cast<double>(rows) * static_cast<double>(row_bytes(dtype, cols) + 4 * cols)};
}

}  // namespace cost
}  // namespace gladius::bench
