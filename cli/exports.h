// Writing GGUF files, for `export` and for `train --export-gguf`.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/model_source.h"
#include "cli/terminal.h"
#include "export/quantize.h"

namespace gladius::cli {

// A model's name as a file may be called: a file's metadata must not lead out of the folder.
std::string file_name(std::string name);

// QuantizeOptions::progress that shows how far it is and ends the command when interrupted.
std::function<void(const QuantizeStep&)> shown_on(Progress& progress);

// Says which tensors did not get their type, a line for each pair of types and length of rows.
void note_fallbacks(const std::vector<Fallback>& fallbacks);

// Writes FOLDER/NAME-TYPE.gguf with progress and returns its path. Ends the command when interrupted.
std::filesystem::path export_gguf(const SourceModel& source, const std::filesystem::path& folder,
                                  const std::string& name, QuantizeOptions options, Backend& backend);

}  // namespace gladius::cli
