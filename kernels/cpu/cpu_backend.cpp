#include "kernels/cpu/cpu_backend.h"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/cpu/cpu_blocking.h"
#include "kernels/cpu/quant_backend.h"
#include "kernels/cpu/weight_panels.h"

namespace gladius {
namespace cpu {

namespace {

constexpr int64_t page_floats = 1024;  // every thread's scratch starts at a page

// What the smallest ones have where the system does not say.
SecondLevelCache second_level_cache() {
  const long bytes = ::sysconf(_SC_LEVEL2_CACHE_SIZE), ways = ::sysconf(_SC_LEVEL2_CACHE_ASSOC);
  return {std::clamp<int64_t>(bytes, 512 << 10, 2 << 20), ways > 1 ? ways : 8};
}

}  // namespace

CpuBackend::CpuBackend(int threads, const Isa& isa)
    : threads_(std::max(1, threads)),
      table_(isa.table()),
      f_(table_.f),
      quick_bf16_(isa.quick_bf16),
      cache_(second_level_cache()),
      packed_b_floats_(cache_.bytes / int64_t{sizeof(float)} * 3 / 5 / page_floats * page_floats),
      gemm_(threads_ * (gemm_packed_a_floats + packed_b_floats_)),
      converted_(converted_bytes),
      attention_(threads_ * attention_scratch),
      partials_(attention_partials * attention_partial_floats),
      partial_sums_(max_partial_sums),
      norm_partials_(norm_partial_floats) {}

static_assert(gemm_packed_a_floats % page_floats == 0);

std::string CpuBackend::name() const { return std::string("cpu (") + table_.name + ")"; }

size_t CpuBackend::scratch_bytes() const {
  return gemm_.bytes() + converted_.bytes() + attention_.bytes() + partials_.bytes() + partial_sums_.bytes() +
         norm_partials_.bytes();
}

namespace {

bool is_plain(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

// Whether W is multiplied as a product of floats is, or of pairs of BF16 as words of their size, rather than
// lane by lane, which any K allows.
bool by_many_rows(MatmulDims d, WeightView W) {
  return is_plain(W.dtype) && d.M > few_rows && (d.K % 2 == 0 || W.dtype == DType::F32);
}

}  // namespace

void CpuBackend::matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) {
  const WeightProduct product{W, d.N, C};
  products_alike(d, A, {&product, 1}, e);
}

void CpuBackend::matmul_weights(MatmulDims d, const float* A, std::span<const WeightProduct> products) {
  const auto alike = [](const WeightProduct& p, const WeightProduct& q) {
    const DTypeInfo &x = dtype_info(p.W.dtype), &y = dtype_info(q.W.dtype);
    return x.dot_with == y.dot_with && (x.dtype == y.dtype || x.quantised) && p.W.panels == q.W.panels;
  };
  while (!products.empty()) {  // those first ones that A is converted for in the same way, of the same form
    size_t n = 1;
    while (n < products.size() && alike(products[n], products[0])) ++n;
    products_alike(d, A, products.first(n), {});
    products = products.subspan(n);
  }
}

void CpuBackend::products_alike(MatmulDims d, const float* A, std::span<const WeightProduct> products,
                                Epilogue e) {
  const WeightView W = products[0].W;
  if (W.dtype == DType::F32 && !W.panels)
    for (const WeightProduct& p : products)
      matmul_nt({d.M, p.N, d.K, d.precision}, A, static_cast<const float*>(p.W.data), p.C, e);
  else if (by_many_rows(d, W))
    plain_products(d, A, products, e);
  else
    quantized_products(d, A, products, e);
}

void CpuBackend::quantized_products(MatmulDims d, const float* A, std::span<const WeightProduct> products,
                                    Epilogue e) {
  static_assert(max_activation_row_bytes(max_weight_columns) <= converted_bytes);
  matmul_quantized(table_.q, threads_, d, A, products, e, {converted_.data(), converted_bytes});
}

int64_t CpuBackend::panels_bytes(DType dtype, int64_t N, int64_t K) const {
  const PanelBlock block = panel_block(dtype);
  const bool relaid = block.lines > 0 && K % block.elements == 0 && K <= max_weight_columns;
  return relaid ? ceil_div(N, panel_rows) * panel_bytes(dtype, K) : 0;
}

void CpuBackend::make_panels(DType dtype, int64_t N, int64_t K, const void* rows, void* panels) {
  cpu::make_panels(table_.q, threads_, dtype, N, K, rows, panels);
}

void CpuBackend::quantize(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance,
                          void* y) {
  cpu::quantize(table_.q, threads_, dtype, rows, cols, x, importance, y);
}

void CpuBackend::dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) {
  cpu::dequantize(table_.q, threads_, dtype, rows, cols, x, y);
}

}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(int threads, std::string_view isa) {
  if (!cpu::cpu_isas().empty()) return std::make_unique<cpu::CpuBackend>(threads, cpu::choose_isa(isa));
  if (isa.empty() || isa == "reference") return make_reference_backend();
  throw std::invalid_argument("unknown instruction set \"" + std::string(isa) +
                              "\"; this CPU family runs the reference kernels only");
}

}  // namespace gladius
