#include "train/optimizer.h"

#include <cmath>

namespace gladius {

void validate(const AdamWOptions& o) {
  const auto in_unit = [](double x) { return x >= 0 && x < 1; };
  if (!in_unit(o.beta1) || !in_unit(o.beta2))
    fail("AdamW's betas {} and {} are not in [0, 1)", o.beta1, o.beta2);
  if (!(o.eps > 0)) fail("AdamW's epsilon {} is not positive", o.eps);
  if (!(o.weight_decay >= 0)) fail("the weight decay {} is negative", o.weight_decay);
  if (!(o.clip >= 0)) fail("the clipping norm {} is negative", o.clip);
}

AdamW::AdamW(AdamWOptions options, const Model& model, Context& ctx) : options_(options) {
  validate(options);
  for (const Tensor& weight : model.weights) {
    for (std::vector<Tensor>* moments : {&m_, &v_}) {
      moments->push_back(ctx.empty(weight.shape()));
      ctx.backend.fill(weight.shape().elements(), 0.0f, moments->back().f32());
    }
  }
}

double AdamW::gradient_norm(Context& ctx, const Model& model) const {
  double sum = 0;
  for (const Tensor& weight : model.weights) {
    sum += ctx.backend.sum_of_squares(weight.shape().elements(), weight.grad());
  }
  return std::sqrt(sum);
}

std::optional<std::string> AdamW::first_not_finite(Context& ctx, const Model& model) const {
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const Tensor& weight = model.weights[i];
    if (!std::isfinite(ctx.backend.sum_of_squares(weight.shape().elements(), weight.grad()))) {
      return model.specs[i].gguf_name;
    }
  }
  return std::nullopt;
}

void AdamW::step(Context& ctx, Model& model, double learning_rate, double gradient_norm) {
  ++steps_;
  const bool clips = options_.clip > 0 && gradient_norm > options_.clip;
  AdamWStep step{.lr = static_cast<float>(learning_rate),
                 .beta1 = static_cast<float>(options_.beta1),
                 .beta2 = static_cast<float>(options_.beta2),
                 .eps = static_cast<float>(options_.eps),
                 .weight_decay = 0,
                 .correction1 = static_cast<float>(1 - std::pow(options_.beta1, static_cast<double>(steps_))),
                 .correction2 = static_cast<float>(1 - std::pow(options_.beta2, static_cast<double>(steps_))),
                 .grad_scale = clips ? static_cast<float>(options_.clip / gradient_norm) : 1.0f};
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const Tensor& weight = model.weights[i];
    const bool is_norm = model.specs[i].init == Init::ones;
    step.weight_decay = is_norm ? 0.0f : static_cast<float>(options_.weight_decay);
    ctx.backend.adamw(weight.shape().elements(), step, weight.grad(), weight.f32(), m_[i].f32(), v_[i].f32());
    weight.reset_grad();
  }
}

}  // namespace gladius
