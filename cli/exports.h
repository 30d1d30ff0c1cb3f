// Writing GGUF files, for `export` and for `train --export-gguf`.
#pragma once

#include <filesystem>
#include <string>

#include "cli/model_source.h"
#include "export/quantize.h"

namespace gladius::cli {

// Writes FOLDER/NAME-TYPE.gguf with progress and returns its path.
std::filesystem::path export_gguf(const SourceModel& source, const std::filesystem::path& folder,
                                  const std::string& name, FileType type, Backend& backend,
                                  const ImportanceMatrix* importance = nullptr);

}  // namespace gladius::cli
