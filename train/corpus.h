// The texts that a run reads: .txt files (a file is a document), .jsonl files (the field "text" of a line is
// a document) and folders of both. Documents are streamed from mapped files, so a corpus may be larger than
// memory.
#pragma once

#include <bitset>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/mapped_file.h"
#include "model/vocab.h"

namespace gladius {

// A document as it lies in its file: the bytes of a .txt file, or one line of a .jsonl file without its line
// end.
struct Document {
  std::shared_ptr<const MappedFile> file;
  std::string_view raw;
  bool json = false;
  uint64_t line = 0;  // .jsonl: its number, from 1
};

// The document's text: `raw` itself, or the string in its JSON, which `decoded` then holds. Throws Error
// naming file, line and reason when the line is no JSON object with a string in "text". Thread-safe.
std::string_view document_text(const Document& document, std::string& decoded);

class Corpus {
 public:
  // Folders are searched recursively, their files in the order of their paths; files that end in neither .txt
  // nor .jsonl are passed over there, and are an error when named themselves. The order of `inputs` is kept;
  // what is named twice is read twice. Throws Error when an input is missing, nothing is found or all is
  // empty.
  static Corpus open(std::span<const std::filesystem::path> inputs);

  const std::vector<std::filesystem::path>& files() const { return files_; }
  uint64_t bytes() const { return bytes_; }  // of all files

  // Calls visit(document, bytes of the corpus up to and including it) in order, until it returns false. Blank
  // lines of .jsonl files are no documents.
  using Visitor = std::function<bool(const Document&, uint64_t bytes_read)>;
  void for_each(const Visitor& visit) const;

 private:
  std::vector<std::filesystem::path> files_;
  uint64_t bytes_ = 0;
};

// Where a long text may be cut so that its pieces can be encoded one by one, in any order, with the result of
// the whole.
//
// llama: between two ASCII characters that stand side by side in no token's text. A merge across the cut
// would have to produce such a text, so none can happen, and merges on one side never look at the other.
// gpt2: between an ASCII letter and a line feed. Every supported pre-tokenizer pattern splits there, whatever
// surrounds it, and merges stay inside its pieces. Either way the three bytes before must be ASCII too, so
// that no broken UTF-8 sequence reaches over the cut, and the character before the cut must end no
// user-defined token. That character is then encoded again in front of the next piece, and its tokens
// dropped: so the piece does not count as the start of a text (llama's leading space).
class SafeCuts {
 public:
  explicit SafeCuts(const Vocab& vocab);
  // The first safe position >= minimum; text.size() when there is none.
  size_t find(std::string_view text, size_t minimum) const;

 private:
  bool safe(unsigned char before, unsigned char after) const { return safe_[before * 128u + after]; }
  std::bitset<128 * 128> safe_;
};

}  // namespace gladius
