// JSON from files that nobody vouches for. Internal to export/: it includes nlohmann-json's header.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace gladius {

// Parses a whole text. Throws Error naming `source` for a syntax error, invalid UTF-8, a key that appears
// twice in an object, or nesting deeper than max_depth.
nlohmann::json parse_json(std::string_view text, const std::string& source, int max_depth = 64);

// Typed members of an object. `find` gives nothing when the key is absent or null; a value of another type
// throws Error.
class JsonObject {
 public:
  // Throws Error when value is not an object.
  JsonObject(const nlohmann::json& value, std::string source);

  const nlohmann::json* find(const char* key) const;  // null when absent or null
  std::optional<int64_t> find_integer(const char* key) const;
  std::optional<double> find_number(const char* key) const;
  std::optional<bool> find_bool(const char* key) const;
  std::optional<std::string> find_string(const char* key) const;
  int64_t integer(const char* key) const;  // throws Error when absent

  const std::string& source() const { return source_; }

 private:
  [[noreturn]] void wrong(const char* key, const char* wanted) const;

  const nlohmann::json& value_;
  std::string source_;
};

}  // namespace gladius
