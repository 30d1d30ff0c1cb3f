// Quantisers: bytes equal to llama.cpp's, errors bounded by the blocks' scales, 16-bit conversions exact.
#define XXH_INLINE_ALL
#include <doctest/doctest.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/cpu/isas.h"
#include "kernels/cpu/quant_backend.h"
#include "kernels/half.h"
#include "kernels/reference/quantize.h"

using namespace gladius;

namespace {

const std::string kData = GLADIUS_TEST_DATA "/quant/";

constexpr DType kQuantised[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0,
                                DType::Q8_1, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_K};

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

using Quantiser = void (*)(const cpu::QuantKernels*, DType, const Matrix&, const float*, void*);

struct Implementation {
  std::string name;
  const cpu::QuantKernels* kernels;  // null: the reference
  void quantize(DType dtype, const Matrix& m, const float* importance, void* y) const {
    if (kernels)
      cpu::quantize(*kernels, 2, dtype, m.rows, m.cols, m.x.data(), importance, y);
    else
      reference::quantize_rows(dtype, m.rows, m.cols, m.x.data(), importance, y);
  }
  void dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) const {
    if (kernels)
      cpu::dequantize(*kernels, 2, dtype, rows, cols, x, y);
    else
      reference::dequantize_rows(dtype, rows, cols, x, y);
  }
};

// The reference and every instruction set that this CPU runs; names the ones that it cannot.
std::vector<Implementation> implementations() {
  std::vector<Implementation> all = {{"reference", nullptr}};
  for (const cpu::Isa& isa : cpu::cpu_isas()) {
    if (isa.runnable)
      all.push_back({isa.name, &isa.table().q});
    else
      MESSAGE("not run: " << isa.name << ": " << isa.reason);
  }
  return all;
}

std::string hex(XXH128_hash_t h) {
  std::ostringstream out;
  out << std::hex;
  for (uint64_t part : {h.high64, h.low64}) {
    out.width(16);
    out.fill('0');
    out << part;
  }
  return out.str();
}

struct Expected {
  std::string file, tensor, type, hash;
};

std::vector<Expected> expected_tensors() {
  std::ifstream in(kData + "expected.txt");
  std::vector<Expected> all;
  for (Expected e; in >> e.file >> e.tensor >> e.type >> e.hash;) all.push_back(e);
  return all;
}

bool starts_with(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }

Matrix random_matrix(std::mt19937& random, int64_t rows, int64_t cols, float spread) {
  Matrix m{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
  std::normal_distribution<float> normal(0.0f, spread);
  for (float& v : m.x) v = normal(random);
  return m;
}

}  // namespace

TEST_CASE("every tensor that llama-quantize made is reproduced byte for byte") {
  const Gguf source(kData + "source.gguf"), odd(kData + "odd-source.gguf"), imatrix(kData + "imatrix.gguf");
  const std::vector<Expected> all = expected_tensors();
  REQUIRE(all.size() == 251);
  for (const Implementation& implementation : implementations()) {
    CAPTURE(implementation.name);
    for (const Expected& e : all) {
      CAPTURE(e.file);
      CAPTURE(e.tensor);
      CAPTURE(e.type);
      const Matrix& m = (starts_with(e.file, "odd-") ? odd : source).matrices.at(e.tensor);
      std::vector<float> importance;
      if (starts_with(e.file, "imatrix-")) {
        const auto sums = imatrix.matrices.find(e.tensor + ".in_sum2");
        if (sums != imatrix.matrices.end()) {
          const float count = imatrix.matrices.at(e.tensor + ".counts").x[0];
          for (float sum : sums->second.x) importance.push_back(sum / count);
        }
      }
      const DType dtype = dtype_from_name(e.type).value();
      std::vector<std::byte> y(static_cast<size_t>(m.rows * row_bytes(dtype, m.cols)));
      implementation.quantize(dtype, m, importance.empty() ? nullptr : importance.data(), y.data());
      CHECK(hex(XXH3_128bits(y.data(), y.size())) == e.hash);
    }
  }
}
