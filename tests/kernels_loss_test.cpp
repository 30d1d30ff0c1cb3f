// Cross entropy fused with the LM head, against the definition in double and against its composition.
#include "kernels/reference/loss.h"
#include "tests/kernels_oracle.h"
#include "tests/kernels_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

struct LossCase {
  LossDims d;
  int64_t chunk_rows;
  bool accumulate;
  int64_t misalign;
  float range;  // of the hidden rows
};

std::vector<int32_t> random_targets(Random& random, int64_t M, int64_t V) {
  std::vector<int32_t> targets;
  for (int64_t m = 0; m < M; ++m)
    targets.push_back(random.below(4) == 0 ? -1 - static_cast<int32_t>(random.below(100))
                                           : static_cast<int32_t>(random.below(V)));
  return targets;
}

void check_loss(Backend& backend, const LossCase& c, Random& random) {
  const LossDims d = c.d;
  CAPTURE(d.M);
  CAPTURE(d.C);
  CAPTURE(d.V);
  CAPTURE(precision_name(d.precision));
  CAPTURE(c.chunk_rows);
  const Array h(random, d.M * d.C, c.misalign, -c.range, c.range), W(random, d.V * d.C, c.misalign);
  const std::vector<int32_t> targets = random_targets(random, d.M, d.V);
  const float grad_scale = 0.3f;
  Array logits(c.chunk_rows * d.V, c.misalign), losses(d.M, c.misalign, 7.0f),
      dh(d.M * d.C, c.misalign, 7.0f);
  Array dW(random, d.V * d.C, c.misalign);
  const LossOracle expected = loss_oracle(d, h, W, targets.data(), grad_scale, dW, c.accumulate);
  backend.linear_cross_entropy(d, h, W, targets.data(), {logits, c.chunk_rows}, losses,
                               {grad_scale, dh, {dW, c.accumulate}});
  check_close(losses, expected.losses);
  check_close(dh, expected.dh);
  check_close(dW, expected.dW);
  CHECK(logits.guards_intact());
  Array losses_alone(d.M, c.misalign, 7.0f);
  backend.linear_cross_entropy(d, h, W, targets.data(), {logits, c.chunk_rows}, losses_alone, {});
  CHECK(losses_alone.same_bits(losses));
}

TEST_CASE("linear cross entropy: tails of the vocabulary, chunks that divide the rows and that do not") {
  for_each_gemm([](Backend& backend) {
    Random random(1);
    for (int64_t V = 1; V <= 35; ++V) check_loss(backend, {{7, 6, V}, 3, V % 2 == 1, V % 4, 1.0f}, random);
    for (const int64_t M : {0, 1, 2, 8, 9, 20})
      for (const int64_t chunk : {1, 4, 64})
        check_loss(backend, {{M, 10, 40}, chunk, chunk == 4, 1, 1.0f}, random);
    for (const Precision precision : {Precision::fp32, Precision::bf16})
      check_loss(backend, {{30, 64, small_tests() ? 300 : 1000, precision}, 16, true, 0, 1.0f}, random);
  });
}

TEST_CASE("linear cross entropy of logits in the hundreds") {
  for_each_gemm([](Backend& backend) {
    Random random(2);
    check_loss(backend, {{12, 16, 50}, 5, false, 0, 100.0f}, random);
  });
}

TEST_CASE("linear cross entropy: rows without a target add nothing to any gradient") {
  for_each_gemm([](Backend& backend) {
    Random random(3);
    const LossDims d{6, 8, 20};
    const Array h(random, 48), W(random, 160);
    const int32_t targets[] = {-1, -100, -1, -1, -1, -1};
    Array logits(40), losses(6, 0, 7.0f), dh(48, 0, 7.0f), dW(160, 0, 7.0f);
    backend.linear_cross_entropy(d, h, W, targets, {logits, 2}, losses, {1.0f, dh, {dW, false}});
    for (const Array* zero : {&losses, &dh, &dW}) CHECK(zero->same_bits(Array(zero->size())));
  });
}

// The fused operation is the composition of a product, a row-wise loss and two products: same kernels, same
// bits when one chunk holds all rows.
TEST_CASE("linear cross entropy equals its composition") {
  for_each_gemm([](Backend& backend) {
    Random random(4);
    const LossDims d{20, 24, 45};
    const Array h(random, d.M * d.C), W(random, d.V * d.C);
    std::vector<int32_t> targets;
    for (int64_t m = 0; m < d.M; ++m) targets.push_back(static_cast<int32_t>(random.below(d.V)));
    Array logits(d.M * d.V), losses(d.M), dh(d.M * d.C), dW(d.V * d.C);
    backend.linear_cross_entropy(d, h, W, targets.data(), {logits, d.M}, losses, {0.5f, dh, {dW, false}});
    Array z(d.M * d.V), p(d.M * d.V), dh_composed(d.M * d.C), dW_composed(d.V * d.C);
    backend.matmul_nt({d.M, d.V, d.C}, h, W, z, {});
    backend.softmax(d.M, d.V, z, p);
    Expected dz(d.M * d.V);
    for (int64_t m = 0; m < d.M; ++m) {
      for (int64_t v = 0; v < d.V; ++v) {
        const double one = v == targets[m] ? 1.0 : 0.0, q = double(p[m * d.V + v]);
        dz.value[m * d.V + v] = 0.5 * (q - one);
        dz.bound[m * d.V + v] = roundings(4) * (q + one);
      }
    }
    check_close(logits, dz);  // which now hold the gradient
    backend.matmul_nn({d.M, d.C, d.V}, logits, W, dh_composed, {});
    backend.matmul_tn({d.V, d.C, d.M}, logits, h, dW_composed, {});
    CHECK(dh.same_bits(dh_composed));
    CHECK(dW.same_bits(dW_composed));
  });
}

}  // namespace
