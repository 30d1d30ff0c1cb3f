// Attention forward and backward against the definition in double.
#include "kernels/reference/attention.h"
#include "tests/kernels_oracle.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

struct Shape {
  int64_t B, Tq, Tk, H, G, D, gap;  // gap: floats between rows, and between sequences
};

AttentionDims dims_of(const Shape& s) {
  const int64_t kv_stride = s.G * s.D + s.gap;
  return {s.B,
          s.Tq,
          s.Tk,
          s.H,
          s.G,
          s.D,
          s.H * s.D + s.gap,
          kv_stride,
          s.Tk * kv_stride + s.gap,
          1.0f / std::sqrt(static_cast<float>(s.D))};
}

void check_forward(Backend& backend, const Shape& s, Random& random, float range = 1.0f) {
  const AttentionDims d = dims_of(s);
  CAPTURE(s.B);
  CAPTURE(s.Tq);
  CAPTURE(s.Tk);
  CAPTURE(s.H);
  CAPTURE(s.G);
  CAPTURE(s.D);
  const int64_t misalign = random.below(4), queries = d.B * d.Tq * d.q_stride, keys = d.B * d.kv_batch_stride;
  const Array q(random, queries, misalign, -range, range), k(random, keys, misalign, -range, range);
  const Array v(random, keys, misalign);
  Array o(queries, misalign, 7.0f), lse(d.B * d.H * d.Tq, misalign), without_lse(queries, misalign, 7.0f);
  const AttentionOracle oracle = attention_oracle(d, q, k, v, o);
  backend.attention(d, q, k, v, o, lse);
  check_close(o, oracle.o);
  check_close(lse, oracle.lse);
  backend.attention(d, q, k, v, without_lse, nullptr);
  CHECK(without_lse.same_bits(o));
}

void check_backward(Backend& backend, const Shape& s, Random& random) {
  const AttentionDims d = dims_of(s);
  CAPTURE(s.B);
  CAPTURE(s.Tq);
  CAPTURE(s.H);
  CAPTURE(s.G);
  CAPTURE(s.D);
  const int64_t misalign = random.below(4), queries = d.B * d.Tq * d.q_stride, keys = d.B * d.kv_batch_stride;
  const Array q(random, queries, misalign), dO(random, queries, misalign);
  const Array k(random, keys, misalign), v(random, keys, misalign);
  Array o(queries, misalign), lse(d.B * d.H * d.Tq, misalign);
  Array dq(queries, misalign, 7.0f), dk(keys, misalign, 7.0f), dv(keys, misalign, 7.0f);
  backend.attention(d, q, k, v, o, lse);
  const AttentionBackwardOracle expected = attention_backward_oracle(d, q, k, v, o, lse, dO, 7.0);
  backend.attention_backward(d, {q, k, v, o, lse}, dO, {dq, dk, dv});
  check_close(dq, expected.dq);
  check_close(dk, expected.dk);
  check_close(dv, expected.dv);
}

TEST_CASE("attention: lengths around a tile, head groups, widths that are no whole vectors") {
  for_each_isa([](Backend& backend) {
    Random random(1);
    for (const int64_t T : {1, 2, 3, 7, 8, 9, 31, 33, 47, 48, 49, 65, 100, 143, 144, 145, 160, 300}) {
      if (small_tests() && T > 70 && T != 160) continue;
      check_forward(backend, {1, T, T, 2, 1, 16, 0}, random);
      check_forward(backend, {2, T, T, 3, 3, 20, 5}, random);
    }
    for (int64_t D = 2; D <= 40; D += 2) check_forward(backend, {1, 12, 12, 2, 2, D, 1}, random);
    check_forward(backend, {1, 11, 11, 12, 4, 64, 0}, random);
    check_forward(backend, {1, 30, 30, 9, 3, 8, 3}, random);
    check_forward(backend, {1, 5, 5, 71, 1, 4, 0}, random);
    check_forward(backend, {1, 3, 3, 2, 1, 256, 0}, random);
    check_forward(backend, {1, 3, 3, 2, 1, 300, 0}, random);  // wider than the tiled kernels take
  });
}

TEST_CASE("attention: queries at the end of longer keys, as in decoding and prefilling in parts") {
  for_each_isa([](Backend& backend) {
    Random random(2);
    for (const int64_t Tk : {1, 2, 63, 64, 65, 129, 200})
      check_forward(backend, {2, 1, Tk, 6, 2, 20, 4}, random);
    for (const int64_t Tq : {2, 5, 17, 40}) check_forward(backend, {1, Tq, Tq + 70, 4, 2, 16, 0}, random);
    check_forward(backend, {1, 40, 300, 4, 2, 16, 0}, random);
  });
}

TEST_CASE("attention: scores of hundreds do not overflow") {
  for_each_isa([](Backend& backend) {
    Random random(3);
    check_forward(backend, {1, 70, 70, 2, 1, 16, 0}, random, 20.0f);
    check_forward(backend, {1, 1, 70, 2, 1, 16, 0}, random, 20.0f);
  });
}

TEST_CASE("attention over one key returns its value") {
  for_each_isa([](Backend& backend) {
    Random random(4);
    const AttentionDims d = dims_of({3, 1, 1, 4, 2, 10, 0});
    const Array q(random, 3 * 40), k(random, 3 * 20), v(random, 3 * 20);
    Array o(3 * 40);
    backend.attention(d, q, k, v, o, nullptr);
    for (int64_t b = 0; b < 3; ++b)
      for (int64_t h = 0; h < 4; ++h)
        for (int64_t c = 0; c < 10; ++c) CHECK(o[b * 40 + h * 10 + c] == v[b * 20 + h / 2 * 10 + c]);
  });
}

TEST_CASE("attention backward: lengths around a tile, head groups, widths that are no whole vectors") {
  for_each_isa([](Backend& backend) {
    Random random(5);
    for (const int64_t T : {1, 2, 3, 8, 31, 32, 33, 47, 48, 49, 65, 100, 143, 144, 145, 160, 300}) {
      if (small_tests() && T > 70 && T != 160) continue;
      check_backward(backend, {1, T, T, 3, 1, 16, 0}, random);
      check_backward(backend, {2, T, T, 2, 2, 20, 5}, random);
    }
    for (int64_t D = 2; D <= 40; D += 2) check_backward(backend, {1, 12, 12, 2, 2, D, 1}, random);
    check_backward(backend, {1, 11, 11, 12, 4, 64, 0}, random);
    check_backward(backend, {1, 5, 5, 71, 1, 4, 0}, random);
    check_backward(backend, {1, 3, 3, 2, 1, 256, 0}, random);
    check_backward(backend, {1, 3, 3, 2, 1, 300, 0}, random);
  });
}

}  // namespace
