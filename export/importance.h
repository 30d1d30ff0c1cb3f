// Importance matrices: how strongly each input column of a weight matrix is driven by real text. Quantisers
// weigh their errors with them (llama.cpp's llama-imatrix makes such files).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace gladius {

struct ImportanceMatrix {
  std::string file;     // as the caller named it; recorded in files made with it
  std::string dataset;  // name of the calibration text, may be empty
  uint32_t chunks = 0;  // of the calibration text
  // By weight name: mean over the calibration tokens of the squared input of each column, [cols]; finite, not
  // negative.
  std::map<std::string, std::vector<float>, std::less<>> values;

  const std::vector<float>* find(std::string_view weight) const;  // null when absent
};

// Reads the GGUF form (NAME.in_sum2 divided by NAME.counts) or the older ".dat" form. Throws Error naming the
// file.
ImportanceMatrix read_importance(const std::filesystem::path& path);

}  // namespace gladius
