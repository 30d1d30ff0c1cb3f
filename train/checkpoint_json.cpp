#include "train/checkpoint_json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"

namespace gladius {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::string dump(const ordered_json& value, const char* what) {
  try {
    return value.dump();
  } catch (const json::exception& error) {  // a text that is not UTF-8
    fail("cannot write the {} into a checkpoint: {}", what, error.what());
  }
}

// Runs `read` on the parsed text; turns what the JSON library throws into an Error.
template <class Read>
auto parse(const std::string& text, const std::string& source, const char* what, Read&& read) {
  try {
    return read(json::parse(text));
  } catch (const json::exception& error) {
    fail("{}: the {} cannot be read: {}", source, what, error.what());
  }
}

double finite(double value, std::string_view name) {
  if (!std::isfinite(value)) fail("cannot write {} = {} into a checkpoint: it must be finite", name, value);
  return value;
}

ordered_json optional_id(const std::optional<int32_t>& id) { return id ? ordered_json(*id) : ordered_json(); }

std::optional<int32_t> read_id(const json& object, const char* name) {
  const json& value = object.at(name);
  return value.is_null() ? std::nullopt : std::optional<int32_t>(value.get<int32_t>());
}

// nlohmann converts numbers silently; a checkpoint must not change in reading.
int64_t integer(const json& object, const char* name) {
  const json& value = object.at(name);
  if (!value.is_number_integer())
    throw json::type_error::create(302, std::string(name) + " is no integer", &value);
  return value.get<int64_t>();
}

uint64_t count(const json& object, const char* name) {
  const json& value = object.at(name);
  if (!value.is_number_unsigned())
    throw json::type_error::create(302, std::string(name) + " is no count", &value);
  return value.get<uint64_t>();
}

OptionValue option_from(const json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number()) return value.get<double>();
  return value.get<std::string>();
}

}  // namespace

std::string config_to_json(const Config& c) {
  ordered_json value = {{"name", c.name},
                        {"vocab", c.vocab},
                        {"hidden", c.hidden},
                        {"intermediate", c.intermediate},
                        {"layers", c.layers},
                        {"heads", c.heads},
                        {"kv_heads", c.kv_heads},
                        {"context", c.context},
                        {"head_dim", c.head_dim},
                        {"norm_eps", finite(c.norm_eps, "norm_eps")},
                        {"rope_theta", finite(c.rope_theta, "rope_theta")},
                        {"rope_divisors", c.rope_divisors},
                        {"tied", c.tied}};
  if (c.rope_scaling) {
    value["rope_scaling"] = {{"factor", c.rope_scaling->factor},
                             {"low_freq_factor", c.rope_scaling->low_freq_factor},
                             {"high_freq_factor", c.rope_scaling->high_freq_factor},
                             {"original_context", c.rope_scaling->original_context}};
  }
  return dump(value, "configuration");
}

Config config_from_json(const std::string& text, const std::string& source) {
  Config config = parse(text, source, "configuration", [](const json& value) {
    Config c;
    c.name = value.at("name").get<std::string>();
    c.vocab = integer(value, "vocab");
    c.hidden = integer(value, "hidden");
    c.intermediate = integer(value, "intermediate");
    c.layers = integer(value, "layers");
    c.heads = integer(value, "heads");
    c.kv_heads = integer(value, "kv_heads");
    c.context = integer(value, "context");
    c.head_dim = integer(value, "head_dim");
    c.norm_eps = value.at("norm_eps").get<float>();
    c.rope_theta = value.at("rope_theta").get<float>();
    c.rope_divisors = value.at("rope_divisors").get<std::vector<float>>();
    c.tied = value.at("tied").get<bool>();
    if (const auto scaling = value.find("rope_scaling"); scaling != value.end()) {
      c.rope_scaling =
          RopeScaling{scaling->at("factor").get<float>(), scaling->at("low_freq_factor").get<float>(),
                      scaling->at("high_freq_factor").get<float>(), integer(*scaling, "original_context")};
    }
    return c;
  });
  validate(config, source);
  return config;
}

std::string vocab_to_json(const Vocab& v) {
  ordered_json texts = ordered_json::array(), scores = texts, types = texts;
  for (const Token& token : v.tokens) {
    texts.push_back(token.text);
    scores.push_back(finite(token.score, token.text));
    types.push_back(static_cast<int32_t>(token.type));
  }
  return dump({{"kind", v.kind == TokenizerKind::llama ? "llama" : "gpt2"},
               {"pre", v.pre},
               {"texts", std::move(texts)},
               {"scores", std::move(scores)},
               {"types", std::move(types)},
               {"merges", v.merges},
               {"bos", optional_id(v.bos)},
               {"eos", optional_id(v.eos)},
               {"unknown", optional_id(v.unknown)},
               {"padding", optional_id(v.padding)},
               {"end_of_generation", v.end_of_generation},
               {"add_bos", v.add_bos},
               {"add_eos", v.add_eos},
               {"add_space_prefix", v.add_space_prefix},
               {"chat_template", v.chat_template}},
              "tokenizer");
}

Vocab vocab_from_json(const std::string& text, const std::string& source) {
  Vocab vocab = parse(text, source, "tokenizer", [&](const json& value) {
    Vocab v;
    const auto kind = value.at("kind").get<std::string>();
    if (kind != "llama" && kind != "gpt2") fail("{}: the tokenizer's kind is '{}'", source, kind);
    v.kind = kind == "llama" ? TokenizerKind::llama : TokenizerKind::gpt2;
    v.pre = value.at("pre").get<std::string>();
    const auto texts = value.at("texts").get<std::vector<std::string>>();
    const auto scores = value.at("scores").get<std::vector<float>>();
    const auto types = value.at("types").get<std::vector<int32_t>>();
    if (scores.size() != texts.size() || types.size() != texts.size()) {
      fail("{}: the tokenizer has {} texts, {} scores and {} types", source, texts.size(), scores.size(),
           types.size());
    }
    for (size_t i = 0; i < texts.size(); ++i) {
      if (types[i] < 1 || types[i] > 6) fail("{}: token {} has the type {}", source, i, types[i]);
      v.tokens.push_back({texts[i], scores[i], static_cast<TokenType>(types[i])});
    }
    v.merges = value.at("merges").get<std::vector<std::string>>();
    v.bos = read_id(value, "bos");
    v.eos = read_id(value, "eos");
    v.unknown = read_id(value, "unknown");
    v.padding = read_id(value, "padding");
    v.end_of_generation = value.at("end_of_generation").get<std::vector<int32_t>>();
    v.add_bos = value.at("add_bos").get<bool>();
    v.add_eos = value.at("add_eos").get<bool>();
    v.add_space_prefix = value.at("add_space_prefix").get<bool>();
    v.chat_template = value.at("chat_template").get<std::string>();
    return v;
  });
  validate(vocab, source);
  return vocab;
}

std::string state_to_json(const TrainState& s) {
  ordered_json options = ordered_json::object();
  for (const auto& [name, value] : s.options) {
    if (const double* number = std::get_if<double>(&value)) finite(*number, name);
    std::visit([&, &key = name](const auto& held) { options[key] = held; }, value);
  }
  ordered_json value = {{"step", s.step},
                        {"optimizer_steps", s.optimizer_steps},
                        {"epoch", s.position.epoch},
                        {"index", s.position.index},
                        {"seed", s.seed},
                        {"tokens_seen", s.tokens_seen},
                        {"best_step", s.best_step},
                        {"validated_step", s.validated_step},
                        {"learning_rate", finite(s.schedule.peak, "learning_rate")},
                        {"final_learning_rate", finite(s.schedule.floor, "final_learning_rate")},
                        {"warmup_steps", s.schedule.warmup_steps},
                        {"total_steps", s.schedule.total_steps},
                        {"data", s.data},
                        {"options", std::move(options)}};
  if (s.best_validation_loss)
    value["best_validation_loss"] = finite(*s.best_validation_loss, "the best validation loss");
  return dump(value, "state");
}

TrainState state_from_json(const std::string& text, const std::string& source) {
  TrainState state = parse(text, source, "state", [](const json& value) {
    TrainState s;
    s.step = integer(value, "step");
    s.optimizer_steps = integer(value, "optimizer_steps");
    s.position = {count(value, "epoch"), count(value, "index")};
    s.seed = count(value, "seed");
    s.tokens_seen = integer(value, "tokens_seen");
    s.best_step = integer(value, "best_step");
    s.validated_step = integer(value, "validated_step");
    s.schedule = {value.at("learning_rate").get<double>(), value.at("final_learning_rate").get<double>(),
                  integer(value, "warmup_steps"), integer(value, "total_steps")};
    s.data = value.at("data").get<std::string>();
    for (const auto& [name, option] : value.at("options").items()) s.options[name] = option_from(option);
    if (const auto best = value.find("best_validation_loss"); best != value.end()) {
      s.best_validation_loss = best->get<double>();
    }
    return s;
  });
  if (state.step < 0 || state.optimizer_steps < 0 || state.tokens_seen < 0 || state.best_step < -1 ||
      state.validated_step < -1) {
    fail("{}: the state counts below zero", source);
  }
  return state;
}

}  // namespace gladius
