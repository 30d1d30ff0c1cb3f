// What a verified GGUF file says of itself, in its metadata under "gladius.verify.": what was compared, how
// far it was off, and a checksum of the tensors by which anyone can see that they are still those.
//
// The checksum is XXH3-128 (checksum.h). It finds damage and tensors that other programs changed. It is no
// signature: whoever can write the file can write a certificate, whatever the hash.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "export/gguf.h"

namespace gladius {

struct Certificate {
  std::string version;                        // of gladius
  std::string engine;                         // what computed, Backend::name()
  uint32_t file_type = 0;                     // the file's general.file_type
  uint32_t tensors = 0;                       // that have the bits which converting the source's gives
  uint32_t tokens = 0;                        // whose logits were compared,
  std::string tokens_checksum;                // and XXH3-128 of their ids as int32
  bool logits_same = false;                   // to the bit
  double logits_largest = 0, logits_rms = 0;  // difference
  double kl_mean = 0, kl_max = 0;             // KL(source || file), nats
  double same_top = 0;                        // share of positions with the same likeliest token
  std::string tensors_checksum;               // tensors_checksum() of the file

  bool operator==(const Certificate&) const = default;
};

// XXH3-128 over all tensors in file order: "NAME TYPE [SHAPE]\n", then its bytes.
std::string tensors_checksum(const GgufFile& file);
std::string tokens_checksum(std::span<const int32_t> ids);

// Writes the certificate into the file's metadata, in place of any other, with the file's checksum for
// tensors_checksum. The file is replaced as a whole; its tensors' bytes stay.
void certify(const std::filesystem::path& path, Certificate certificate);

// Empty where there is none. Throws Error naming the file and the key that is missing or of a wrong type.
std::optional<Certificate> read_certificate(const GgufFile& file);

enum class CertificateState {
  fits,
  damaged,     // the tensors are not those that were verified
  other_type,  // the file was made into another type since, by a program that kept the certificate
};
CertificateState check_certificate(const GgufFile& file, const Certificate& certificate);

// For what is to be written with other tensors.
void erase_certificate(GgufMetadata& metadata);

}  // namespace gladius
