// Attention: whole sequences as in training, forward and backward, and one new token against a cache.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/bench_support.h"
#include "tests/kernels_oracle.h"

namespace gladius::bench {
namespace {

using test::Array;

// ---- table ----

struct Shape {
  const char* label;
  int64_t B, Tq, Tk, H, G, D;
};
constexpr Shape training[] = {{"4x256", 4, 256, 256, 12, 4, 64},        {"1x1024", 1, 1024, 1024, 12, 4, 64},
                              {"4x1024", 4, 1024, 1024, 12, 4, 64},     {"1x2048", 1, 2048, 2048, 12, 4, 64},
                              {"tiny_4x256", 4, 256, 256, 4, 2, 64},    {"odd_2x77", 2, 77, 77, 6, 2, 40},
                              {"odd_1x131_wide", 1, 131, 131, 3, 1, 18}};
constexpr Shape generation[] = {{"1_after_255", 1, 1, 256, 12, 4, 64},
                                {"1_after_2047", 1, 1, 2048, 12, 4, 64},
                                {"odd_3_after_74", 2, 3, 77, 6, 2, 40}};

AttentionDims dims_of(const Shape& s) {
  return {.B = s.B,
          .Tq = s.Tq,
          .Tk = s.Tk,
          .H = s.H,
          .G = s.G,
          .D = s.D,
          .q_stride = s.H * s.D,
          .kv_stride = s.G * s.D,
          .kv_batch_stride = s.Tk * s.G * s.D,
          .scale = 1.0f / std::sqrt(static_cast<float>(s.D))};
}

// ---- parts of a problem that the oracle computes ----

// Rows of n floats that start at the given places, one after the other.
Array gather(const Floats& x, const std::vector<int64_t>& starts, int64_t n) {
  Array y(n * static_cast<int64_t>(starts.size()));
  for (size_t i = 0; i < starts.size(); ++i)
    std::copy_n(x.data() + starts[i], n, y.data() + static_cast<int64_t>(i) * n);
  return y;
}

struct QueryIndex {
  int64_t b, i, h;
  QueryIndex(const AttentionDims& d, int64_t row) : b(row / d.H / d.Tq), i(row / d.H % d.Tq), h(row % d.H) {}
};

std::vector<int64_t> visible_keys(const AttentionDims& d, const QueryIndex& at) {
  std::vector<int64_t> starts;
  for (int64_t j = 0; j <= d.Tk - d.Tq + at.i; ++j)
    starts.push_back(reference::key_offset(d, at.b, j, at.h / (d.H / d.G)));
  return starts;
}

// One query with n keys; or, as key gradients see it, `heads` queries that share one key.
AttentionDims part_dims(const AttentionDims& d, int64_t heads, int64_t keys) {
  return {.B = 1,
          .Tq = 1,
          .Tk = keys,
          .H = heads,
          .G = 1,
          .D = d.D,
          .q_stride = heads * d.D,
          .kv_stride = d.D,
          .kv_batch_stride = keys * d.D,
          .scale = d.scale};
}

void compare(Findings& findings, const char* what, const Floats& got, int64_t start,
             const test::Expected& expected) {
  for (size_t c = 0; c < expected.value.size(); ++c) {
    const int64_t at = start + static_cast<int64_t>(c);
    findings.near(what, at, got[at], expected.value[c], expected.bound[c]);
  }
}

// ---- operands ----

struct Attention {
  AttentionDims d;
  Floats q, k, v, o, lse;

  explicit Attention(const AttentionDims& dims)
      : d(dims),
        q(random_floats(1, d.B * d.Tq * d.q_stride)),
        k(random_floats(2, d.B * d.kv_batch_stride)),
        v(random_floats(3, d.B * d.kv_batch_stride)),
        o(zeros(d.B * d.Tq * d.q_stride)),
        lse(zeros(d.B * d.H * d.Tq)) {}
  int64_t bytes() const { return bytes_of(q, k, v, o, lse); }
  void run(Backend& backend) { backend.attention(d, q.data(), k.data(), v.data(), o.data(), lse.data()); }

  void check(const Attention&, Findings& findings) const {
    for (const int64_t row : sample(d.B * d.Tq * d.H, 16)) {
      const QueryIndex at(d, row);
      const int64_t query = reference::query_offset(d, at.b, at.i, at.h);
      const std::vector<int64_t> keys = visible_keys(d, at);
      const test::AttentionOracle expected =
          test::attention_oracle(part_dims(d, 1, static_cast<int64_t>(keys.size())), gather(q, {query}, d.D),
                                 gather(k, keys, d.D), gather(v, keys, d.D), Array(d.D));
      compare(findings, "o", o, query, expected.o);
      compare(findings, "lse", lse, reference::lse_offset(d, at.b, at.i, at.h), expected.lse);
    }
  }
};

struct AttentionBack {
  Attention f;
  Floats dO, dq, dk, dv;

  AttentionBack(Backend& backend, const AttentionDims& d)
      : f(d),
        dO(random_floats(4, static_cast<int64_t>(f.q.size()))),
        dq(f.q.size()),
        dk(f.k.size()),
        dv(f.v.size()) {
    f.run(backend);
  }
  int64_t bytes() const { return f.bytes() + bytes_of(dO, dq, dk, dv); }
  void run(Backend& backend) {
    backend.attention_backward(f.d, {f.q.data(), f.k.data(), f.v.data(), f.o.data(), f.lse.data()}, dO.data(),
                               {dq.data(), dk.data(), dv.data()});
  }

  test::AttentionBackwardOracle oracle(const std::vector<int64_t>& queries, const std::vector<int64_t>& keys,
                                       const std::vector<int64_t>& stats) const {
    const int64_t D = f.d.D;
    const AttentionDims part =
        part_dims(f.d, static_cast<int64_t>(queries.size()), static_cast<int64_t>(keys.size()));
    return test::attention_backward_oracle(part, gather(f.q, queries, D), gather(f.k, keys, D),
                                           gather(f.v, keys, D), gather(f.o, queries, D),
                                           gather(f.lse, stats, 1), gather(dO, queries, D), 0.0);
  }

  void check(const AttentionBack&, Findings& findings) const {
    const AttentionDims& d = f.d;
    for (const int64_t row : sample(d.B * d.Tq * d.H, 8)) {
      const QueryIndex at(d, row);
      const int64_t query = reference::query_offset(d, at.b, at.i, at.h);
      const int64_t stat = reference::lse_offset(d, at.b, at.i, at.h);
      compare(findings, "dq", dq, query, oracle({query}, visible_keys(d, at), {stat}).dq);
    }
    for (const int64_t row : sample(d.B * d.Tk * d.G, 8)) {
      const int64_t b = row / d.G / d.Tk, j = row / d.G % d.Tk, g = row % d.G;
      std::vector<int64_t> queries, stats;
      for (int64_t i = j; i < d.Tq; ++i) {
        for (int64_t h = g * (d.H / d.G); h < (g + 1) * (d.H / d.G); ++h) {
          queries.push_back(reference::query_offset(d, b, i, h));
          stats.push_back(reference::lse_offset(d, b, i, h));
        }
      }
      const int64_t key = reference::key_offset(d, b, j, g);
      const test::AttentionBackwardOracle expected = oracle(queries, {key}, stats);
      compare(findings, "dk", dk, key, expected.dk);
      compare(findings, "dv", dv, key, expected.dv);
    }
  }
};

}  // namespace

void add_attention(Suite& suite) {
  const auto add_forward = [&](const Shape& s, bool cold) {
    const AttentionDims d = dims_of(s);
    const Case c{.operation = "attention", .detail = s.label, .cost = cost::attention(d), .cold = cold};
    suite.add<Attention>(c, [d](Backend&) { return Attention(d); });
  };
  for (const Shape& s : training) {
    const AttentionDims d = dims_of(s);
    add_forward(s, false);
    const Case c{.operation = "attention_backward", .detail = s.label, .cost = cost::attention_backward(d)};
    suite.add<AttentionBack>(c, [d](Backend& backend) { return AttentionBack(backend, d); });
  }
  for (const Shape& s : generation)
    for (const bool cold : {false, true}) add_forward(s, cold);
}

}  // namespace gladius::bench
