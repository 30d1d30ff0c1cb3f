// A corpus as token ids in a memory-mapped file, made once for each content of the sources and each
// tokenizer.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/error.h"
#include "engine/mapped_file.h"
#include "model/tokenizer.h"
#include "train/corpus.h"

namespace gladius {

// Checksum of what encoding depends on: kind, pre-tokenizer, pieces with scores and types, merges, special
// ids, flags.
std::string fingerprint(const Vocab& vocab);

// Where a document starts, in tokens and in bytes of source text.
struct DocumentStart {
  uint64_t token = 0, byte = 0;
};

// The file, little-endian throughout:
//   header     "gladius-tokens" and two zero bytes, u32 version = 1, u32 bytes per id, u64 vocabulary size,
//              key (32 hexadecimal digits)
//   ids        of all documents in order, each document closed by EOS when the vocabulary has one; of 2 bytes
//              when the vocabulary has at most 65536 tokens, else 4; zeros up to a multiple of 8
//   documents  (documents + 1) × { u64 first token, u64 first byte }; the last entry holds the totals
//   footer     u64 tokens, u64 documents, XXH3-128 of everything before it (32 hexadecimal digits)
class TokenCache {
 public:
  // Throws Error naming the file and what is wrong with it: a different key, a damaged header, length, table
  // or checksum. Reads the whole file once, for the checksum.
  static std::shared_ptr<const TokenCache> open(const std::filesystem::path& path, const std::string& key);

  const std::string& key() const { return key_; }
  uint64_t tokens() const { return tokens_; }
  uint64_t documents() const { return documents_; }
  int32_t operator[](uint64_t i) const {
    return narrow_ ? static_cast<int32_t>(narrow_[i]) : static_cast<int32_t>(wide_[i]);
  }
  DocumentStart document(uint64_t d) const { return table_[d]; }  // d <= documents()

  // Bytes of source text that tokens [begin, end) stand for. Whole documents count as recorded. In a part of
  // a document a token counts the bytes of its piece, without the space that llama tokenizers put before a
  // text; EOS counts 0. That is exact unless the source holds U+2581, whose three bytes a llama tokenizer
  // turns into one space.
  uint64_t bytes(uint64_t begin, uint64_t end, const Tokenizer& tokenizer) const;

 private:
  TokenCache() = default;
  void check(const std::string& key);
  uint64_t piece_bytes(uint64_t d, uint64_t begin, uint64_t end, const Tokenizer& tokenizer) const;

  std::shared_ptr<const MappedFile> file_;
  std::string key_;
  uint64_t tokens_ = 0, documents_ = 0;
  const uint16_t* narrow_ = nullptr;  // one of the two
  const uint32_t* wide_ = nullptr;
  const DocumentStart* table_ = nullptr;
};

// A run of a cache's tokens.
struct TokenRange {
  std::shared_ptr<const TokenCache> cache;
  uint64_t begin = 0, end = 0;
  uint64_t size() const { return end - begin; }
  int32_t operator[](uint64_t i) const { return (*cache)[begin + i]; }
};

// Thrown when `cancel` was set; nothing is left behind.
struct Cancelled : Error {
  Cancelled() : Error("cancelled") {}
};

struct CacheOptions {
  std::filesystem::path folder;  // created when missing
  int threads = 1;
  // Called now and then by the calling thread: the sources are first read for their checksum, then encoded.
  enum class Stage { reading, encoding };
  std::function<void(Stage, uint64_t bytes_done, uint64_t bytes_total)> progress;
  const std::atomic<bool>* cancel = nullptr;
};

struct PreparedTokens {
  std::shared_ptr<const TokenCache> cache;
  bool built = false;  // false: an earlier run's file was used
  std::string damage;  // why an earlier file was not used; empty when there was none or it was good
};

// Opens the cache of a corpus in `options.folder`, or builds it: the same bytes at any thread count. The
// file's name is the key, a checksum of the sources' kinds and contents in order, of the tokenizer and of the
// format's version. A damaged file is replaced. Empty documents are left out. Throws Error when no text is
// left, or as reading and writing do.
PreparedTokens prepare_tokens(const Corpus& corpus, const Tokenizer& tokenizer, const CacheOptions& options);

struct TokenSplits {
  TokenRange training;
  TokenRange validation;    // empty when nothing is held out
  std::string description;  // what exactly is held out
};

// Holds out the end of a cache: its last documents, from the document whose start lies nearest to the last
// `fraction` of the tokens. When no start lies within half of that fraction of it (few, long documents), a
// document is cut there instead, between two tokens. A fraction of 0 holds out nothing. Throws Error for a
// fraction outside [0, 1) or when a part would be empty.
TokenSplits split_tokens(std::shared_ptr<const TokenCache> cache, double fraction);

}  // namespace gladius
