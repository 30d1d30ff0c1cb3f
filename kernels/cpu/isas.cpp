#include "kernels/cpu/isas.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace gladius::cpu {
namespace {

#if defined(__x86_64__)

// What CPUID says and the operating system saves at a context switch (Intel SDM volume 1, 13.2 and 14.3).
struct X86Features {
  bool avx_state = false, avx512_state = false;  // registers that the operating system keeps
  bool avx2 = false, fma = false, f16c = false;
  bool avx512 = false;  // F, CD, DQ, BW and VL
  bool vnni = false, bf16 = false;
  bool amd = false;
};

bool bit(unsigned value, int index) { return (value >> index) & 1; }

X86Features x86_features() {
  X86Features x;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return x;
  x.amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return x;
  x.fma = bit(c, 12);
  x.f16c = bit(c, 29);
  if (bit(c, 27)) {  // OSXSAVE: XGETBV may be used
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    x.avx_state = (low & 0x06) == 0x06;     // XMM, YMM
    x.avx512_state = (low & 0xe6) == 0xe6;  // and the mask registers, ZMM
  }
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return x;
  const unsigned subleaves = a;
  x.avx2 = bit(b, 5);
  x.avx512 = bit(b, 16) && bit(b, 17) && bit(b, 28) && bit(b, 30) && bit(b, 31);
  x.vnni = bit(c, 11);
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) x.bf16 = bit(a, 5);
  return x;
}

// Why this CPU cannot run it; empty when it can.
const char* missing_avx2(const X86Features& x) {
  if (!x.avx2 || !x.fma || !x.f16c) return "the CPU lacks AVX2, FMA or F16C";
  return x.avx_state ? "" : "the operating system does not keep AVX registers";
}
const char* missing_avx512(const X86Features& x) {
  if (*missing_avx2(x)) return missing_avx2(x);
  if (!x.avx512) return "the CPU lacks AVX-512 F, CD, DQ, BW or VL";
  return x.avx512_state ? "" : "the operating system does not keep AVX-512 registers";
}
const char* missing_avx512_vnni(const X86Features& x) {
  if (*missing_avx512(x)) return missing_avx512(x);
  return x.vnni ? "" : "the CPU lacks AVX512_VNNI";
}
const char* missing_avx512_bf16(const X86Features& x) {
  if (*missing_avx512_vnni(x)) return missing_avx512_vnni(x);
  return x.bf16 ? "" : "the CPU lacks AVX512_BF16";
}

#elif defined(__aarch64__)

struct ArmFeatures {
  bool half = false, dot = false, i8mm = false, bf16 = false;
};

// Bits of Linux's HWCAP and HWCAP2 (asm/hwcap.h); elsewhere only the baseline is taken.
ArmFeatures arm_features() {
  ArmFeatures x;
#if defined(__linux__)
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  x.half = first & (1ul << 10);   // HWCAP_ASIMDHP
  x.dot = first & (1ul << 20);    // HWCAP_ASIMDDP
  x.i8mm = second & (1ul << 13);  // HWCAP2_I8MM
  x.bf16 = second & (1ul << 14);  // HWCAP2_BF16
#endif
  return x;
}

// Why this CPU cannot run it; empty when it can.
const char* missing_neon_dotprod(const ArmFeatures& x) {
  return x.half && x.dot ? "" : "the CPU lacks the dot product or half-precision instructions";
}
const char* missing_neon_i8mm(const ArmFeatures& x) {
  if (*missing_neon_dotprod(x)) return missing_neon_dotprod(x);
  return x.i8mm ? "" : "the CPU lacks the int8 matrix instructions (I8MM)";
}
const char* missing_neon_bf16(const ArmFeatures& x) {
  if (*missing_neon_i8mm(x)) return missing_neon_i8mm(x);
  return x.bf16 ? "" : "the CPU lacks the BF16 instructions";
}

#endif

std::vector<Isa> detect() {
  std::vector<Isa> isas;
  [[maybe_unused]] const auto add = [&isas](const char* name, const char* reason,
                                            const KernelTable& (*table)()) {
    isas.push_back({name, *reason == '\0', reason, table, false});
  };
#if defined(__x86_64__)
  const X86Features x = x86_features();
  add("sse2", "", table_sse2);
  add("avx2", missing_avx2(x), table_avx2);
  add("avx512", missing_avx512(x), table_avx512);
  add("avx512_vnni", missing_avx512_vnni(x), table_avx512_vnni);
  add("avx512_bf16", missing_avx512_bf16(x), table_avx512_bf16);
  isas.back().quick_bf16 = x.amd;
#elif defined(__aarch64__)
  const ArmFeatures x = arm_features();
  add("neon", "", table_neon);
  add("neon_dotprod", missing_neon_dotprod(x), table_neon_dotprod);
  add("neon_i8mm", missing_neon_i8mm(x), table_neon_i8mm);
  add("neon_bf16", missing_neon_bf16(x), table_neon_bf16);
#endif
  return isas;
}

}  // namespace

const std::vector<Isa>& cpu_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

namespace {

const Isa& isa_of_name(std::string_view name) {
  std::string runnable;
  for (const Isa& isa : cpu_isas()) {
    if (!isa.runnable) continue;
    if (name == isa.name) return isa;
    runnable += runnable.empty() ? isa.name : std::string(", ") + isa.name;
  }
  for (const Isa& isa : cpu_isas()) {
    if (name != isa.name) continue;
    throw std::invalid_argument("instruction set " + std::string(name) + " cannot run here: " + isa.reason +
                                "; this machine runs " + runnable);
  }
  throw std::invalid_argument("unknown instruction set \"" + std::string(name) + "\"; this machine runs " +
                              runnable);
}

}  // namespace

const Isa& choose_isa(std::string_view name) {
  if (!name.empty()) return isa_of_name(name);
  if (const char* forced = std::getenv("GLADIUS_ISA"); forced && *forced) {
    try {
      return isa_of_name(forced);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(std::string("GLADIUS_ISA: ") + error.what());
    }
  }
  const Isa* best = &cpu_isas().front();
  for (const Isa& isa : cpu_isas())
    if (isa.runnable) best = &isa;
  return *best;
}

}  // namespace gladius::cpu
