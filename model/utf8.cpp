#include "model/utf8.h"

#include <fmt/format.h>

#include <algorithm>

namespace gladius {
namespace {

// Length of the character that begins with this lead byte in well-formed text; 0: no character begins with
// it.
size_t expected_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  return utf8_length(static_cast<char>(lead));
}

// Whether `byte` may stand at position `index` >= 1 of a character that begins with `lead`. Only the second
// byte's range depends on the lead byte.
bool may_follow(unsigned char lead, size_t index, unsigned char byte) {
  if (index == 1) {
    if (lead == 0xE0) return byte >= 0xA0 && byte <= 0xBF;
    if (lead == 0xED) return byte >= 0x80 && byte <= 0x9F;
    if (lead == 0xF0) return byte >= 0x90 && byte <= 0xBF;
    if (lead == 0xF4) return byte >= 0x80 && byte <= 0x8F;
  }
  return (byte & 0xC0) == 0x80;
}

// How many bytes of text, from its start, agree with one well-formed character of `length` bytes.
size_t agreeing(std::string_view text, size_t length) {
  const auto lead = static_cast<unsigned char>(text[0]);
  size_t n = 1;
  while (n < length && n < text.size() && may_follow(lead, n, static_cast<unsigned char>(text[n]))) ++n;
  return n;
}

}  // namespace

size_t utf8_valid_length(std::string_view text) {
  if (text.empty()) return 0;
  const size_t length = expected_length(static_cast<unsigned char>(text[0]));
  return length != 0 && agreeing(text, length) == length ? length : 0;
}

bool utf8_is_valid(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_valid_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

size_t utf8_incomplete_suffix(std::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
    const std::string_view tail = text.substr(text.size() - n);
    const size_t length = expected_length(static_cast<unsigned char>(tail[0]));
    if (length > n && agreeing(tail, length) == n) return n;
  }
  return 0;
}

void append_utf8(uint32_t c, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    tail(12), tail(6), tail(0);
  }
}

std::string printable(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text[0]);
    const size_t length = utf8_valid_length(text);
    const bool c1_control = length == 2 && byte == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0;
    if (text[0] == '\n') {
      line += "\\n";
    } else if (length == 0 || byte < 0x20 || byte == 0x7F || c1_control) {
      for (const char c : text.substr(0, std::max<size_t>(1, length)))
        line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      line += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(1, length));
  }
  return line;
}

}  // namespace gladius
