// SwiGLU (Shazeer 2020, arXiv:2002.05202): y = silu(g) * u, silu(g) = g / (1 + exp(-g)).
#pragma once

#include <cmath>
#include <cstdint>

namespace gladius::reference {

template <class T>
void swiglu(int64_t n, const T* g, const T* u, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = T(double(g[i]) / (1.0 + std::exp(-double(g[i]))) * double(u[i]));
}

// dg = dy * u * sigma(g) * (1 + g * (1 - sigma(g))), du = dy * silu(g). dg may be g and du may be u.
template <class T>
void swiglu_backward(int64_t n, const T* g, const T* u, const T* dy, T* dg, T* du) {
  for (int64_t i = 0; i < n; ++i) {
    const double gate = double(g[i]), up = double(u[i]), d = double(dy[i]);
    const double sigma = 1.0 / (1.0 + std::exp(-gate));
    dg[i] = T(d * up * sigma * (1.0 + gate * (1.0 - sigma)));
    du[i] = T(d * gate * sigma);
  }
}

}  // namespace gladius::reference
