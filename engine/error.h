// The one exception type of everything above the kernels.
#pragma once

#include <fmt/format.h>

#include <stdexcept>

namespace gladius {

// A message for people: it names the file, tensor or operation, the value that is wrong, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace gladius
