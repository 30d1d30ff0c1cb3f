// `export --verify`: reading back what was written.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/model_source.h"
#include "eval/verification.h"
#include "export/certificate.h"

namespace gladius::cli {

struct VerifyOptions {
  bool wanted = false;
  std::string text;  // file; empty: drawn ids
  int64_t tokens = 128;
};
void add_verify_options(CLI::App& command, VerifyOptions& options);

// "12 tensors as they must be; logits of 128 tokens the same to the bit", or how far they are.
std::string certificate_text(const Certificate& certificate);

// Throws Error, naming the tensor or the layer, where what was written is not the source.
class ExportVerifier {
 public:
  // source: in rows; both references must stay. name: the source's, for messages. Throws Error for a text
  // that cannot be read.
  ExportVerifier(const VerifyOptions& options, Context& ctx, const LoadedModel& source, std::string name);
  // Also writes the certificate into the file.
  void gguf(const std::filesystem::path& path, const ImportanceMatrix* importance);
  void hugging_face(const std::filesystem::path& folder, DType stored);

 private:
  Certificate verified(const std::filesystem::path& path, const Conversion& conversion);

  Context& ctx_;
  const LoadedModel& source_;
  const std::string name_;
  std::vector<int32_t> tokens_;
};

}  // namespace gladius::cli
