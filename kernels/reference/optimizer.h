// AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) and the square of a gradient's norm.
#pragma once

#include <cmath>

#include "kernels/backend.h"

namespace gladius::reference {

template <class T>
void adamw(int64_t n, const AdamWStep& s, const T* grad, T* p, T* m, T* v) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = double(s.grad_scale) * double(grad[i]);
    const double mean = double(s.beta1) * double(m[i]) + (1.0 - double(s.beta1)) * g;
    const double square = double(s.beta2) * double(v[i]) + (1.0 - double(s.beta2)) * g * g;
    const double step =
        mean / double(s.correction1) / (std::sqrt(square / double(s.correction2)) + double(s.eps));
    p[i] = T(double(p[i]) - double(s.lr) * double(s.weight_decay) * double(p[i]) - double(s.lr) * step);
    m[i] = T(mean);
    v[i] = T(square);
  }
}

template <class T>
double sum_of_squares(int64_t n, const T* x) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]) * double(x[i]);
  return sum;
}

}  // namespace gladius::reference
