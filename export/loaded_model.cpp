#include "export/loaded_model.h"

namespace gladius {

std::string_view version() { return GLADIUS_VERSION; }

Provenance full_provenance(const Provenance& given) {
  Provenance full = {{"gladius.version", std::string(version())}};
  for (const auto& [key, value] : given) {
    const bool complete = key.starts_with("general.") || key.starts_with("gladius.");
    full.emplace_back(complete ? key : "gladius." + key, value);
  }
  return full;
}

}  // namespace gladius
