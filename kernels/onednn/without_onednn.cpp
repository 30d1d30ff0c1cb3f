// Stands for onednn_backend.cpp in builds without oneDNN.
#include <stdexcept>

#include "kernels/backend.h"

namespace gladius {

std::string onednn_version() { return {}; }

std::unique_ptr<Backend> make_onednn_backend(int, std::string_view) {
  throw std::invalid_argument("this build has no oneDNN: configure it with -DGLADIUS_ONEDNN=ON");
}

}  // namespace gladius
