// UTF-8 in texts that may hold any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gladius {

// Bytes of the character that starts with `lead`, judged by the lead byte alone: 1 for ASCII and for stray
// continuation bytes, else 2 to 4. It says nothing about the bytes that follow.
inline size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Length of the well-formed character at the start of text (Unicode 15, table 3-7: no overlong forms, no
// surrogates, nothing above U+10FFFF); 0 when there is none.
size_t utf8_valid_length(std::string_view text);

bool utf8_is_valid(std::string_view text);  // well-formed from start to end

// How many bytes at the end of text are the beginning of a well-formed character whose rest is missing: 0
// to 3.
size_t utf8_incomplete_suffix(std::string_view text);

// Text from a file as a terminal may show it, in one line: control characters, with which a file could steer
// the terminal, and bytes that are no UTF-8 are escaped ("\n", "\x1b").
std::string printable(std::string_view text);

// Appends code point, at most U+10FFFF, to out.
void append_utf8(uint32_t code_point, std::string& out);

}  // namespace gladius
