#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

#include "engine/error.h"
#include "engine/mapped_file.h"
#include "export/hf.h"
#include "export/json.h"
#include "model/utf8.h"

namespace gladius {
namespace {

using Json = nlohmann::ordered_json;

// The double that prints as the float does: 1e-06 and not 9.999999974752427e-07.
double shortest(float value) {
  std::array<char, 64> text;
  const auto written = std::to_chars(text.data(), text.data() + text.size(), value);
  double result = value;
  std::from_chars(text.data(), written.ptr, result);
  return result;
}

// The parameters behind divisors that came from a GGUF file, which does not hold them: tries those of the
// Llama 3 models.
std::optional<RopeScaling> find_scaling(const Config& config) {
  if (config.rope_scaling) return config.rope_scaling;
  for (const float factor : {8.0f, 32.0f, 16.0f, 4.0f, 2.0f}) {
    const RopeScaling scaling{.factor = factor};
    const std::vector<float> divisors = rope_scaling_divisors(scaling, config.rope_theta, config.head_dim);
    bool equal = divisors.size() == config.rope_divisors.size();
    for (size_t i = 0; equal && i < divisors.size(); ++i) {
      constexpr float kRounding = 1e-6f;  // some units in the last place of a float
      equal = std::fabs(divisors[i] - config.rope_divisors[i]) <= kRounding * divisors[i];
    }
    if (equal) return scaling;
  }
  return std::nullopt;
}

Json scaling_json(const RopeScaling& scaling) {
  return {{"rope_type", "llama3"},
          {"factor", shortest(scaling.factor)},
          {"low_freq_factor", shortest(scaling.low_freq_factor)},
          {"high_freq_factor", shortest(scaling.high_freq_factor)},
          {"original_max_position_embeddings", scaling.original_context}};
}

// rope_theta and scaling: "rope_parameters" of transformers 5, or "rope_theta" and "rope_scaling" of 4.
void read_rope(const JsonObject& object, Config& config) {
  config.rope_theta = static_cast<float>(object.find_number("rope_theta").value_or(10000.0));
  const nlohmann::json* value = object.find("rope_parameters");
  if (!value) value = object.find("rope_scaling");
  if (!value) return;
  const JsonObject rope(*value, object.source() + ": rope parameters");
  if (const auto theta = rope.find_number("rope_theta")) config.rope_theta = static_cast<float>(*theta);
  if (rope.find_number("partial_rotary_factor").value_or(1.0) != 1.0) {
    fail("{}: partial_rotary_factor is not supported", object.source());
  }
  std::string type = rope.find_string("rope_type").value_or("");
  if (type.empty()) type = rope.find_string("type").value_or("default");
  if (type == "default") return;
  if (type != "llama3") fail("{}: RoPE scaling '{}' is not supported, only 'llama3'", object.source(), type);
  RopeScaling scaling;
  const auto number = [&](const char* key) {
    const auto parameter = rope.find_number(key);
    if (!parameter || !(*parameter > 0)) fail("{}: '{}' is missing or not positive", rope.source(), key);
    return static_cast<float>(*parameter);
  };
  scaling.factor = number("factor");
  scaling.low_freq_factor = number("low_freq_factor");
  scaling.high_freq_factor = number("high_freq_factor");
  scaling.original_context = rope.integer("original_max_position_embeddings");
  if (!(scaling.high_freq_factor > scaling.low_freq_factor) || scaling.original_context <= 0) {
    fail("{}: the frequency factors or the original context are impossible", rope.source());
  }
  config.rope_scaling = scaling;
}

void refuse_unsupported(const JsonObject& object) {
  const std::string type = object.find_string("model_type").value_or("");
  if (type != "llama") fail("{}: model_type '{}' is not supported, only 'llama'", object.source(), type);
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (object.find_bool(key).value_or(false))
      fail("{}: biases are not supported ({})", object.source(), key);
  }
  const std::string activation = object.find_string("hidden_act").value_or("silu");
  if (activation != "silu")
    fail("{}: hidden_act '{}' is not supported, only 'silu'", object.source(), activation);
  if (const nlohmann::json* quantised = object.find("quantization_config"); quantised) {
    fail("{}: quantised weights (quantization_config) are not supported", object.source());
  }
}

}  // namespace

Config read_hf_config(const std::filesystem::path& given) {
  std::error_code ignored;
  const auto path = std::filesystem::is_directory(given, ignored) ? given / "config.json" : given;
  const auto file = MappedFile::open(path);
  const std::string source = path.string();
  const nlohmann::json value =
      parse_json({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, source);
  const JsonObject object(value, source);
  refuse_unsupported(object);

  Config config;
  config.name = std::filesystem::absolute(path, ignored).lexically_normal().parent_path().filename().string();
  if (!utf8_is_valid(config.name)) config.name = "model";
  config.vocab = object.integer("vocab_size");
  config.hidden = object.integer("hidden_size");
  config.intermediate = object.integer("intermediate_size");
  config.layers = object.integer("num_hidden_layers");
  config.heads = object.integer("num_attention_heads");
  config.kv_heads = object.find_integer("num_key_value_heads").value_or(config.heads);
  config.context = object.find_integer("max_position_embeddings").value_or(2048);
  config.head_dim =
      object.find_integer("head_dim").value_or(config.heads > 0 ? config.hidden / config.heads : 0);
  config.norm_eps = static_cast<float>(object.find_number("rms_norm_eps").value_or(1e-6));
  config.tied = object.find_bool("tie_word_embeddings").value_or(false);
  read_rope(object, config);
  validate(config, source);
  if (config.rope_scaling) {
    config.rope_divisors = rope_scaling_divisors(*config.rope_scaling, config.rope_theta, config.head_dim);
    validate(config, source);
  }
  return config;
}

std::string hf_config_json(const Config& c, const Vocab& vocab, DType dtype) {
  const char* dtype_name = dtype == DType::F32 ? "float32" : dtype == DType::BF16 ? "bfloat16" : "float16";
  const auto id = [](std::optional<int32_t> token) { return token ? Json(*token) : Json(nullptr); };
  const double theta = shortest(c.rope_theta);
  Json parameters = {{"rope_type", "default"}};
  Json scaling = nullptr;
  if (!c.rope_divisors.empty() || c.rope_scaling) {
    const auto found = find_scaling(c);
    if (!found) {
      fail(
          "the model's RoPE divisors do not follow Llama 3's formula with known parameters; config.json "
          "cannot express them");
    }
    scaling = scaling_json(*found);
    parameters = scaling;
  }
  parameters["rope_theta"] = theta;
  const Json config = {{"architectures", {"LlamaForCausalLM"}},
                       {"model_type", "llama"},
                       {"vocab_size", c.vocab},
                       {"hidden_size", c.hidden},
                       {"intermediate_size", c.intermediate},
                       {"num_hidden_layers", c.layers},
                       {"num_attention_heads", c.heads},
                       {"num_key_value_heads", c.kv_heads},
                       {"head_dim", c.head_dim},
                       {"hidden_act", "silu"},
                       {"max_position_embeddings", c.context},
                       {"rms_norm_eps", shortest(c.norm_eps)},
                       {"initializer_range", 0.02},
                       {"attention_bias", false},
                       {"mlp_bias", false},
                       {"attention_dropout", 0.0},
                       {"tie_word_embeddings", c.tied},
                       {"bos_token_id", id(vocab.bos)},
                       {"eos_token_id", id(vocab.eos)},
                       {"pad_token_id", id(vocab.padding)},
                       {"use_cache", true},
                       {"rope_theta", theta},
                       {"rope_scaling", scaling},
                       {"rope_parameters", parameters},
                       {"torch_dtype", dtype_name}};
  return config.dump(2) + "\n";
}

}  // namespace gladius
