// Speed of the kernels, on every instruction set that this CPU runs, with the shapes of gladius-125m: width
// 768, feed-forward 2048, 12 query and 4 key/value heads of width 64, vocabulary 32000.
//
// Names are OPERATION/ISA/SHAPE; oneDNN's products, where they are built, have "onednn" for ISA. Products
// report FLOPS (two for each multiply-add), operations that memory limits report bytes per second (each
// operand counted once). GLADIUS_BENCH_THREADS sets the threads (default 1).
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isas.h"

namespace gladius {
namespace {

using benchmark::Counter;
using benchmark::State;

std::vector<float> random_floats(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  uint32_t state = 1;
  for (float& value : x) {  // a linear congruential generator is random enough for timing
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  return x;
}

void report_flops(State& state, double flops_per_run) {
  state.counters["FLOPS"] = Counter(flops_per_run, Counter::kIsIterationInvariantRate);
}

void report_bytes(State& state, double bytes_per_run) {
  state.counters["bytes"] = Counter(bytes_per_run, Counter::kIsIterationInvariantRate, Counter::kIs1024);
}

enum class Form { nt, nn, tn };

void matmul(State& state, Backend& backend, Form form, MatmulDims d) {
  const std::vector<float> a = random_floats(d.M * d.K), b = random_floats(d.N * d.K);
  std::vector<float> c(static_cast<size_t>(d.M * d.N));
  for (auto _ : state) {
    if (form == Form::nt) backend.matmul_nt(d, a.data(), b.data(), c.data(), {});
    if (form == Form::nn) backend.matmul_nn(d, a.data(), b.data(), c.data(), {});
    if (form == Form::tn) backend.matmul_tn(d, a.data(), b.data(), c.data(), {});
    benchmark::ClobberMemory();
  }
  report_flops(state, 2.0 * static_cast<double>(d.M * d.N * d.K));
}

// One token (M = 1) is limited by reading the weight, a prompt by arithmetic: both rates are reported.
void matmul_weight(State& state, Backend& backend, DType dtype, MatmulDims d) {
  const std::vector<float> a = random_floats(d.M * d.K), w = random_floats(d.N * d.K);
  std::vector<std::byte> packed(static_cast<size_t>(d.N * row_bytes(dtype, d.K)));
  backend.quantize(dtype, d.N, d.K, w.data(), nullptr, packed.data());
  std::vector<float> c(static_cast<size_t>(d.M * d.N));
  for (auto _ : state) {
    backend.matmul_weight(d, a.data(), {dtype, packed.data()}, c.data(), {});
    benchmark::ClobberMemory();
  }
  report_flops(state, 2.0 * static_cast<double>(d.M * d.N * d.K));
  report_bytes(state, static_cast<double>(packed.size()));
}

// A whole sequence of T tokens; FLOPS count the causal half of both products.
void attention(State& state, Backend& backend, int64_t T, bool backward) {
  const AttentionDims d{.B = 1,
                        .Tq = T,
                        .Tk = T,
                        .H = 12,
                        .G = 4,
                        .D = 64,
                        .q_stride = 768,
                        .kv_stride = 256,
                        .kv_batch_stride = T * 256,
                        .scale = 0.125f};
  const std::vector<float> q = random_floats(T * 768), k = random_floats(T * 256), v = random_floats(T * 256);
  const std::vector<float> dO = random_floats(T * 768);
  std::vector<float> o(q.size()), lse(static_cast<size_t>(d.H * T)), dq(q.size()), dk(k.size()), dv(v.size());
  backend.attention(d, q.data(), k.data(), v.data(), o.data(), lse.data());
  for (auto _ : state) {
    if (backward) {
      backend.attention_backward(d, {q.data(), k.data(), v.data(), o.data(), lse.data()}, dO.data(),
                                 {dq.data(), dk.data(), dv.data()});
    } else {
      backend.attention(d, q.data(), k.data(), v.data(), o.data(), lse.data());
    }
    benchmark::ClobberMemory();
  }
  const double product = static_cast<double>(d.H * d.D) * static_cast<double>(T) * static_cast<double>(T + 1);
  report_flops(state, product * (backward ? 5 : 2));
}

void rms_norm(State& state, Backend& backend, int64_t M, int64_t C) {
  const std::vector<float> x = random_floats(M * C), w = random_floats(C);
  std::vector<float> y(x.size()), r(static_cast<size_t>(M));
  for (auto _ : state) {
    backend.rms_norm(M, C, 1e-6f, x.data(), w.data(), y.data(), r.data());
    benchmark::ClobberMemory();
  }
  report_bytes(state, 8.0 * static_cast<double>(M * C));
}

void rms_norm_backward(State& state, Backend& backend, int64_t M, int64_t C) {
  const std::vector<float> x = random_floats(M * C), w = random_floats(C), dy = random_floats(M * C);
  std::vector<float> y(x.size()), r(static_cast<size_t>(M)), dx(x.size()), dw(w.size());
  backend.rms_norm(M, C, 1e-6f, x.data(), w.data(), y.data(), r.data());
  for (auto _ : state) {
    backend.rms_norm_backward(M, C, {x.data(), w.data(), r.data()}, dy.data(), {dx.data(), false},
                              {dw.data(), false});
    benchmark::ClobberMemory();
  }
  report_bytes(state, 12.0 * static_cast<double>(M * C));
}

void swiglu(State& state, Backend& backend, int64_t n) {
  const std::vector<float> g = random_floats(n), u = random_floats(n);
  std::vector<float> y(g.size());
  for (auto _ : state) {
    backend.swiglu(n, g.data(), u.data(), y.data());
    benchmark::ClobberMemory();
  }
  report_bytes(state, 12.0 * static_cast<double>(n));
}

void adamw(State& state, Backend& backend, int64_t n) {
  const AdamWStep step{.lr = 1e-4f,
                       .beta1 = 0.9f,
                       .beta2 = 0.95f,
                       .eps = 1e-8f,
                       .weight_decay = 0.1f,
                       .correction1 = 0.1f,
                       .correction2 = 0.05f,
                       .grad_scale = 1.0f};
  const std::vector<float> grad = random_floats(n);
  std::vector<float> p = random_floats(n), m(p.size()), v(p.size());
  for (auto _ : state) {
    backend.adamw(n, step, grad.data(), p.data(), m.data(), v.data());
    benchmark::ClobberMemory();
  }
  report_bytes(state, 28.0 * static_cast<double>(n));  // reads four arrays, writes three
}

std::string shape_name(MatmulDims d) {
  return std::to_string(d.M) + "x" + std::to_string(d.N) + "x" + std::to_string(d.K);
}

void register_products(Backend& backend, const std::string& isa) {
  const auto add = [&](const std::string& operation, Form form, MatmulDims d) {
    benchmark::RegisterBenchmark((operation + "/" + isa + "/" + shape_name(d)).c_str(), [&backend, form,
                                                                                         d](State& state) {
      matmul(state, backend, form, d);
    })->UseRealTime();
  };
  constexpr int64_t rows = 1024;  // tokens of a training batch
  add("matmul_nt", Form::nt, {rows, 768, 768});
  add("matmul_nt", Form::nt, {rows, 2048, 768});
  add("matmul_nt", Form::nt, {rows, 768, 2048});
  add("matmul_nt", Form::nt, {1, 2048, 768});
  add("matmul_nn", Form::nn, {rows, 768, 2048});
  add("matmul_tn", Form::tn, {2048, 768, rows});
}

void register_quantised_products(Backend& backend, const std::string& isa) {
  for (DType dtype : {DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::BF16}) {
    for (int64_t M : {1, 128}) {
      const MatmulDims d{M, 2048, 768};
      const std::string name =
          "matmul_weight/" + isa + "/" + std::string(dtype_info(dtype).name) + "/" + shape_name(d);
      benchmark::RegisterBenchmark(name.c_str(), [&backend, dtype, d](State& state) {
        matmul_weight(state, backend, dtype, d);
      })->UseRealTime();
    }
  }
}

void register_others(Backend& backend, const std::string& isa) {
  const auto add = [&](const std::string& operation, const std::string& shape, auto run) {
    benchmark::RegisterBenchmark((operation + "/" + isa + "/" + shape).c_str(), run)->UseRealTime();
  };
  for (int64_t T : {256, 1024}) {
    const std::string shape = std::to_string(T) + "_tokens";
    add("attention", shape, [&backend, T](State& state) { attention(state, backend, T, false); });
    add("attention_backward", shape, [&backend, T](State& state) { attention(state, backend, T, true); });
  }
  add("rms_norm", "1024x768", [&backend](State& state) { rms_norm(state, backend, 1024, 768); });
  add("rms_norm_backward", "1024x768",
      [&backend](State& state) { rms_norm_backward(state, backend, 1024, 768); });
  add("swiglu", "1024x2048", [&backend](State& state) { swiglu(state, backend, 1024 * 2048); });
  add("adamw", "4M", [&backend](State& state) { adamw(state, backend, int64_t{4} << 20); });
}

}  // namespace
}  // namespace gladius

int main(int argc, char** argv) {
  const char* threads = std::getenv("GLADIUS_BENCH_THREADS");
  const int count = threads ? std::max(1, std::atoi(threads)) : 1;
  std::vector<std::unique_ptr<gladius::Backend>> backends;
  for (const gladius::cpu::Isa& isa : gladius::cpu::cpu_isas()) {
    if (!isa.runnable) continue;
    backends.push_back(gladius::make_cpu_backend(count, isa.name));
    gladius::register_products(*backends.back(), isa.name);
    gladius::register_quantised_products(*backends.back(), isa.name);
    gladius::register_others(*backends.back(), isa.name);
  }
  if (!gladius::onednn_version().empty()) {
    backends.push_back(gladius::make_onednn_backend(count));
    gladius::register_products(*backends.back(), "onednn");
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
