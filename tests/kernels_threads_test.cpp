// The same bits at any number of threads, for every operation, on shapes of many tasks.
#include <sched.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "kernels/cpu/cpu_blocking.h"
#include "kernels/parallel.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// An operation that fills the arrays it is given.
struct Operation {
  const char* name;
  std::vector<int64_t> sizes;  // of its outputs
  std::function<void(Backend&, std::vector<Array>&)> run;
};

void check_operation(const std::string& isa, const Operation& operation) {
  CAPTURE(operation.name);
  const auto outputs = [&](int threads) {
    std::vector<Array> arrays;
    for (const int64_t size : operation.sizes) arrays.emplace_back(size, 0, 0.25f);
    operation.run(*make_cpu_backend(threads, isa), arrays);
    return arrays;
  };
  const std::vector<Array> one = outputs(1);
  for (const int threads : {2, 3, 4}) {
    CAPTURE(threads);
    const std::vector<Array> several = outputs(threads);
    for (size_t i = 0; i < one.size(); ++i) CHECK(several[i].same_bits(one[i]));
  }
}

std::vector<Operation> matrix_operations(const Array& a, const Array& b) {
  constexpr int64_t few = 8;
  std::vector<Operation> list;
  const auto product = [&list](const char* name, MatmulDims d, auto call) {
    // Or it would run on one thread.
    CHECK((d.M * d.N * d.K >= cpu::gemm_serial_below || d.N * d.K >= cpu::gemm_serial_below_b));
    list.push_back(
        {name, {d.M * d.N}, [=](Backend& backend, std::vector<Array>& out) { call(backend, d, out[0]); }});
  };
  const float *A = a, *B = b;
  // The second: rows that are one group where threads have less; the third and fourth: several blocks of the
  // summed dimension, and lines of A read in place; the last: lines that are packed.
  for (const MatmulDims dims : {MatmulDims{150, 170, 300}, MatmulDims{520, 64, 420}, MatmulDims{80, 50, 800},
                                MatmulDims{250, 70, 600}, MatmulDims{1030, 20, 50}}) {
    product("matmul_nt", dims,
            [=](Backend& x, MatmulDims d, float* C) { x.matmul_nt(d, A, B, C, {true, A}); });
    product("matmul_nn", dims, [=](Backend& x, MatmulDims d, float* C) { x.matmul_nn(d, A, B, C, {}); });
    product("matmul_tn", dims, [=](Backend& x, MatmulDims d, float* C) { x.matmul_tn(d, A, B, C, {}); });
  }
  product("matmul_nt in bf16", {149, 170, 301, Precision::bf16},
          [=](Backend& x, MatmulDims d, float* C) { x.matmul_nt(d, A, B, C, {true, A}); });
  product("matmul_tn in bf16", {149, 170, 301, Precision::bf16},
          [=](Backend& x, MatmulDims d, float* C) { x.matmul_tn(d, A, B, C, {}); });
  // So few rows that two threads share columns: with AVX-512 the last ones are a narrow panel with one only.
  product("matmul_tn with a narrow panel", {4, 66, 2100},
          [=](Backend& x, MatmulDims d, float* C) { x.matmul_tn(d, A, B, C, {true, A}); });
  product("one row", {1, 1200, 180},
          [=](Backend& x, MatmulDims d, float* C) { x.matmul_nn(d, A, B, C, {}); });
  static_assert(few <= cpu::few_rows);
  product("few rows", {few, 800, 85},
          [=](Backend& x, MatmulDims d, float* C) { x.matmul_nt(d, A, B, C, {}); });
  return list;
}

std::vector<Operation> attention_operations(const Array& a, const Array& b) {
  const int64_t T = small_tests() ? 70 : 150;
  const AttentionDims d{2, T, T, 4, 2, 16, 64, 32, T * 32, 0.25f};
  const float *A = a, *B = b;
  const int64_t b_size = b.size(), cache_floats = 9 * 2 * kv_block_tokens * 16;
  return {
      {"attention",
       {2 * T * 64, 2 * T * 4},
       [=](Backend& x, std::vector<Array>& out) { x.attention(d, A, B, B + 7, out[0], out[1]); }},
      {"attention_backward",
       {2 * T * 64, 2 * T * 4, 2 * T * 64, 2 * T * 32, 2 * T * 32},
       [=](Backend& x, std::vector<Array>& out) {
         x.attention(d, A, B, B + 7, out[0], out[1]);
         x.attention_backward(d, {A, B, B + 7, out[0], out[1]}, A + 5, {out[2], out[3], out[4]});
       }},
      {"cached_attention", {3 * 64, cache_floats, cache_floats}, [=](Backend& x, std::vector<Array>& out) {
         const std::array<int32_t, 9> blocks = {3, 1, 2, 0, 5, 7, 6, 4, 8};
         const std::array sequences = {SequenceRows{0, 1, 8 * kv_block_tokens, blocks.data()},
                                       SequenceRows{1, 2, 20, blocks.data() + 8}};
         for (int i : {1, 2})
           for (int64_t j = 0; j < cache_floats; ++j) out[static_cast<size_t>(i)][j] = B[j % b_size];
         const CachedAttentionDims dims{4, 2, 16, 0.25f};
         x.append_to_cache(dims, sequences, B, B + 7, {DType::F32, out[1], out[2]});
         x.cached_attention(dims, sequences, A, {DType::F32, out[1], out[2]}, out[0]);
       }}};
}

std::vector<Operation> row_operations(const Array& a, const Array& b) {
  const float *A = a, *B = b;
  const int64_t M = 120, C = 300;
  std::vector<int32_t> tokens;
  for (int64_t m = 0; m < M; ++m) tokens.push_back(static_cast<int32_t>(m * 7 % 11));
  return {{"rms_norm",
           {M * C, M},
           [=](Backend& x, std::vector<Array>& out) { x.rms_norm(M, C, 1e-6f, A, B, out[0], out[1]); }},
          {"rms_norm_backward",
           {M * C, C},
           [=](Backend& x, std::vector<Array>& out) {
             x.rms_norm_backward(M, C, {A, B, B + 400}, A + 3, {out[0], true}, {out[1], true});
           }},
          {"rope",
           {M * C},
           [=](Backend& x, std::vector<Array>& out) {
             x.rope({M, 5, 60, C}, tokens.data(), B, B + 400, RopeDirection::forward, A, out[0]);
           }},
          {"softmax", {M * C}, [=](Backend& x, std::vector<Array>& out) { x.softmax(M, C, A, out[0]); }},
          {"softmax_backward",
           {M * C},
           [=](Backend& x, std::vector<Array>& out) { x.softmax_backward(M, C, A, A + 9, out[0]); }},
          {"embedding_backward",
           {11 * C},
           [=](Backend& x, std::vector<Array>& out) {
             x.embedding_backward({M, C, 11}, tokens.data(), A, out[0], true);
           }},
          {"linear_cross_entropy", {50 * 120, M, M * 40, 120 * 40}, [=](Backend& x, std::vector<Array>& out) {
             x.linear_cross_entropy({M, 40, 120}, A, B, tokens.data(), {out[0], 50}, out[1],
                                    {0.1f, out[2], {out[3], true}});
           }}};
}

std::vector<Operation> element_operations(const Array& a, const Array& b) {
  const float *A = a, *B = b;
  const int64_t n = a.size();
  return {{"swiglu", {n}, [=](Backend& x, std::vector<Array>& out) { x.swiglu(n, A, B, out[0]); }},
          {"swiglu_backward",
           {n, n},
           [=](Backend& x, std::vector<Array>& out) { x.swiglu_backward(n, A, B, B, out[0], out[1]); }},
          {"adamw",
           {n, n, n},
           [=](Backend& x, std::vector<Array>& out) {
             x.adamw(n, {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.1f, 0.05f, 1.0f}, A, out[0], out[1], out[2]);
           }},
          {"add", {n}, [=](Backend& x, std::vector<Array>& out) { x.add(n, A, B, out[0]); }}};
}

TEST_CASE("tasks run on as many workers as are asked for, each task once") {
  for (const int threads : {1, 2, 4}) {
    CAPTURE(threads);
    std::vector<std::atomic<int>> runs(100), of_worker(static_cast<size_t>(threads));
    std::atomic<int> started = 0;
    parallel_tasks(threads, 100, [&](int64_t task, int worker) {
      ++runs[static_cast<size_t>(task)];
      // A worker's first task waits until all workers have one: they run at the same time.
      if (++of_worker[static_cast<size_t>(worker)] > 1) return;
      ++started;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (started < threads && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    });
    CHECK(started == threads);
    for (const std::atomic<int>& count : of_worker) CHECK(count > 0);
    for (const std::atomic<int>& count : runs) CHECK(count == 1);
  }
}

TEST_CASE("every operation gives the same bits at 1, 2, 3 and 4 threads") {
  Random random(1);
  const int64_t n = small_tests() ? 220000 : 250000;
  const Array a(random, n), b(random, n);
  for (const std::string& isa : float_isas()) {
    CAPTURE(isa);
    for (auto* operations : {matrix_operations, attention_operations, row_operations, element_operations})
      for (const Operation& operation : operations(a, b)) check_operation(isa, operation);
    const double one = make_cpu_backend(1, isa)->sum_of_squares(n, a);
    for (const int threads : {2, 3, 4}) CHECK(make_cpu_backend(threads, isa)->sum_of_squares(n, a) == one);
  }
}

}  // namespace

TEST_CASE("pinned threads stay where they are put") {
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  std::vector<int> processors;
  for (int cpu = 0; cpu < CPU_SETSIZE && processors.size() < 2; ++cpu)
    if (CPU_ISSET(static_cast<size_t>(cpu), &before)) processors.push_back(cpu);
  constexpr int threads = 3;  // more than there may be processors: they share
  REQUIRE(pin_threads(threads, processors));
  std::atomic<int> astray = 0;
  parallel_tasks(threads, 300, [&](int64_t, int worker) {
    if (::sched_getcpu() != processors[static_cast<size_t>(worker) % processors.size()]) ++astray;
  });
  CHECK(astray == 0);
  CHECK_FALSE(pin_threads(threads, {}));
  CHECK_FALSE(pin_threads(threads, {CPU_SETSIZE - 1}));  // there is no such processor
#pragma omp parallel num_threads(threads)
  ::sched_setaffinity(0, sizeof before, &before);
}
