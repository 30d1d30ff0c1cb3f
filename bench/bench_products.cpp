// Matrix products: the linear layers of a training step, and weights of every type as they are when text is
// generated.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/bench_support.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/quant_dot.h"
#include "kernels/reference/quantize.h"
#include "tests/kernels_bounds.h"

namespace gladius::bench {
namespace {

using test::roundings;

enum class Form { nt, nn, tn };
constexpr const char* names[] = {"matmul_nt", "matmul_nn", "matmul_tn"};

// ---- tables ----

struct Layer {
  int64_t in, out;  // its weight is [out, in]
};
constexpr Layer layers_125m[] = {{768, 768}, {768, 256}, {768, 2048}, {2048, 768}};
constexpr Layer layers_tiny[] = {{256, 256}, {256, 128}, {256, 768}, {768, 256}};
constexpr int64_t tokens_125m[] = {256, 1024, 4096};
constexpr int64_t tokens_tiny = 256;
constexpr int64_t tokens_cold = 1024;      // also timed with factors that come from memory
constexpr Layer head_125m = {768, 32000};  // the loss multiplies some rows at a time
constexpr int64_t head_rows = 256;
constexpr MatmulDims odd_shapes[] = {{263, 771, 517}, {1, 771, 517}, {7, 33, 129}, {85, 65, 2049}};

constexpr DType weight_types[] = {DType::F32,  DType::F16,  DType::BF16, DType::Q8_0,
                                  DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
                                  DType::Q4_K, DType::Q5_K, DType::Q6_K};
constexpr MatmulDims weight_shapes[] = {{1, 2048, 768}, {8, 2048, 768}, {128, 2048, 768}, {128, 768, 2048}};
constexpr MatmulDims weight_head = {1, 32000, 768};
constexpr MatmulDims weight_odd = {5, 77, 768};

// ---- products of floats ----

struct Product {
  Form form;
  MatmulDims d;
  Floats a, b, c;

  Product(Form f, MatmulDims dims)
      : form(f),
        d(dims),
        a(random_floats(1, d.M * d.K)),
        b(random_floats(2, d.N * d.K)),
        c(zeros(d.M * d.N)) {}
  int64_t bytes() const { return bytes_of(a, b, c); }
  void run(Backend& backend) {
    if (form == Form::nt) backend.matmul_nt(d, a.data(), b.data(), c.data(), {});
    if (form == Form::nn) backend.matmul_nn(d, a.data(), b.data(), c.data(), {});
    if (form == Form::tn) backend.matmul_tn(d, a.data(), b.data(), c.data(), {});
  }

  // Some elements in double: K products, each factor rounded exactly as the definition says.
  void check(const Product&, Findings& findings) const {
    using Factor = reference::Strided<float>;
    const Factor A =
        form == Form::tn ? Factor{a.data(), 1, d.M, d.precision} : Factor{a.data(), d.K, 1, d.precision};
    const Factor B =
        form == Form::nt ? Factor{b.data(), d.K, 1, d.precision} : Factor{b.data(), 1, d.N, d.precision};
    for (const int64_t i : sample(d.M * d.N, 256)) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < d.K; ++k) {
        const double term = A.at(i / d.N, k) * B.at(i % d.N, k);
        sum += term;
        magnitude += std::fabs(term);
      }
      findings.near("C", i, c[i], sum, roundings(static_cast<double>(d.K + 1)) * magnitude);
    }
  }
};

// ---- products with stored weights ----

struct WeightProduct {
  DType dtype;
  MatmulDims d;
  Floats a;
  Bytes w;
  Floats c;

  WeightProduct(Backend& backend, DType type, MatmulDims dims)
      : dtype(type),
        d(dims),
        a(random_floats(1, d.M * d.K)),
        w(static_cast<size_t>(d.N * row_bytes(type, d.K))),
        c(zeros(d.M * d.N)) {
    backend.quantize(dtype, d.N, d.K, random_floats(2, d.N * d.K).data(), nullptr, w.data());
  }
  int64_t bytes() const { return bytes_of(a, w, c); }
  void run(Backend& backend) { backend.matmul_weight(d, a.data(), {dtype, w.data()}, c.data(), {}); }

  // Quantised: the bits of the definition. Else sums in any order of factors that are converted alike.
  void check(const WeightProduct&, Findings& findings) const {
    const DType with = dtype_info(dtype).dot_with;
    const int64_t w_row = row_bytes(dtype, d.K);
    Bytes row(static_cast<size_t>(row_bytes(with, d.K)));
    std::vector<float> x(static_cast<size_t>(d.K)), y(x.size());
    for (const int64_t i : sample(d.M * d.N, 256)) {
      const std::byte* weight = w.data() + i % d.N * w_row;
      reference::quantize_rows(with, 1, d.K, a.data() + i / d.N * d.K, nullptr, row.data());
      double bound = 0;
      if (!dtype_info(dtype).quantised) {
        reference::dequantize_rows(dtype, 1, d.K, weight, x.data());
        reference::dequantize_rows(with, 1, d.K, row.data(), y.data());
        for (int64_t k = 0; k < d.K; ++k) bound += std::fabs(double(x[k]) * double(y[k]));
        bound *= roundings(static_cast<double>(d.K + 2));  // and one of dot_row's result
      }
      findings.near("C", i, c[i], reference::dot_row(dtype, d.K, weight, row.data()), bound);
    }
  }
};

// ---- the suite ----

std::string text(MatmulDims d) { return fmt::format("{}x{}x{}", d.M, d.N, d.K); }

void add_product(Suite& suite, Form form, MatmulDims d, const std::string& label, bool cold) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    d.precision = precision;
    const Case c{names[static_cast<int>(form)],
                 fmt::format("{}/{}{}", precision_name(precision), label, text(d)),
                 cost::matmul(d),
                 precision,
                 cold,
                 true};
    suite.add<Product>(c, [form, d](Backend&) { return Product(form, d); });
  }
}

// What a layer multiplies in a step: outputs, then the gradients of its input and of its weight.
void add_layer(Suite& suite, Layer layer, int64_t tokens, const std::string& label, bool cold) {
  add_product(suite, Form::nt, {tokens, layer.out, layer.in}, label, cold);
  add_product(suite, Form::nn, {tokens, layer.in, layer.out}, label, cold);
  add_product(suite, Form::tn, {layer.out, layer.in, tokens}, label, cold);
}

void add_weight_product(Suite& suite, DType dtype, MatmulDims d, const std::string& label, bool cold) {
  const Case c{"matmul_weight", fmt::format("{}/{}{}", dtype_info(dtype).name, label, text(d)),
               cost::matmul_weight(d, dtype), Precision::fp32, cold};
  suite.add<WeightProduct>(c, [dtype, d](Backend& backend) { return WeightProduct(backend, dtype, d); });
}

}  // namespace

void add_products(Suite& suite) {
  for (const int64_t tokens : tokens_125m)
    for (const Layer layer : layers_125m) add_layer(suite, layer, tokens, "", false);
  for (const Layer layer : layers_125m) add_layer(suite, layer, tokens_cold, "", true);
  for (const bool cold : {false, true}) add_layer(suite, head_125m, head_rows, "", cold);
  for (const Layer layer : layers_tiny) add_layer(suite, layer, tokens_tiny, "tiny_", false);
  for (const MatmulDims d : odd_shapes)
    for (const Form form : {Form::nt, Form::nn, Form::tn}) add_product(suite, form, d, "odd_", false);
  for (const DType dtype : weight_types) {
    for (const MatmulDims d : weight_shapes)
      for (const bool cold : {false, true}) add_weight_product(suite, dtype, d, "", cold);
    add_weight_product(suite, dtype, weight_head, "", true);
    add_weight_product(suite, dtype, weight_odd, "odd_", false);
  }
}

}  // namespace gladius::bench
