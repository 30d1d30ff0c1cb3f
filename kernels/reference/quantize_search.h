// The searches for a group's scale that quantisers share: each tries a fixed grid of scales and keeps the one
// with the least weighted squared error. They follow ggml's make_qx_quants, make_qkx2/3_quants and
// make_qp_quants in value and in order of operations.
#pragma once

#include <cstdint>

namespace gladius::reference {

// Nearest integer, ties to even, for |x| <= 4194303: the addition rounds, the low mantissa bits are the
// integer.
int nearest_int(float x);

// Fits x[i] ≈ scale * (codes[i] - limit), codes in 0 .. 2 limit - 1. w[n]: weights, null: w = x². Returns the
// scale; for a group that is all zero (below 1e-15) the scale and the codes are 0.
float fit_symmetric(int n, int limit, const float* x, const float* w, uint8_t* codes);

// Fits x[i] ≈ scale * codes[i] - min, codes in 0 .. limit, min >= 0.
struct AffineFit {
  float scale, min;
};
// The grid of inverse scales is (first + step * k + limit) / (max - min) for k = 0 .. last.
struct AffineGrid {
  float first, step;
  int last;
};
AffineFit fit_affine(int n, int limit, const float* x, const float* w, AffineGrid grid, uint8_t* codes);

// Fits x[i] ≈ scale * codes[i] for x >= 0, codes in 0 .. limit, refining codes one by one. Returns the scale.
float fit_positive(int n, int limit, const float* x, const float* w, uint8_t* codes);

}  // namespace gladius::reference
