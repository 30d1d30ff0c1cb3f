#include "export/certificate.h"

#include "export/checksum.h"

namespace gladius {
namespace {

constexpr std::string_view kPrefix = "gladius.verify.";

// Calls f(key, member) for every field: the one list that reading and writing share.
template <class C, class F>
void for_each_field(C& certificate, F f) {
  f("version", certificate.version);
  f("engine", certificate.engine);
  f("file_type", certificate.file_type);
  f("tensors", certificate.tensors);
  f("tokens", certificate.tokens);
  f("tokens_xxh3_128", certificate.tokens_checksum);
  f("logits_same_bits", certificate.logits_same);
  f("logits_largest_difference", certificate.logits_largest);
  f("logits_rms_difference", certificate.logits_rms);
  f("kl_mean", certificate.kl_mean);
  f("kl_max", certificate.kl_max);
  f("same_top", certificate.same_top);
  f("tensors_xxh3_128", certificate.tensors_checksum);
}

uint32_t file_type_of(const GgufFile& file) {
  const auto* type = file.metadata().find<uint32_t>("general.file_type", file.path().string());
  return type ? *type : 0;
}

std::string full(std::string_view key) { return std::string(kPrefix) + std::string(key); }

}  // namespace

std::string tensors_checksum(const GgufFile& file) {
  Checksum checksum;
  for (const GgufTensor& tensor : file.tensors()) {
    checksum.update(
        fmt::format("{} {} {}\n", tensor.name, gguf_tensor_type(tensor.type)->name, tensor.shape.text()));
    checksum.update(file.data(tensor));
  }
  return checksum.hex();
}

std::string tokens_checksum(std::span<const int32_t> ids) { return checksum_hex(std::as_bytes(ids)); }

void certify(const std::filesystem::path& path, Certificate certificate) {
  const GgufFile file = GgufFile::open(path);
  certificate.tensors_checksum = tensors_checksum(file);
  certificate.file_type = file_type_of(file);
  GgufMetadata metadata = file.metadata();
  erase_certificate(metadata);
  for_each_field(certificate, [&](const char* key, const auto& value) { metadata.set(full(key), value); });
  GgufWriter writer(path, metadata, file.tensors());
  for (const GgufTensor& tensor : file.tensors()) writer.append(file.data(tensor));
  writer.finish();
}

std::optional<Certificate> read_certificate(const GgufFile& file) {
  if (!file.metadata().find(full("version"))) return std::nullopt;
  Certificate certificate;
  for_each_field(certificate, [&](const char* key, auto& value) {
    value = file.metadata().get<std::decay_t<decltype(value)>>(full(key), file.path().string());
  });
  return certificate;
}

CertificateState check_certificate(const GgufFile& file, const Certificate& certificate) {
  if (certificate.file_type != file_type_of(file)) return CertificateState::other_type;
  return certificate.tensors_checksum == tensors_checksum(file) ? CertificateState::fits
                                                                : CertificateState::damaged;
}

void erase_certificate(GgufMetadata& metadata) {
  Certificate none;
  for_each_field(none, [&](const char* key, const auto&) { metadata.erase(full(key)); });
}

}  // namespace gladius
