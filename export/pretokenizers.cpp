#include "export/pretokenizers.h"

#include "engine/error.h"

namespace gladius {
namespace {

using Json = nlohmann::ordered_json;

// The patterns of Llama 3 and of Qwen2 differ in how many digits stay together.
std::string split_pattern(std::string_view digits) {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" + std::string(digits) +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

const std::string& llama3_pattern() {
  static const std::string pattern = split_pattern(R"(\p{N}{1,3})");
  return pattern;
}
const std::string& qwen2_pattern() {
  static const std::string pattern = split_pattern(R"(\p{N})");
  return pattern;
}

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json sequence(Json first, Json second) {
  return {{"type", "Sequence"}, {"pretokenizers", {std::move(first), std::move(second)}}};
}

Json split(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

bool is_byte_level(const nlohmann::json& value, bool use_regex) {
  return value.is_object() && value.value("type", "") == "ByteLevel" &&
         !value.value("add_prefix_space", true) && value.value("use_regex", true) == use_regex;
}

bool is_split(const nlohmann::json& value, const std::string& pattern) {
  return value.is_object() && value.value("type", "") == "Split" && value.contains("pattern") &&
         value["pattern"] == nlohmann::json{{"Regex", pattern}} &&
         value.value("behavior", "") == "Isolated" && !value.value("invert", true);
}

}  // namespace

Json pretokenizer_json(const std::string& pre) {
  if (pre == "gpt-2") return byte_level(true);
  if (pre == "smollm") return sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true));
  if (pre == "llama-bpe") return sequence(split(llama3_pattern()), byte_level(false));
  if (pre == "qwen2") return sequence(split(qwen2_pattern()), byte_level(false));
  fail("the pre-tokenizer '{}' has no form in tokenizer.json", pre);
}

std::optional<std::string> pretokenizer_name(const nlohmann::json& value) {
  try {
    if (is_byte_level(value, true)) return "gpt-2";
    if (!value.is_object() || value.value("type", "") != "Sequence" || !value.contains("pretokenizers"))
      return std::nullopt;
    const nlohmann::json& parts = value["pretokenizers"];
    if (!parts.is_array() || parts.size() != 2 || !parts[0].is_object()) return std::nullopt;
    const bool digits = parts[0].value("type", "") == "Digits" && parts[0].value("individual_digits", false);
    if (digits && is_byte_level(parts[1], true)) return "smollm";
    if (!is_byte_level(parts[1], false)) return std::nullopt;
    if (is_split(parts[0], llama3_pattern())) return "llama-bpe";
    if (is_split(parts[0], qwen2_pattern())) return "qwen2";
  } catch (const nlohmann::json::exception&) {  // a member of another type than these forms have
  }
  return std::nullopt;
}

bool pretokenizer_ignores_merges(std::string_view pre) { return pre == "llama-bpe"; }

}  // namespace gladius
