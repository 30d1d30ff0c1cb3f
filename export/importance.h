// Importance matrices: how strongly each input column of a weight matrix is driven by real text. Quantisers
// weigh their errors with them. The two file forms are those of llama.cpp's llama-imatrix.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gladius {

struct ImportanceMatrix {
  // Of one weight matrix [rows, cols]: the mean over the calibration tokens of the squared input of each of
  // its columns is sums / count.
  struct Entry {
    std::vector<float> sums;  // [cols], finite, not negative
    int64_t count = 0;        // tokens (what a chunk is cut into, see chunk_size); 0: no token reached it
  };

  std::string file;                   // as the caller named it; recorded in files made with it
  std::vector<std::string> datasets;  // names of the calibration texts, may be empty
  uint32_t chunks = 0;                // of the calibration texts
  uint32_t chunk_size = 1;            // tokens; 1 where only chunks were counted (the ".dat" form)
  std::map<std::string, Entry, std::less<>> entries;  // by the weight's name

  // The means [cols] of a weight, all 1 where its count is 0 (as in llama.cpp); empty when it has no entry.
  std::vector<float> means(std::string_view weight) const;
};

enum class ImportanceForm {
  gguf,  // NAME.in_sum2 and NAME.counts, general.type "imatrix"
  dat,   // the older one: mean * chunks, the number of chunks, one dataset
};

// Reads either form. Throws Error naming the file and what is wrong with it.
ImportanceMatrix read_importance(const std::filesystem::path& path);

// Writes a matrix, entries in the order of their names. What was read from a file of the same form is written
// with the same values. The .dat form rounds where its entries counted tokens: twice, in float. Throws Error
// naming the file, for values that a reader would refuse, too.
void write_importance(const std::filesystem::path& path, const ImportanceMatrix& matrix, ImportanceForm form);

}  // namespace gladius
