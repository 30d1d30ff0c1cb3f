// Matrices from the files in tests/data/quant, for tests that use kernels/ alone.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "kernels/reference/quantize.h"

namespace gladius::test {

struct Matrix {
  int64_t rows = 1, cols = 1;
  std::vector<float> x;
};

// Just enough of a GGUF reader for the files in tests/data/quant, which are trusted: F16 and F32 tensors,
// widened to floats.
class Gguf {
 public:
  explicit Gguf(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    REQUIRE_MESSAGE(file, path);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    at_ = 8;
    const auto tensors = read<uint64_t>(), keys = read<uint64_t>();
    for (uint64_t i = 0; i < keys; ++i) {
      text();
      skip(read<uint32_t>());
    }
    struct Info {
      std::string name;
      uint64_t dims[2];
      uint32_t type;
      uint64_t offset;
    };
    std::vector<Info> infos;
    for (uint64_t i = 0; i < tensors; ++i) {
      Info info{text(), {1, 1}, 0, 0};
      const auto dims = read<uint32_t>();
      for (uint32_t d = 0; d < dims; ++d) info.dims[std::min(d, 1u)] = read<uint64_t>();
      info.type = read<uint32_t>();
      info.offset = read<uint64_t>();
      infos.push_back(info);
    }
    const size_t data = (at_ + 31) / 32 * 32;
    for (const Info& info : infos) {
      Matrix m{static_cast<int64_t>(info.dims[1]), static_cast<int64_t>(info.dims[0]), {}};
      m.x.resize(static_cast<size_t>(m.rows * m.cols));
      reference::dequantize_rows(dtype_from_id(info.type).value(), m.rows, m.cols,
                                 bytes_.data() + data + info.offset, m.x.data());
      matrices[info.name] = std::move(m);
    }
  }

  std::map<std::string, Matrix> matrices;

 private:
  template <class T>
  T read() {
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::string text() {
    const auto size = read<uint64_t>();
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  void skip(uint32_t type) {
    constexpr size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
      text();
    } else if (type == 9) {
      const auto element = read<uint32_t>();
      const auto count = read<uint64_t>();
      for (uint64_t i = 0; i < count; ++i) skip(element);
    } else {
      at_ += sizes[type];
    }
  }

  std::string bytes_;
  size_t at_ = 0;
};

}  // namespace gladius::test
