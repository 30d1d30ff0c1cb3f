// Operations on rows: embedding, RMSNorm, RoPE, softmax.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/bench_support.h"
#include "kernels/reference/quantize.h"
#include "tests/kernels_oracle.h"

namespace gladius::bench {
namespace {

using test::Array;

// ---- tables ----

struct Rows {
  const char* label;
  int64_t M, C;
};
constexpr Rows hidden_rows[] = {{"256x768", 256, 768},
                                {"1024x768", 1024, 768},
                                {"4096x768", 4096, 768},
                                {"tiny_256x256", 256, 256},
                                {"odd_263x771", 263, 771}};
constexpr Rows softmax_rows[] = {{"3072x256", 3072, 256}, {"256x32000", 256, 32000}, {"odd_37x517", 37, 517}};
struct Rotation {
  const char* label;
  RopeDims d;
};
constexpr Rotation rotations[] = {{"1024x12x64", {1024, 12, 64, 768}},
                                  {"1024x4x64", {1024, 4, 64, 256}},
                                  {"4096x12x64", {4096, 12, 64, 768}},
                                  {"tiny_256x4x64", {256, 4, 64, 256}},
                                  {"odd_37x3x10", {37, 3, 10, 33}}};
struct Lookup {
  const char* label;
  LossDims d;
};
constexpr Lookup lookups[] = {
    {"1024x768", {1024, 768, 32000}}, {"tiny_256x256", {256, 256, 1024}}, {"odd_263x771", {263, 771, 97}}};

constexpr int64_t sampled_rows = 16;

// Rows of n floats, `stride` apart, one after the other.
Array gather(const Floats& x, const std::vector<int64_t>& rows, int64_t n, int64_t stride) {
  Array y(n * static_cast<int64_t>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(x.data() + rows[i] * stride, n, y.data() + static_cast<int64_t>(i) * n);
  return y;
}

// Columns of x[M,C], as [M, columns].
Array gather_columns(const Floats& x, const std::vector<int64_t>& columns, int64_t M, int64_t C) {
  const auto n = static_cast<int64_t>(columns.size());
  Array y(M * n);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t i = 0; i < n; ++i) y[m * n + i] = x[m * C + columns[i]];
  return y;
}

// The rows of x[..., n] that `expected` holds one after the other.
void compare(Findings& findings, const char* what, const Floats& x, const std::vector<int64_t>& rows,
             int64_t n, const test::Expected& expected) {
  for (size_t i = 0; i < expected.value.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int64_t index = rows[at / n] * n + at % n;
    findings.near(what, index, x[index], expected.value[i], expected.bound[i]);
  }
}

// ---- RMSNorm ----

struct RmsNorm {
  int64_t M, C;
  Floats x, w, y, r;

  explicit RmsNorm(Rows s)
      : M(s.M), C(s.C), x(random_floats(1, M * C)), w(random_floats(2, C)), y(zeros(M * C)), r(zeros(M)) {}
  int64_t bytes() const { return bytes_of(x, w, y, r); }
  void run(Backend& backend) { backend.rms_norm(M, C, 1e-6f, x.data(), w.data(), y.data(), r.data()); }
  void check(const RmsNorm&, Findings& findings) const {
    const std::vector<int64_t> rows = sample(M, sampled_rows);
    const test::RmsNormOracle expected = test::rms_norm_oracle(static_cast<int64_t>(rows.size()), C, 1e-6f,
                                                               gather(x, rows, C, C), gather(w, {0}, C, C));
    compare(findings, "y", y, rows, C, expected.y);
    compare(findings, "r", r, rows, 1, expected.r);
  }
};

struct RmsNormBack {
  RmsNorm f;
  Floats dy, dx, dw;

  RmsNormBack(Backend& backend, Rows s)
      : f(s), dy(random_floats(3, s.M * s.C)), dx(zeros(s.M * s.C)), dw(zeros(s.C)) {
    f.run(backend);
  }
  int64_t bytes() const { return f.bytes() + bytes_of(dy, dx, dw); }
  void run(Backend& backend) {
    backend.rms_norm_backward(f.M, f.C, {f.x.data(), f.w.data(), f.r.data()}, dy.data(), {dx.data(), false},
                              {dw.data(), false});
  }
  // dx row by row, dw column by column.
  void check(const RmsNormBack&, Findings& findings) const {
    const int64_t M = f.M, C = f.C;
    const std::vector<int64_t> rows = sample(M, sampled_rows), columns = sample(C, sampled_rows);
    const auto m = static_cast<int64_t>(rows.size()), n = static_cast<int64_t>(columns.size());
    compare(findings, "dx", dx, rows, C,
            test::rms_norm_backward_oracle(m, C, gather(f.x, rows, C, C), gather(f.w, {0}, C, C),
                                           gather(f.r, rows, 1, 1), gather(dy, rows, C, C), Array(m * C),
                                           Array(C), false)
                .dx);
    compare(findings, "dw", dw, columns, 1,
            test::rms_norm_backward_oracle(M, n, gather_columns(f.x, columns, M, C),
                                           gather(f.w, columns, 1, 1), gather(f.r, {0}, M, M),
                                           gather_columns(dy, columns, M, C), Array(M * n), Array(n), false)
                .dw);
  }
};

// ---- RoPE ----

struct Rope {
  RopeDims d;
  RopeDirection direction;
  Floats x, y, cos, sin;
  std::vector<int32_t> positions;

  Rope(RopeDims dims, RopeDirection way)
      : d(dims), direction(way), x(random_floats(1, d.M * d.stride)), y(zeros(d.M * d.stride)) {
    for (int64_t m = 0; m < d.M; ++m) {
      positions.push_back(static_cast<int32_t>(m));
      for (int64_t i = 0; i < d.D / 2; ++i) {
        const double angle = double(m) * std::pow(10000.0, -2.0 * double(i) / double(d.D));
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  int64_t bytes() const { return bytes_of(x, y, cos, sin, positions); }
  void run(Backend& backend) {
    backend.rope(d, positions.data(), cos.data(), sin.data(), direction, x.data(), y.data());
  }
  void check(const Rope& before, Findings& findings) const {
    const std::vector<int64_t> rows = sample(d.M, sampled_rows);
    RopeDims part = d;
    part.M = static_cast<int64_t>(rows.size());
    const std::vector<int32_t> at(rows.begin(), rows.end());  // row m stands at position m
    const int64_t angles = d.M * (d.D / 2);
    compare(findings, "y", y, rows, d.stride,
            test::rope_oracle(
                part, at.data(), gather(cos, {0}, angles, angles), gather(sin, {0}, angles, angles),
                direction, gather(x, rows, d.stride, d.stride), gather(before.y, rows, d.stride, d.stride)));
  }
};

// ---- softmax ----

struct Softmax {
  int64_t M, N;
  Floats x, y;

  explicit Softmax(Rows s) : M(s.M), N(s.C), x(random_floats(1, M * N, -8.0f, 8.0f)), y(zeros(M * N)) {}
  int64_t bytes() const { return bytes_of(x, y); }
  void run(Backend& backend) { backend.softmax(M, N, x.data(), y.data()); }
  void check(const Softmax&, Findings& findings) const {
    const std::vector<int64_t> rows = sample(M, sampled_rows);
    compare(findings, "y", y, rows, N,
            test::softmax_oracle(static_cast<int64_t>(rows.size()), N, gather(x, rows, N, N)));
  }
};

struct SoftmaxBack {
  int64_t M, N;
  Floats y, dy, dx;

  explicit SoftmaxBack(Rows s)
      : M(s.M),
        N(s.C),
        y(random_floats(1, M * N, 0.0f, 1.0f)),
        dy(random_floats(2, M * N)),
        dx(zeros(M * N)) {}
  int64_t bytes() const { return bytes_of(y, dy, dx); }
  void run(Backend& backend) { backend.softmax_backward(M, N, y.data(), dy.data(), dx.data()); }
  void check(const SoftmaxBack&, Findings& findings) const {
    const std::vector<int64_t> rows = sample(M, sampled_rows);
    compare(findings, "dx", dx, rows, N,
            test::softmax_backward_oracle(static_cast<int64_t>(rows.size()), N, gather(y, rows, N, N),
                                          gather(dy, rows, N, N)));
  }
};

// ---- embedding ----

struct Embedding {
  LossDims d;
  DType dtype;
  Tokens tokens;
  Bytes W;
  Floats y;

  Embedding(Backend& backend, LossDims dims, DType type)
      : d(dims),
        dtype(type),
        tokens(random_tokens(1, d.M, d.V)),
        W(static_cast<size_t>(d.V * row_bytes(type, d.C))),
        y(zeros(d.M * d.C)) {
    backend.quantize(dtype, d.V, d.C, random_floats(2, d.V * d.C).data(), nullptr, W.data());
  }
  int64_t bytes() const { return bytes_of(tokens, W, y); }
  void run(Backend& backend) { backend.embedding(d, tokens.data(), {dtype, W.data()}, y.data()); }
  void check(const Embedding&, Findings& findings) const {
    std::vector<float> expected(static_cast<size_t>(d.C));
    for (int64_t m = 0; m < d.M; ++m) {
      reference::dequantize_rows(dtype, 1, d.C, W.data() + tokens[m] * row_bytes(dtype, d.C),
                                 expected.data());
      findings.same_bytes("y", m, y.data() + m * d.C, expected.data(), 4 * d.C);
    }
  }
};

struct EmbeddingBack {
  LossDims d;
  Tokens tokens;
  Floats dy, dW;

  explicit EmbeddingBack(LossDims dims)
      : d(dims), tokens(random_tokens(1, d.M, d.V)), dy(random_floats(2, d.M * d.C)), dW(zeros(d.V * d.C)) {}
  int64_t bytes() const { return bytes_of(tokens, dy, dW); }
  void run(Backend& backend) { backend.embedding_backward(d, tokens.data(), dy.data(), dW.data(), false); }
  void check(const EmbeddingBack&, Findings& findings) const {
    std::vector<int64_t> vocabulary = sample(d.V, sampled_rows);  // and some that occur
    for (const int64_t m : sample(d.M, sampled_rows)) vocabulary.push_back(tokens[m]);
    for (const int64_t v : vocabulary) {
      test::Expected expected(d.C);
      for (int64_t m = 0; m < d.M; ++m) {
        for (int64_t c = 0; c < d.C && tokens[m] == v; ++c) {
          expected.value[c] += double(dy[m * d.C + c]);
          expected.bound[c] += test::roundings(double(d.M)) * std::fabs(double(dy[m * d.C + c]));
        }
      }
      compare(findings, "dW", dW, {v}, d.C, expected);
    }
  }
};

// ---- the suite ----

void add_embedding(Suite& suite) {
  for (const Lookup& s : lookups) {
    for (const DType dtype : {DType::F32, DType::Q8_0, DType::Q4_K, DType::Q6_K}) {
      if (s.d.C % dtype_info(dtype).block_size != 0) continue;
      const Case c{.operation = "embedding",
                   .detail = fmt::format("{}/{}", dtype_info(dtype).name, s.label),
                   .cost = cost::embedding(s.d, dtype)};
      suite.add<Embedding>(c, [d = s.d, dtype](Backend& backend) { return Embedding(backend, d, dtype); });
    }
    const Case c{
        .operation = "embedding_backward", .detail = s.label, .cost = cost::embedding_backward(s.d, false)};
    suite.add<EmbeddingBack>(c, [d = s.d](Backend&) { return EmbeddingBack(d); });
  }
}

void add_softmax(Suite& suite, bool cold) {
  for (const Rows& s : softmax_rows) {
    suite.add<Softmax>(
        {.operation = "softmax", .detail = s.label, .cost = cost::softmax(s.M, s.C), .cold = cold},
        [s](Backend&) { return Softmax(s); });
    suite.add<SoftmaxBack>({.operation = "softmax_backward",
                            .detail = s.label,
                            .cost = cost::softmax_backward(s.M, s.C),
                            .cold = cold},
                           [s](Backend&) { return SoftmaxBack(s); });
  }
}

void add_norm(Suite& suite, bool cold) {
  for (const Rows& s : hidden_rows) {
    suite.add<RmsNorm>(
        {.operation = "rms_norm", .detail = s.label, .cost = cost::rms_norm(s.M, s.C), .cold = cold},
        [s](Backend&) { return RmsNorm(s); });
    suite.add<RmsNormBack>({.operation = "rms_norm_backward",
                            .detail = s.label,
                            .cost = cost::rms_norm_backward(s.M, s.C, false),
                            .cold = cold},
                           [s](Backend& backend) { return RmsNormBack(backend, s); });
  }
}

void add_rope(Suite& suite, bool cold) {
  for (const Rotation& s : rotations) {
    for (const RopeDirection way : {RopeDirection::forward, RopeDirection::backward}) {
      const Case c{.operation = way == RopeDirection::forward ? "rope" : "rope_backward",
                   .detail = s.label,
                   .cost = cost::rope(s.d),
                   .cold = cold};
      suite.add<Rope>(c, [d = s.d, way](Backend&) { return Rope(d, way); });
    }
  }
}

}  // namespace

void add_rows(Suite& suite) {
  add_embedding(suite);
  for (const bool cold : {false, true}) {
    add_norm(suite, cold);
    add_rope(suite, cold);
    add_softmax(suite, cold);
  }
}

}  // namespace gladius::bench
