// The stand-in for pretokenizer.cpp in a build without the library of Unicode patterns (GLADIUS_MINIMAL):
// models with a gpt2 tokenizer cannot be run there.
#include "engine/error.h"
#include "model/pretokenizer.h"

namespace gladius {

struct Pretokenizer::Pattern {};

Pretokenizer::Pretokenizer(const std::string& name) {
  fail("pre-tokenizer '{}' is not part of this build (GLADIUS_MINIMAL)", name);
}
Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::split(std::string_view, const std::function<void(std::string_view)>&) const {}

}  // namespace gladius
