// AdamW over a model's parameters, with gradient clipping.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/context.h"
#include "model/model.h"

namespace gladius {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // decoupled; of matrices only, norms do not decay
  double clip = 1.0;          // the gradient's norm is scaled down to this; 0: never
  bool operator==(const AdamWOptions&) const = default;
};

// Throws Error naming the option.
void validate(const AdamWOptions& options);

class AdamW {
 public:
  // Moments start at zero. The model's weights must have gradients.
  AdamW(AdamWOptions options, const Model& model, Context& ctx);

  // Norm of all gradients together: the square root of the sums of squares, added in the order of the
  // parameter table.
  double gradient_norm(Context& ctx, const Model& model) const;
  // The first parameter whose gradient holds a value that is not finite.
  std::optional<std::string> first_not_finite(Context& ctx, const Model& model) const;
  // One update of every weight with the gradients scaled to the clipping norm; then the gradients start anew.
  void step(Context& ctx, Model& model, double learning_rate, double gradient_norm);

  int64_t steps_done() const { return steps_; }
  void set_steps_done(int64_t steps) { steps_ = steps; }
  const std::vector<Tensor>& first_moments() const { return m_; }   // as model.weights
  const std::vector<Tensor>& second_moments() const { return v_; }  // as model.weights

 private:
  AdamWOptions options_;
  std::vector<Tensor> m_, v_;
  int64_t steps_ = 0;
};

}  // namespace gladius
