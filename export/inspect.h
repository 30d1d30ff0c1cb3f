// What is in a file, for people.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "export/certificate.h"

namespace gladius {

struct FileDescription {
  struct TensorLine {
    std::string name, type;
    std::vector<int64_t> shape;  // outermost first
    int64_t elements = 0;
    uint64_t bytes = 0;
  };
  std::string format;  // "GGUF v3", "safetensors", "Hugging Face folder", "checkpoint"
  // Key and value; arrays and long texts are shortened. GGUF values carry their type: "UINT32 12".
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<TensorLine> tensors;         // in file order
  std::string chat_template;               // Jinja text of a GGUF file or a folder; empty: none
  std::optional<Certificate> certificate;  // of a GGUF file
  CertificateState certificate_state = CertificateState::fits;
  uint64_t file_bytes = 0, tensor_bytes = 0;
  int64_t parameters = 0;      // elements of all tensors
  double bits_per_weight = 0;  // 8 * tensor_bytes / parameters; 0 without tensors
};

// A GGUF or safetensors file, a checkpoint (safetensors with a "gladius.checkpoint" key) or a Hugging Face
// folder, told apart by contents. Throws Error naming the file when it is none or damaged.
FileDescription inspect(const std::filesystem::path& path);

}  // namespace gladius
