// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3"). A value depends on (seed, stream, index) alone, so results do not depend on threads or on order.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace gladius {

// Ten rounds on a 128-bit counter with a 64-bit key: four random 32-bit words.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  uint64_t bits(uint64_t index) const;                   // 64 uniform bits
  double uniform(uint64_t index) const;                  // [0, 1), 53 bits
  uint64_t below(uint64_t index, uint64_t bound) const;  // [0, bound), bound > 0; bias below bound / 2^64
  void normal(uint64_t begin, int64_t n, float mean, float deviation,
              float* out) const;  // values begin .. begin+n-1

 private:
  uint64_t seed_, stream_;
};

// A stream number for a name, so that each parameter has its own (FNV-1a, 64 bits).
uint64_t stream_of(std::string_view name);

}  // namespace gladius
