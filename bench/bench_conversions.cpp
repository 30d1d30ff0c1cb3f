// Conversions between floats and the types that weights are stored in.
#include <fmt/format.h>

#include "bench/bench_support.h"
#include "kernels/reference/quantize.h"

namespace gladius::bench {
namespace {

constexpr DType types[] = {DType::F16,  DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1,
                           DType::Q5_0, DType::Q5_1, DType::Q4_K, DType::Q5_K, DType::Q6_K};
struct Matrix {
  const char* label;
  int64_t rows, cols;
};
constexpr Matrix matrices[] = {{"2048x768", 2048, 768}, {"tiny_768x256", 768, 256}, {"odd_7x1280", 7, 1280}};
constexpr int64_t sampled_rows = 16;

// Both ways give the bytes of the reference.
struct Quantize {
  DType dtype;
  Matrix s;
  Floats x;
  Bytes y;

  Quantize(DType type, const Matrix& shape)
      : dtype(type),
        s(shape),
        x(random_floats(1, s.rows * s.cols)),
        y(static_cast<size_t>(s.rows * row_bytes(type, s.cols))) {}
  int64_t bytes() const { return bytes_of(x, y); }
  void run(Backend& backend) { backend.quantize(dtype, s.rows, s.cols, x.data(), nullptr, y.data()); }
  void check(const Quantize&, Findings& findings) const {
    const int64_t width = row_bytes(dtype, s.cols);
    Bytes expected(static_cast<size_t>(width));
    for (const int64_t row : sample(s.rows, sampled_rows)) {
      reference::quantize_rows(dtype, 1, s.cols, x.data() + row * s.cols, nullptr, expected.data());
      findings.same_bytes("y", row, y.data() + row * width, expected.data(), width);
    }
  }
};

struct Dequantize {
  Quantize from;
  Floats values;

  Dequantize(Backend& backend, DType type, const Matrix& shape)
      : from(type, shape), values(zeros(shape.rows * shape.cols)) {
    from.run(backend);
  }
  int64_t bytes() const { return bytes_of(from.y, values); }
  void run(Backend& backend) {
    backend.dequantize(from.dtype, from.s.rows, from.s.cols, from.y.data(), values.data());
  }
  void check(const Dequantize&, Findings& findings) const {
    const int64_t width = row_bytes(from.dtype, from.s.cols), cols = from.s.cols;
    std::vector<float> expected(static_cast<size_t>(cols));
    for (const int64_t row : sample(from.s.rows, sampled_rows)) {
      reference::dequantize_rows(from.dtype, 1, cols, from.y.data() + row * width, expected.data());
      findings.same_bytes("values", row, values.data() + row * cols, expected.data(), 4 * cols);
    }
  }
};

}  // namespace

void add_conversions(Suite& suite) {
  for (const DType dtype : types) {
    for (const Matrix& s : matrices) {
      Case c{.operation = "quantize",
             .detail = fmt::format("{}/{}", dtype_info(dtype).name, s.label),
             .cost = cost::convert(dtype, s.rows, s.cols)};
      suite.add<Quantize>(c, [dtype, s](Backend&) { return Quantize(dtype, s); });
      c.operation = "dequantize";
      for (const bool cold : {false, true}) {
        c.cold = cold;
        suite.add<Dequantize>(c, [dtype, s](Backend& backend) { return Dequantize(backend, dtype, s); });
      }
    }
  }
}

}  // namespace gladius::bench
