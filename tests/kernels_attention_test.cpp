// Attention forward and backward against the definition in double.
#include <array>

#include "kernels/cpu/cpu_blocking.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/cached_attention.h"
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

// ---- attention over a cache in blocks ----

struct CachedSequence {
  int64_t rows, length;
};

// Sequences in one cache, whose blocks lie in an order of their own, with what earlier calls have put there.
struct CacheCase {
  CachedAttentionDims d;
  DType dtype;
  std::vector<CachedSequence> sequences;

  int64_t rows() const {
    int64_t n = 0;
    for (const CachedSequence& s : sequences) n += s.rows;
    return n;
  }
  // Random block tables without a block twice.
  std::vector<std::vector<int32_t>> tables(Random& random, int64_t& blocks) const {
    std::vector<std::vector<int32_t>> tables;
    blocks = 0;
    for (const CachedSequence& s : sequences) {
      tables.emplace_back();
      for (int64_t p = 0; p < s.length; p += kv_block_tokens)
        tables.back().push_back(static_cast<int32_t>(blocks++));
    }
    for (std::vector<int32_t>& a : tables)
      for (int32_t& x : a) {
        std::vector<int32_t>& b =
            tables[static_cast<size_t>(random.below(static_cast<int64_t>(tables.size())))];
        std::swap(x, b[static_cast<size_t>(random.below(static_cast<int64_t>(b.size())))]);
      }
    return tables;
  }
};

std::vector<SequenceRows> rows_of(const CacheCase& c, const std::vector<std::vector<int32_t>>& tables) {
  std::vector<SequenceRows> rows;
  int64_t first = 0;
  for (size_t i = 0; i < c.sequences.size(); ++i) {
    rows.push_back({first, c.sequences[i].rows, c.sequences[i].length, tables[i].data()});
    first += c.sequences[i].rows;
  }
  return rows;
}

// What the backend makes of the new rows, against the definition over what is then in the cache; and that the
// cache holds the new rows as its type rounds them, and the earlier ones as before.
void check_cached(Backend& backend, const CacheCase& c, Random& random, float range = 1.0f) {
  CAPTURE(dtype_info(c.dtype).name);
  CAPTURE(c.d.D);
  CAPTURE(c.sequences.size());
  const auto [H, G, D, scale] = c.d;
  int64_t blocks = 0;
  const std::vector<std::vector<int32_t>> tables = c.tables(random, blocks);
  const std::vector<SequenceRows> sequences = rows_of(c, tables);
  const auto bytes = static_cast<size_t>(blocks * G * kv_block_tokens * row_bytes(c.dtype, D));
  std::vector<std::byte> keys(bytes + 64), values(bytes + 64);
  const Array q(random, c.rows() * H * D, 1, -range, range);
  const Array k(random, c.rows() * G * D, 1, -range, range), v(random, c.rows() * G * D, 1);
  for (const SequenceRows& s : sequences) {  // the earlier tokens
    const int64_t before = s.length - s.rows;
    const Array old_k(random, before * G * D, 0, -range, range), old_v(random, before * G * D);
    reference::append_to_cache(c.d, {0, before, before, s.blocks}, c.dtype, old_k, keys.data());
    reference::append_to_cache(c.d, {0, before, before, s.blocks}, c.dtype, old_v, values.data());
  }
  std::vector<std::byte> expected_keys = keys, expected_values = values;
  for (const SequenceRows& s : sequences) {
    reference::append_to_cache(c.d, s, c.dtype, k, expected_keys.data());
    reference::append_to_cache(c.d, s, c.dtype, v, expected_values.data());
  }

  Array o(c.rows() * H * D, 2, 7.0f);
  const KvCacheView cache{c.dtype, keys.data(), values.data()};
  backend.append_to_cache(c.d, sequences, k, v, cache);
  backend.cached_attention(c.d, sequences, q, cache, o);
  CHECK(keys == expected_keys);
  CHECK(values == expected_values);
  for (const SequenceRows& s : sequences) {
    CAPTURE(s.rows);
    CAPTURE(s.length);
    const std::vector<float> all_k = reference::read_cache(c.d, s, c.dtype, keys.data());
    const std::vector<float> all_v = reference::read_cache(c.d, s, c.dtype, values.data());
    Array rows(s.rows * H * D), K(s.length * G * D), V(s.length * G * D), got(s.rows * H * D);
    std::copy_n(q.data() + s.first_row * H * D, rows.size(), rows.data());
    std::copy_n(o.data() + s.first_row * H * D, got.size(), got.data());
    std::copy(all_k.begin(), all_k.end(), K.data());
    std::copy(all_v.begin(), all_v.end(), V.data());
    const AttentionDims d{1, s.rows, s.length, H, G, D, H * D, G * D, s.length * G * D, scale};
    check_close(got, attention_oracle(d, rows, K, V, got).o);
  }
  CHECK(o.guards_intact());
}

// How far a cache's rounding of x[D] may move an element, for unit roundoffs of the types: half a unit in the
// last place of F16 (or half its smallest number) and BF16; of Q8_0 half a step, a 127th of the block's
// largest magnitude, and what rounding the step to F16 makes of 127 of them.
std::vector<double> rounding_error(DType dtype, int64_t D, const float* x) {
  std::vector<double> error(static_cast<size_t>(D));
  for (int64_t c = 0; c < D; ++c) {
    double largest = 0;  // of the block
    for (int64_t i = c / 32 * 32; i < std::min(D, c / 32 * 32 + 32); ++i)
      largest = std::max(largest, std::fabs(double(x[i])));
    const double size = std::fabs(double(x[c]));
    error[static_cast<size_t>(c)] = dtype == DType::F16    ? size * 0x1p-11 + 0x1p-25
                                    : dtype == DType::BF16 ? size * 0x1p-9
                                    : dtype == DType::Q8_0 ? largest * (0.5 / 127 + 0x1p-11) + 127 * 0x1p-25
                                                           : 0;
  }
  return error;
}

// Attention of the last of T tokens, over keys and values as they were before the cache rounded them.
void check_rounding(Backend& backend, DType dtype, int64_t T, Random& random) {
  CAPTURE(dtype_info(dtype).name);
  const CachedAttentionDims d{2, 1, 64, 0.125f};
  const Array q(random, T * 128), k(random, T * 64), v(random, T * 64);
  const std::vector<std::byte> room(static_cast<size_t>((T / kv_block_tokens + 1) * kv_block_tokens * 256));
  std::vector<std::byte> keys = room, values = room;
  const std::array<int32_t, 2> blocks = {0, 1};
  const SequenceRows rows{0, T, T, blocks.data()};
  Array o(T * 128);
  const KvCacheView cache{dtype, keys.data(), values.data()};
  backend.append_to_cache(d, {&rows, 1}, k, v, cache);
  backend.cached_attention(d, {&rows, 1}, q, cache, o);

  const AttentionDims dims{1, T, T, 2, 1, 64, 128, 64, T * 64, d.scale};
  AttentionOracle oracle = attention_oracle(dims, q, k, v, o);
  double moved = 0;  // the largest error of a score
  for (int64_t j = 0; j < T; ++j) {
    const std::vector<double> error = rounding_error(dtype, 64, k + j * 64);
    for (int64_t i = 0; i < 2 * T; ++i) {
      double sum = 0;
      for (int64_t c = 0; c < 64; ++c) sum += std::fabs(double(q[i * 64 + c])) * error[size_t(c)];
      moved = std::max(moved, sum * double(d.scale));
    }
  }
  double largest = 0, value_error = 0;
  for (int64_t j = 0; j < T; ++j) {
    const std::vector<double> error = rounding_error(dtype, 64, v + j * 64);
    for (int64_t c = 0; c < 64; ++c) {
      largest = std::max(largest, std::fabs(double(v[j * 64 + c])));
      value_error = std::max(value_error, error[size_t(c)]);
    }
  }
  // Each weight is off by a factor of at most exp(2 moved), and they still sum to 1.
  const double bound = std::expm1(2 * moved) * largest + value_error;
  CHECK(bound < 0.1);
  for (double& b : oracle.o.bound) b += bound;
  check_close(o, oracle.o);
}

TEST_CASE("what a cache's type rounds away stays within the type's bound") {
  for_each_isa([](Backend& backend) {
    Random random(8);
    for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::Q8_0})
      check_rounding(backend, dtype, small_tests() ? 20 : 150, random);
  });
}

constexpr std::array kCacheTypes = {DType::F32, DType::F16, DType::BF16, DType::Q8_0};

TEST_CASE("attention over a cache: every type, lengths around a block, several sequences in any blocks") {
  for_each_isa([](Backend& backend) {
    Random random(6);
    for (const DType dtype : kCacheTypes) {
      check_cached(backend, {{4, 2, 32, 0.2f}, dtype, {{1, 1}}}, random);
      check_cached(backend, {{4, 2, 64, 0.2f}, dtype, {{1, 144}, {1, 145}, {3, 3}, {2, 290}, {40, 143}}},
                   random);
      check_cached(backend, {{6, 2, 32, 0.2f}, dtype, {{50, 170}, {1, 20}, {7, 150}}}, random);
      check_cached(backend, {{3, 3, 96, 0.1f}, dtype, {{5, 146}, {70, 70}}}, random);
      check_cached(backend, {{2, 1, 288, 0.1f}, dtype, {{2, 3}}},
                   random);  // wider than the tiled kernels take
    }
    for (const int64_t D : {2, 20, 30, 70})  // no whole vectors
      for (const DType dtype : {DType::F32, DType::F16, DType::BF16})
        check_cached(backend, {{4, 2, D, 0.3f}, dtype, {{1, 150}, {20, 30}, {2, 2}}}, random);
    check_cached(backend, {{2, 1, 32, 1.0f}, DType::F16, {{1, 150}, {30, 40}}}, random, 20.0f);
  });
}

TEST_CASE("attention of a few rows over many keys is added up from pieces") {
  for_each_isa([](Backend& backend) {
    Random random(7);
    constexpr int64_t piece = cpu::attention_piece_keys;
    for (const int64_t length : {piece - 1, piece, piece + 1, 2 * piece + 5}) {
      if (small_tests() && length != piece + 1) continue;
      // Of the last rows some may see no key of the last piece.
      check_cached(backend, {{2, 1, 32, 0.2f}, DType::F16, {{1, length}, {3, length}, {1, 5}}}, random);
    }
    // More pieces than there is room for at a time, and than one sequence may have.
    check_cached(
        backend,
        {{64, 64, 2, 0.5f}, DType::F32, {{1, piece + 1}, {1, 2 * piece + 1}, {1, 7}, {1, piece + 2}}},
        random);
    const int64_t many = small_tests() ? 10 : 70;  // sequences
    check_cached(backend, {{2, 1, 8, 0.5f}, DType::F32, std::vector<CachedSequence>(size_t(many), {1, 9})},
                 random);
  });
}

}  // namespace
