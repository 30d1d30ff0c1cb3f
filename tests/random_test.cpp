// Philox against its authors' known answers, and the distributions made from it against their definitions.
#include "engine/random.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

using gladius::philox4x32;
using gladius::Random;
using gladius::stream_of;
using Words = std::array<uint32_t, 4>;

namespace {

std::vector<float> normals(uint64_t seed, uint64_t stream, int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  Random(seed, stream).normal(0, n, 0.0f, 1.0f, values.data());
  return values;
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// Largest distance between an empirical distribution and the given one (Kolmogorov 1933).
template <class Cdf>
double kolmogorov(std::vector<double> values, Cdf cdf) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  double most = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double p = cdf(values[i]), below = static_cast<double>(i) / n;
    most = std::max({most, std::fabs(p - below), std::fabs(p - below - 1 / n)});
  }
  return most;
}

// The distance that a right distribution exceeds with a probability of about 2 exp(-2 * 3^2) = 3e-8.
double kolmogorov_limit(size_t n) { return 3.0 / std::sqrt(static_cast<double>(n)); }

}  // namespace

TEST_CASE("philox4x32-10 gives the known answers of the Random123 distribution") {  // its file kat_vectors
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a value depends on seed, stream and index alone") {
  const std::vector<float> whole = normals(7, 3, 1000);
  std::vector<float> pieces(1000);
  const Random random(7, 3);
  for (const int64_t begin : {900, 0, 333, 64, 1}) {  // any order, any piece, overlapping
    const int64_t n = std::min<int64_t>(1000 - begin, 617);
    random.normal(static_cast<uint64_t>(begin), n, 0.0f, 1.0f, pieces.data() + begin);
  }
  CHECK(pieces == whole);
  CHECK(random.bits(5) == Random(7, 3).bits(5));

  // Each of the 192 bits of (seed, stream, index) matters.
  std::set<uint64_t> seen{Random(0, 0).bits(0)};
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t one = uint64_t{1} << bit;
    seen.insert({Random(one, 0).bits(0), Random(0, one).bits(0), Random(0, 0).bits(one)});
  }
  CHECK(seen.size() == 1 + 3 * 64);
}

TEST_CASE("uniform numbers are uniform on [0, 1)") {
  const Random random(11, 0);
  std::vector<double> values(200000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = random.uniform(i);
  CHECK(*std::min_element(values.begin(), values.end()) >= 0.0);
  CHECK(*std::max_element(values.begin(), values.end()) < 1.0);
  CHECK(kolmogorov(values, [](double x) { return x; }) < kolmogorov_limit(values.size()));

  // Neighbours are independent: the covariance of n pairs of uniforms has deviation 1/(12 sqrt(n)).
  const auto n = static_cast<double>(values.size() - 1);
  double covariance = 0;
  for (size_t i = 0; i + 1 < values.size(); ++i) covariance += (values[i] - 0.5) * (values[i + 1] - 0.5) / n;
  CHECK(std::fabs(covariance) < 6.0 / (12.0 * std::sqrt(n)));
}

TEST_CASE("below() stays below its bound and hits every value equally often") {
  const Random random(1, 2);
  constexpr uint64_t kBound = 7;
  constexpr int kDraws = 70000;
  std::array<int, kBound> counts{};
  for (uint64_t i = 0; i < kDraws; ++i) {
    const uint64_t value = random.below(i, kBound);
    REQUIRE(value < kBound);
    ++counts[value];
  }
  const double p = 1.0 / kBound, deviation = std::sqrt(kDraws * p * (1 - p));
  for (const int count : counts) CHECK(std::fabs(count - kDraws * p) < 6 * deviation);

  CHECK(random.below(3, 1) == 0);
  bool upper_half = false;
  for (uint64_t i = 0; i < 64; ++i) upper_half |= random.below(i, ~uint64_t{0}) >> 63 != 0;
  CHECK(upper_half);
}

TEST_CASE("normal numbers have the normal distribution's shape and moments") {
  constexpr int64_t kCount = 400000;
  const std::vector<float> values = normals(42, stream_of("token_embd.weight"), kCount);
  const auto n = static_cast<double>(kCount);
  std::array<double, 5> moments{};
  for (const double x : values)
    for (size_t k = 1; k <= 4; ++k) moments[k] += std::pow(x, static_cast<double>(k)) / n;

  // The mean of x^k over n draws deviates by sqrt((E x^2k - (E x^k)^2) / n); E x^2, x^4, x^6, x^8 = 1, 3, 15,
  // 105.
  CHECK(std::fabs(moments[1]) < 6 * std::sqrt(1 / n));
  CHECK(std::fabs(moments[2] - 1) < 6 * std::sqrt(2 / n));
  CHECK(std::fabs(moments[3]) < 6 * std::sqrt(15 / n));
  CHECK(std::fabs(moments[4] - 3) < 6 * std::sqrt(96 / n));
  CHECK(kolmogorov({values.begin(), values.end()}, normal_cdf) < kolmogorov_limit(values.size()));

  std::vector<float> scaled(1000);
  Random(42, stream_of("token_embd.weight")).normal(0, 1000, 5.0f, 0.25f, scaled.data());
  for (size_t i = 0; i < scaled.size(); ++i)
    CHECK(scaled[i] == doctest::Approx(5.0 + 0.25 * values[i]).epsilon(1e-6));
}

TEST_CASE("streams of different names are unrelated") {
  const std::vector<float> a = normals(42, stream_of("blk.0.attn_q.weight"), 100000);
  const std::vector<float> b = normals(42, stream_of("blk.0.attn_k.weight"), 100000);
  double correlation = 0;
  for (size_t i = 0; i < a.size(); ++i)
    correlation += double{a[i]} * double{b[i]} / static_cast<double>(a.size());
  CHECK(std::fabs(correlation) < 6 / std::sqrt(static_cast<double>(a.size())));
  CHECK(stream_of("") == 0xcbf29ce484222325);   // FNV-1a, 64 bits: the offset basis,
  CHECK(stream_of("a") == 0xaf63dc4c8601ec8c);  // and the published vectors of its authors
  CHECK(stream_of("foobar") == 0x85944171f73967e8);
}
