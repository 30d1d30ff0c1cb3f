// Causal grouped-query attention, one query at a time. Equations in kernels/backend.h.
#pragma once

#include <cmath>
#include <vector>

#include "kernels/backend.h"

namespace gladius::reference {

// Where query row (b, i, h) and key or value row (b, j, g) start, and where a query's lse is.
inline int64_t query_offset(const AttentionDims& d, int64_t b, int64_t i, int64_t h) {
  return (b * d.Tq + i) * d.q_stride + h * d.D;
}
inline int64_t key_offset(const AttentionDims& d, int64_t b, int64_t j, int64_t g) {
  return b * d.kv_batch_stride + j * d.kv_stride + g * d.D;
}
inline int64_t lse_offset(const AttentionDims& d, int64_t b, int64_t i, int64_t h) {
  return (b * d.H + h) * d.Tq + i;
}

template <class T>
double dot(int64_t n, const T* a, const T* b) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

// One query: row i of head h in sequence b.
struct Query {
  int64_t b, i, h;
};

// What the backward pass reads of the forward pass.
template <class T>
struct AttentionState {
  const T *q, *k, *v, *o, *lse;
};

// o[i] = sum_j softmax_j(s[i,:]) v[j], lse[i] = ln sum_j exp s[i,j], with s[i,j] = scale * q[i]·k[j] for
// visible j.
template <class T>
void attention_query(const AttentionDims& d, Query at, const T* q, const T* k, const T* v, T* o, T* lse) {
  const auto [b, i, h] = at;
  const int64_t visible = d.Tk - d.Tq + i + 1, g = h / (d.H / d.G), row = query_offset(d, b, i, h);
  std::vector<double> p(static_cast<size_t>(visible));
  double largest = -INFINITY, sum = 0;
  for (int64_t j = 0; j < visible; ++j) {
    p[j] = double(d.scale) * dot(d.D, q + row, k + key_offset(d, b, j, g));
    largest = std::fmax(largest, p[j]);
  }
  for (int64_t j = 0; j < visible; ++j) sum += p[j] = std::exp(p[j] - largest);
  for (int64_t c = 0; c < d.D; ++c) {
    double value = 0;
    for (int64_t j = 0; j < visible; ++j) value += p[j] / sum * double(v[key_offset(d, b, j, g) + c]);
    o[row + c] = T(value);
  }
  if (lse) lse[lse_offset(d, b, i, h)] = T(largest + std::log(sum));
}

template <class T>
void attention(const AttentionDims& d, const T* q, const T* k, const T* v, T* o, T* lse) {
  for (int64_t b = 0; b < d.B; ++b)
    for (int64_t i = 0; i < d.Tq; ++i)
      for (int64_t h = 0; h < d.H; ++h) attention_query(d, {b, i, h}, q, k, v, o, lse);
}

// Adds what a query contributes to the gradients of its keys and values, and writes its own; dk and dv hold
// one sequence's group, [Tk, D] in double.
template <class T>
void attention_query_backward(const AttentionDims& d, Query at, const AttentionState<T>& f, const T* dO,
                              T* dq, double* dk, double* dv) {
  const auto [b, i, h] = at;
  const int64_t visible = d.Tk - d.Tq + i + 1, g = h / (d.H / d.G), row = query_offset(d, b, i, h);
  const double delta = dot(d.D, dO + row, f.o + row);
  std::vector<double> dq_row(static_cast<size_t>(d.D));
  for (int64_t j = 0; j < visible; ++j) {
    const int64_t key = key_offset(d, b, j, g);
    const double s = double(d.scale) * dot(d.D, f.q + row, f.k + key);
    const double p = std::exp(s - double(f.lse[lse_offset(d, b, i, h)]));
    const double ds = p * (dot(d.D, dO + row, f.v + key) - delta);
    for (int64_t c = 0; c < d.D; ++c) {
      dv[j * d.D + c] += p * double(dO[row + c]);
      dk[j * d.D + c] += double(d.scale) * ds * double(f.q[row + c]);
      dq_row[c] += double(d.scale) * ds * double(f.k[key + c]);
    }
  }
  for (int64_t c = 0; c < d.D; ++c) dq[row + c] = T(dq_row[c]);
}

template <class T>
void attention_backward(const AttentionDims& d, const AttentionState<T>& f, const T* dO, T* dq, T* dk,
                        T* dv) {
  const int64_t heads = d.H / d.G;
  for (int64_t b = 0; b < d.B; ++b) {
    for (int64_t g = 0; g < d.G; ++g) {
      std::vector<double> dk_sum(static_cast<size_t>(d.Tk * d.D)), dv_sum(dk_sum.size());
      for (int64_t h = g * heads; h < (g + 1) * heads; ++h)
        for (int64_t i = 0; i < d.Tq; ++i)
          attention_query_backward(d, {b, i, h}, f, dO, dq, dk_sum.data(), dv_sum.data());
      for (int64_t j = 0; j < d.Tk; ++j) {
        for (int64_t c = 0; c < d.D; ++c) {
          dk[key_offset(d, b, j, g) + c] = T(dk_sum[j * d.D + c]);
          dv[key_offset(d, b, j, g) + c] = T(dv_sum[j * d.D + c]);
        }
      }
    }
  }
}

}  // namespace gladius::reference
