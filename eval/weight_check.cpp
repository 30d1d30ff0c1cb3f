#include "eval/weight_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "export/quantize.h"
#include "kernels/parallel.h"

namespace gladius {
namespace {

constexpr int64_t kPieceElements = 1 << 20;  // of a tensor that are compared at a time
constexpr double kHalfLeastF16 = 0x1p-25;    // what rounding to the smallest F16 numbers is off by

// Of a group: ||e|| <= group_limit ||x|| + sqrt(n) (peak A + least), A the largest magnitude in its block.
struct Bounds {
  DType type;
  int64_t group;       // values that share a scale
  double rms_limit;    // ||e|| / ||x|| of a tensor
  double group_limit;  // of a group
  double peak;         // what rounding the scales costs each value, as a part of A
  double least;        // and where they are near the smallest F16 numbers
};

// Symmetric, a step is A/c: sqrt(n)/2c. With a minimum it is (max - min)/c, and max - min <= sqrt(2) ||x||:
// sqrt(2n)/2c. An F16 scale adds 2^-11, rounded up to 0.001 here. Q4_K and Q5_K, n = 32: half of 1/63 of the
// largest minimum (A) and of c times the largest step (2A/c) are A/126 + 2A/126 = A/42 for each of 256
// values, 16/42 of the norm. Q6_K, n = 16: half of 1/128 of the largest step (A/32), 32 times, A/256 and
// 16/256.
constexpr double kK = 1.0 / 42, kQ6 = 1.0 / 256;
constexpr std::array<Bounds, 11> kBounds = {{
    {DType::F32, 32, 0, 0, 0, 0},
    {DType::F16, 32, 0x1p-11, 0x1p-11, 0, kHalfLeastF16},
    {DType::BF16, 32, 0x1p-8, 0x1p-8, 0, 0},
    {DType::Q8_0, 32, 0.0233, 1, 0, 127 * kHalfLeastF16},  // sqrt(32) / 254
    {DType::Q5_0, 32, 0.178, 1, 0, 16 * kHalfLeastF16},    // sqrt(32) / 32
    {DType::Q5_1, 32, 0.131, 1, 0, 32 * kHalfLeastF16},    // 8 / 62
    {DType::Q4_0, 32, 0.355, 1, 0, 8 * kHalfLeastF16},     // sqrt(32) / 16
    {DType::Q4_1, 32, 0.268, 1, 0, 16 * kHalfLeastF16},    // 8 / 30
    {DType::Q6_K, 16, 0.126, 1, kQ6, 32 * 128 * kHalfLeastF16},
    {DType::Q5_K, 32, 0.511, 1, kK, 32 * 63 * kHalfLeastF16},
    {DType::Q4_K, 32, 0.649, 1, kK, 16 * 63 * kHalfLeastF16},
}};

const Bounds& bounds_of(DType type) {
  for (const Bounds& bounds : kBounds)
    if (bounds.type == type) return bounds;
  fail("weights of type {} cannot be compared", dtype_info(type).name);
}

struct GroupFault {
  int64_t row = -1, column = 0, count = 0;  // row < 0: none
  double rms = 0;

  std::string place() const {
    return fmt::format("row {}, columns {} to {}", row, column, column + count - 1);
  }
};

struct Row {
  double difference = 0, norm = 0;  // squared
  GroupFault fault;                 // the first
};

// What a tensor is measured by: the coarser type's bounds, and the finer one's own distance from the truth.
struct Measure {
  const Bounds* bounds;
  double limit, group_limit;
  bool swapped;  // the tested values stand for the truth
  Measure(DType base, DType tested, bool importance) {
    const Bounds &b = bounds_of(base), &t = bounds_of(tested);
    swapped = b.rms_limit > t.rms_limit;
    bounds = swapped ? &b : &t;
    const double finer = swapped ? t.rms_limit : b.rms_limit;
    limit = (importance ? bounds->group_limit : bounds->rms_limit) + finer;
    group_limit = bounds->group_limit + finer;
  }
};

Row compare_row(const Measure& m, int64_t K, const float* x, const float* y) {
  const Bounds& bounds = *m.bounds;
  const int64_t block = std::max(bounds.group, dtype_info(bounds.type).block_size);
  Row row;
  for (int64_t begin = 0; begin < K; begin += block) {
    const int64_t end = std::min(K, begin + block);
    float largest = 0;
    for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(x[k]));
    const double each = bounds.peak * static_cast<double>(largest) + bounds.least;
    for (int64_t k = begin; k < end; k += bounds.group) {
      const int64_t n = std::min(bounds.group, end - k);
      double difference = 0, norm = 0;
      for (int64_t i = k; i < k + n; ++i) {
        const double d = static_cast<double>(y[i]) - static_cast<double>(x[i]);
        difference += d * d;
        norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      }
      row.difference += difference;
      row.norm += norm;
      const double limit = m.group_limit * std::sqrt(norm) + each * std::sqrt(static_cast<double>(n));
      if (row.fault.row < 0 && !(std::sqrt(difference) <= limit))
        row.fault = {0, k, n, std::sqrt(difference / norm)};
    }
  }
  return row;
}

// A tensor's rows as floats and its bytes, piece by piece.
class Rows {
 public:
  Rows(Context& ctx, const Tensor& weight) : ctx_(ctx), weight_(weight) {}

  DType dtype() const { return weight_.dtype(); }
  int64_t columns() const { return weight_.shape()[-1]; }
  std::span<const std::byte> bytes(int64_t first, int64_t last) const {
    const auto row = static_cast<size_t>(row_bytes(weight_.dtype(), columns()));
    return {weight_.data() + static_cast<size_t>(first) * row, static_cast<size_t>(last - first) * row};
  }
  const float* floats(int64_t first, int64_t last) {
    const std::byte* data = bytes(first, last).data();
    if (weight_.dtype() == DType::F32) return reinterpret_cast<const float*>(data);
    const auto count = static_cast<size_t>((last - first) * columns());
    floats_.resize(std::max(floats_.size(), count));
    ctx_.backend.dequantize(weight_.dtype(), last - first, columns(), data, floats_.data());
    return floats_.data();
  }

 private:
  Context& ctx_;
  const Tensor& weight_;
  std::vector<float> floats_;
};

std::string percent(double share) { return fmt::format("{:.4g} %", 100 * share); }

std::string limit_text(DType type, double limit) {
  const std::string_view name = dtype_info(type).name;
  return limit == 0 ? fmt::format("{} should have the same values", name)
                    : fmt::format("{} should be under {}", name, percent(limit));
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

// "row 3, columns 32 to 63 …" for the first byte that differs; empty: none does.
std::string first_difference(std::span<const std::byte> wanted, std::span<const std::byte> is, DType held,
                             int64_t K, int64_t first_row) {
  if (same_bytes(wanted, is)) return {};
  const DTypeInfo& info = dtype_info(held);
  const auto at = std::mismatch(wanted.begin(), wanted.end(), is.begin(), is.end()).first - wanted.begin();
  const int64_t row = at / row_bytes(held, K);
  const int64_t column = at % row_bytes(held, K) / info.block_bytes * info.block_size;
  return fmt::format("row {}, columns {} to {} are not what converting the base's gives", first_row + row,
                     column, column + info.block_size - 1);
}

// What is found on the way through a tensor's pieces.
class Comparison {
 public:
  // type: of the values in the file; expected: null where it is not known how they were made.
  Comparison(Context& ctx, const Tensor& base, const Tensor& tested, DType type, bool importance,
             const Tensor* expected)
      : ctx_(ctx), measure_(base.dtype(), type, importance), base_(ctx, base), tested_(ctx, tested) {
    if (expected) expected_.emplace(ctx, *expected);
    check_ = {{}, base.dtype(), type, 0, measure_.limit, base.dtype() == tested.dtype(), {}};
  }

  void add(int64_t first, int64_t last) {
    add_values(first, last);
    const auto is = tested_.bytes(first, last);
    if (expected_ && bits_.empty())
      bits_ = first_difference(expected_->bytes(first, last), is, tested_.dtype(), base_.columns(), first);
    check_.same = check_.same && same_bytes(base_.bytes(first, last), is);
  }

  WeightCheck result() {
    const DType type = measure_.bounds->type;
    check_.rms = difference_ == 0 ? 0 : std::sqrt(difference_ / norm_);
    if (!(check_.rms <= check_.limit)) {
      check_.fault =
          fmt::format("differs by {} RMS, {}", percent(check_.rms), limit_text(type, check_.limit));
      if (group_.row >= 0) check_.fault += "; first in " + group_.place();
    } else if (group_.row >= 0) {
      check_.fault = fmt::format("differs by {} RMS in {}, {} there", percent(group_.rms), group_.place(),
                                 limit_text(type, measure_.group_limit));
    } else {
      check_.fault = bits_;
    }
    return check_;
  }

 private:
  void add_values(int64_t first, int64_t last) {
    const int64_t K = base_.columns();
    const float *x = base_.floats(first, last), *y = tested_.floats(first, last);
    if (measure_.swapped) std::swap(x, y);
    std::vector<Row> rows(static_cast<size_t>(last - first));
    parallel_ranges(ctx_.backend.threads(), last - first, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        rows[static_cast<size_t>(r)] = compare_row(measure_, K, x + r * K, y + r * K);
    });
    for (size_t r = 0; r < rows.size(); ++r) {
      difference_ += rows[r].difference, norm_ += rows[r].norm;
      if (group_.row >= 0 || rows[r].fault.row < 0) continue;
      group_ = rows[r].fault;
      group_.row = first + static_cast<int64_t>(r);
    }
  }

  Context& ctx_;
  Measure measure_;
  Rows base_, tested_;
  std::optional<Rows> expected_;
  WeightCheck check_;
  double difference_ = 0, norm_ = 0;  // squared
  GroupFault group_;
  std::string bits_;  // where they are not those of the conversion
};

WeightCheck check_weight(const ParamSpec& spec, Comparison comparison) {
  const int64_t N = spec.shape.rows(), rows = std::max<int64_t>(1, kPieceElements / spec.shape[-1]);
  for (int64_t first = 0; first < N; first += rows) comparison.add(first, std::min(N, first + rows));
  WeightCheck check = comparison.result();
  check.name = spec.gguf_name;
  return check;
}

// A weight as a reader gets it from a file that holds it as `stored`, in the type `held`.
Tensor expected_weight(Context& ctx, const Tensor& base, DType stored, DType held,
                       const std::vector<float>& importance) {
  if (base.dtype() == held && stored == held) return base;
  const int64_t rows = base.shape().rows(), K = base.shape()[-1];
  Tensor floats = base;
  if (base.dtype() != DType::F32) {
    floats = ctx.empty(base.shape());
    ctx.backend.dequantize(base.dtype(), rows, K, base.data(), floats.f32());
  }
  if (stored == DType::F32) return floats;
  const Tensor converted = ctx.empty(base.shape(), stored);
  ctx.backend.quantize(stored, rows, K, floats.f32(), importance.empty() ? nullptr : importance.data(),
                       converted.data());
  if (stored == held) return converted;
  floats = ctx.empty(base.shape());
  ctx.backend.dequantize(stored, rows, K, converted.data(), floats.f32());
  return floats;
}

}  // namespace

double rms_limit(DType type) { return bounds_of(type).rms_limit; }

Expected expected_model(Context& ctx, const Model& base, const Model& read, const Conversion& conversion,
                        const WeightProgress& progress) {
  Expected expected{{base.config, base.specs, {}}, conversion.stored};
  const size_t n = base.specs.size();
  for (size_t k = 0; k < n; ++k) {
    if (progress) progress(static_cast<int64_t>(k), static_cast<int64_t>(n));
    const DType held = read.weights[k].dtype();
    const ParamSpec& spec = base.specs[k];
    expected.model.weights.push_back(
        expected_weight(ctx, base.weights[k], conversion.stored.value_or(held), held,
                        column_importance(conversion.importance, spec.gguf_name, spec.shape[-1])));
  }
  return expected;
}

std::vector<WeightCheck> check_weights(Context& ctx, const Model& base, const Model& tested, bool importance,
                                       const Expected* expected) {
  std::vector<WeightCheck> checks;
  for (size_t k = 0; k < base.specs.size(); ++k) {
    const DType held = tested.weights[k].dtype();
    checks.push_back(check_weight(
        base.specs[k],
        Comparison(ctx, base.weights[k], tested.weights[k], expected ? expected->stored.value_or(held) : held,
                   importance, expected ? &expected->model.weights[k] : nullptr)));
  }
  return checks;
}

std::vector<WeightCheck> faults_of(const std::vector<WeightCheck>& checks) {
  std::vector<WeightCheck> faults;
  std::copy_if(checks.begin(), checks.end(), std::back_inserter(faults),
               [](const WeightCheck& check) { return !check.fault.empty(); });
  return faults;
}

}  // namespace gladius
