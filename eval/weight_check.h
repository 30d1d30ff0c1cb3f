// Weights beside those that they were made from: which tensor is wrong, and where in it.
//
// A quantiser rounds each value to the nearest step of its group's range, so it is off by half a step at
// most. Of a group of n values of magnitude up to A, a step is a known part f A of that magnitude, and A <=
// ||x||: the difference e of a group, and so of a tensor, has ||e|| <= sqrt(n) f/2 ||x||. The K types' scales
// are rounded themselves, to parts of the largest in their block of 256. The constants stand in
// weight_check.cpp. Quantisers that search for better scales are closer than that on the whole, by the
// measure which they minimise, but not in every group; and with an importance matrix, a value that weighs
// nothing may end anywhere in its group's range. Still, zeros are never a better answer than theirs: so a
// group may differ by its own norm, and so may a tensor where importances were used.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "export/importance.h"
#include "kernels/backend.h"
#include "model/model.h"

namespace gladius {

// ||e|| / ||x|| that a conversion of x to the type stays below, without importances; 0: it keeps every bit.
double rms_limit(DType type);

struct WeightCheck {
  std::string name;
  DType base_type, type;
  double rms = 0;     // ||tested - base|| / ||base||
  double limit = 0;   // of rms, from the two types
  bool same = true;   // type and bits
  std::string fault;  // what is wrong, for people: "differs by 141 % RMS, Q4_K should be under 64.9 %"
};

// (tensors done, tensors in all); may be empty, may throw.
using WeightProgress = std::function<void(int64_t done, int64_t total)>;

// How a file's weights were made from the base.
struct Conversion {
  const ImportanceMatrix* importance = nullptr;
  std::optional<DType> stored{};  // the type in the file, where readers convert it (Hugging Face folders)
};

// What a reader must get from a file that holds the base, converted to the types of `read`. Shares what is
// not converted.
struct Expected {
  Model model;
  std::optional<DType> stored;
};
Expected expected_model(Context& ctx, const Model& base, const Model& read, const Conversion& conversion,
                        const WeightProgress& progress = {});

// One check for each tensor of two models with the same table of parameters, whose weights are rows, none of
// them in panels. Where the base's type is the coarser one, the tested weights stand for the truth.
// importance: a matrix of importances was used for one of the two. expected: the tested weights must have the
// very bits of these; null: it is not known how they were made.
std::vector<WeightCheck> check_weights(Context& ctx, const Model& base, const Model& tested, bool importance,
                                       const Expected* expected = nullptr);

// Those with a fault.
std::vector<WeightCheck> faults_of(const std::vector<WeightCheck>& checks);

}  // namespace gladius
