#include "export/json.h"

#include <unordered_set>
#include <vector>

#include "engine/error.h"

namespace gladius {

nlohmann::json parse_json(std::string_view text, const std::string& source, int max_depth) {
  using nlohmann::json;
  std::vector<std::unordered_set<std::string>> open_objects;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > max_depth) fail("{}: JSON nested deeper than {} levels", source, max_depth);
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) fail("{}: the JSON key '{}' appears twice", source, key);
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", source, error.what());
  }
}

JsonObject::JsonObject(const nlohmann::json& value, std::string source)
    : value_(value), source_(std::move(source)) {
  if (!value.is_object()) fail("{}: a JSON object was expected, not {}", source_, value.type_name());
}

void JsonObject::wrong(const char* key, const char* wanted) const {
  const auto position = value_.find(key);
  if (position == value_.end()) fail("{}: '{}' is missing", source_, key);
  fail("{}: '{}' is {}, but must be {}", source_, key, position->type_name(), wanted);
}

const nlohmann::json* JsonObject::find(const char* key) const {
  const auto position = value_.find(key);
  return position == value_.end() || position->is_null() ? nullptr : &*position;
}

std::optional<int64_t> JsonObject::find_integer(const char* key) const {
  const nlohmann::json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)) {
    wrong(key, "an integer");
  }
  return value->get<int64_t>();
}

std::optional<double> JsonObject::find_number(const char* key) const {
  const nlohmann::json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) wrong(key, "a number");
  return value->get<double>();
}

std::optional<bool> JsonObject::find_bool(const char* key) const {
  const nlohmann::json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) wrong(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonObject::find_string(const char* key) const {
  const nlohmann::json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) wrong(key, "a string");
  return value->get<std::string>();
}

int64_t JsonObject::integer(const char* key) const {
  const auto value = find_integer(key);
  if (!value) wrong(key, "an integer");
  return *value;
}

}  // namespace gladius
