#include "model/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/error.h"
#include "model/utf8.h"

namespace gladius {
namespace {

// Unicode's White_Space. PCRE2's \s has U+180E too, which has not been a space since Unicode 6.3.
#define SPACE R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"
// In each pattern the alternatives take every character, so a match never fails. The last two alternatives
// leave the last space of a run to the word that follows.
constexpr const char* gpt2_pattern =
    R"('(?:[stmd]|re|ve|ll)| ?\p{L}++| ?\p{N}++| ?[^\p{L}\p{N})" SPACE R"(]++)"
    R"(|[)" SPACE R"(]+(?![^)" SPACE R"(])|[)" SPACE R"(]+)";
// SmolLM first cuts every digit out, then applies GPT-2's pattern to what lies between: to the spaces before
// a digit the text has ended.
constexpr const char* smollm_pattern = R"(\p{N}|'(?:[stmd]|re|ve|ll)| ?\p{L}++| ?[^\p{L}\p{N})" SPACE R"(]++)"
                                       R"(|[)" SPACE R"(]+(?![^\p{N})" SPACE R"(])|[)" SPACE R"(]+)";
#define LLAMA3_LIKE(NUMBERS)                                                         \
  R"('(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}++|)" NUMBERS \
  R"(| ?[^\p{L}\p{N})" SPACE R"(]++[\r\n]*+|[)" SPACE R"(]*[\r\n]++)"                \
  R"(|[)" SPACE R"(]+(?![^)" SPACE R"(])|[)" SPACE R"(]+)"
constexpr const char* llama3_pattern = LLAMA3_LIKE(R"(\p{N}{1,3}+)");
constexpr const char* qwen2_pattern = LLAMA3_LIKE(R"(\p{N})");
#undef LLAMA3_LIKE
#undef SPACE

const char* pattern_of(const std::string& name) {
  if (name == "gpt-2") return gpt2_pattern;
  if (name == "smollm") return smollm_pattern;
  if (name == "llama-bpe") return llama3_pattern;
  if (name == "qwen2") return qwen2_pattern;
  fail("pre-tokenizer '{}' is not supported; known are gpt-2, llama-bpe, smollm, qwen2", name);
}

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

bool has_only_valid_characters(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length =
        static_cast<unsigned char>(text[at]) < 0x80 ? 1 : utf8_valid_length(text.substr(at));
    if (length == 0) return false;
    at += length;
  }
  return true;
}

// Bytes that llama.cpp takes for one character: its first byte's announced continuation bytes must be there,
// but the character need not exist (overlong forms, surrogates).
size_t lenient_length(std::string_view text) {
  const size_t length = utf8_length(text[0]);
  const auto lead = static_cast<unsigned char>(text[0]);
  if (length > text.size() || (lead >= 0x80 && lead < 0xC0) || lead >= 0xF8) return 1;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return 1;
  }
  return length;
}

// A valid text of the same length: what is no character is replaced by one that all patterns treat as U+FFFD.
std::string with_valid_characters(std::string_view text) {
  constexpr const char* substitutes[] = {"\x01", "\xC2\x80", "\xEF\xBF\xBD",
                                         "\xF3\xB0\x80\x80"};  // by length
  std::string valid;
  valid.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    const size_t length = lenient_length(rest);
    if (utf8_valid_length(rest) == length) {
      valid.append(rest.substr(0, length));
    } else {
      valid.append(substitutes[length - 1], length);
    }
    at += length;
  }
  return valid;
}

}  // namespace

struct Pretokenizer::Pattern {
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};
};

Pretokenizer::Pretokenizer(const std::string& name) {
  const char* text = pattern_of(name);
  auto pattern = std::make_unique<Pattern>();
  int error = 0;
  PCRE2_SIZE position = 0;
  pattern->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &position, nullptr));
  if (!pattern->code) fail("pre-tokenizer '{}': {} at position {}", name, message_of(error), position);
  // Where PCRE2 has no just-in-time compiler for the machine, it interprets the pattern.
  pcre2_jit_compile(pattern->code.get(), PCRE2_JIT_COMPLETE);
  pattern_ = std::move(pattern);
}

Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::split(std::string_view text, const std::function<void(std::string_view)>& word) const {
  std::string substitute;
  const char* subject = text.data();
  if (!has_only_valid_characters(text)) {
    substitute = with_valid_characters(text);
    subject = substitute.data();
  }
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  if (!match) throw std::bad_alloc();
  for (size_t begin = 0; begin < text.size();) {
    const int count = pcre2_match(pattern_->code.get(), reinterpret_cast<PCRE2_SPTR>(subject), text.size(),
                                  begin, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (count < 0) fail("pre-tokenizer: {} at byte {} of a text", message_of(count), begin);
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    if (end <= begin) fail("pre-tokenizer: empty match at byte {} of a text", begin);
    word(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace gladius
