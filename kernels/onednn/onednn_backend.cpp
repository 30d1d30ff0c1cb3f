// The CPU's Backend with the dense products of F32 matrices done by oneDNN, to compare the two. What is used
// is common to oneDNN 2 and 3: the BLAS function for fp32 (2.6 and 3.2 are no faster with their matmul
// primitive on most shapes of a training step) and the primitive, the only one for BF16.
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/parallel.h"

// Others run on threads that the backend's number does not reach.
static_assert(DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP, "oneDNN must be one that is built with OpenMP");

namespace gladius {
namespace {

using dnnl::memory;

// C[M,N] = A · B, where A or B may lie in memory as its transpose.
struct Product {
  int64_t M, N, K;
  bool a_transposed, b_transposed;
  bool accumulate;  // added to what C holds

  auto operator<=>(const Product&) const = default;
  int64_t a_row() const { return a_transposed ? M : K; }  // elements of a row in memory
  int64_t b_row() const { return b_transposed ? K : N; }
};

// The constructor that differs between oneDNN 2 and 3. Empty where oneDNN has nothing for this CPU.
dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a,
                                      const memory::desc& b, const memory::desc& c,
                                      const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR < 3
  return {dnnl::matmul::desc(a, b, c), attributes, engine, true};
#else
  return {engine, a, b, c, attributes, true};
#endif
}

memory::desc bf16_matrix(int64_t rows, int64_t cols, bool transposed) {
  using Tag = memory::format_tag;
  return {{rows, cols}, memory::data_type::bf16, transposed ? Tag::ba : Tag::ab};
}

// Reads the factors where they lie: packing them ahead, in a layout of oneDNN's choice, is no faster.
dnnl::matmul::primitive_desc describe_bf16(const dnnl::engine& engine, const Product& p) {
  dnnl::primitive_attr attributes;
  if (p.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  return describe(engine, bf16_matrix(p.M, p.K, p.a_transposed), bf16_matrix(p.K, p.N, p.b_transposed),
                  {{p.M, p.N}, memory::data_type::f32, memory::format_tag::ab}, attributes);
}

// A product that is ready to run. Making one takes much longer than a small product.
struct Bf16Product {
  dnnl::matmul primitive;
  memory a, b, c;  // without data

  Bf16Product(const dnnl::engine& engine, const dnnl::matmul::primitive_desc& description)
      : primitive(description),
        a(description.src_desc(), engine, DNNL_MEMORY_NONE),
        b(description.weights_desc(), engine, DNNL_MEMORY_NONE),
        c(description.dst_desc(), engine, DNNL_MEMORY_NONE) {}

  void run(dnnl::stream& stream, uint16_t* A, uint16_t* B, float* C) {
    a.set_data_handle(A);
    b.set_data_handle(B);
    c.set_data_handle(C);
    primitive.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
    stream.wait();
  }
};

class OneDnnBackend final : public cpu::CpuBackend {
 public:
  OneDnnBackend(int threads, const cpu::Isa& isa)
      : CpuBackend(threads, isa),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        has_bf16_(static_cast<bool>(describe_bf16(engine_, {16, 16, 16, false, true, false}))) {}

  std::string name() const override {
    return "onednn " + onednn_version() + (has_bf16_ ? " for fp32 and bf16, " : " for fp32, ") +
           CpuBackend::name();
  }
  size_t scratch_bytes() const override { return CpuBackend::scratch_bytes() + a_.bytes() + b_.bytes(); }

  // F32 weights stay rows, which oneDNN multiplies.
  int64_t panels_bytes(DType dtype, int64_t N, int64_t K) const override {
    return dtype == DType::F32 ? 0 : CpuBackend::panels_bytes(dtype, N, K);
  }
  void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    if (!takes(d)) return CpuBackend::matmul_nt(d, A, B, C, e);
    multiply({d.M, d.N, d.K, false, true, start_sum(d, C, e)}, d.precision, A, B, C);
  }
  void matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    if (!takes(d)) return CpuBackend::matmul_nn(d, A, B, C, e);
    multiply({d.M, d.N, d.K, false, false, start_sum(d, C, e)}, d.precision, A, B, C);
  }
  void matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) override {
    if (!takes(d)) return CpuBackend::matmul_tn(d, A, B, C, e);
    multiply({d.M, d.N, d.K, true, false, start_sum(d, C, e)}, d.precision, A, B, C);
  }

 private:
  // Leaves products of nothing to the CPU's Backend.
  bool takes(MatmulDims d) const {
    return d.M > 0 && d.N > 0 && d.K > 0 && (d.precision == Precision::fp32 || has_bf16_);
  }

  // Puts the residual where the product will be added to it. Says whether C holds something to add to.
  bool start_sum(MatmulDims d, float* C, Epilogue e) {
    if (e.residual && e.accumulate) add(d.M * d.N, C, e.residual, C);
    if (e.residual && !e.accumulate) copy(d.M * d.N, e.residual, C);
    return e.residual || e.accumulate;
  }

  void multiply(const Product& p, Precision precision, const float* A, const float* B, float* C) {
    const ThreadSetting setting(threads());
    precision == Precision::bf16 ? multiply_bf16(p, A, B, C) : multiply_fp32(p, A, B, C);
  }

  static void multiply_fp32(const Product& p, const float* A, const float* B, float* C) {
    const auto letter = [](bool transposed) { return transposed ? 'T' : 'N'; };
    const dnnl_status_t status =
        dnnl_sgemm(letter(p.a_transposed), letter(p.b_transposed), p.M, p.N, p.K, 1.0f, A, p.a_row(), B,
                   p.b_row(), p.accumulate ? 1.0f : 0.0f, C, p.N);
    if (status != dnnl_success)
      throw std::runtime_error("oneDNN's sgemm failed with status " + std::to_string(status));
  }

  void multiply_bf16(const Product& p, const float* A, const float* B, float* C) {
    uint16_t* const a = rounded(p.M * p.K, p.a_row(), A, a_);
    uint16_t* const b = rounded(p.K * p.N, p.b_row(), B, b_);
    auto found = products_.find(p);
    if (found == products_.end()) {
      if (products_.size() == most_products) products_.clear();
      found = products_.try_emplace(p, engine_, describe_bf16(engine_, p)).first;
    }
    found->second.run(stream_, a, b, C);
  }

  uint16_t* rounded(int64_t n, int64_t row, const float* x, cpu::Scratch<uint16_t>& room) {
    if (room.bytes() < static_cast<size_t>(n) * sizeof(uint16_t)) room = cpu::Scratch<uint16_t>(n);
    quantize(DType::BF16, n / row, row, x, nullptr, room.data());
    return room.data();
  }

  // More than the products of a training step; those of prompts of any length come and go.
  static constexpr size_t most_products = 64;

  dnnl::engine engine_;
  dnnl::stream stream_;
  bool has_bf16_;
  std::map<Product, Bf16Product> products_;
  cpu::Scratch<uint16_t> a_{0}, b_{0};  // factors rounded to BF16
};

}  // namespace

std::string onednn_version() {
  const dnnl_version_t* v = dnnl_version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

std::unique_ptr<Backend> make_onednn_backend(int threads, std::string_view isa) {
  if (cpu::cpu_isas().empty())
    throw std::invalid_argument(
        "the oneDNN backend needs the CPU's own kernels, which this CPU family lacks");
  return std::make_unique<OneDnnBackend>(threads, cpu::choose_isa(isa));
}

}  // namespace gladius
