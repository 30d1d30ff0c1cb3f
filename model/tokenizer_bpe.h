// What both tokenizers share: merging neighbours in the order of their ranks, and not merging the same word
// twice.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace gladius {

// A symbol is a number: a token id, or a number above them for a character that is part of tokens but no
// token itself.
using Symbol = int32_t;
constexpr Symbol no_symbol = -1;

// Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909): of all neighbouring pairs that have a rank,
// the lowest rank is merged first, of equal ranks the leftmost, until none is left. Immutable after the last
// add().
class BpeMerger {
 public:
  // Buffers of one caller, so that merging word after word does not allocate.
  struct Workspace {
    struct Node {
      Symbol symbol;
      uint32_t previous, next;
    };
    struct Candidate {
      uint64_t order;  // rank << 32 | left
      uint32_t right;
      Symbol right_symbol, merged;
    };
    std::vector<Node> nodes;
    std::vector<Candidate> queue;
  };

  // Room for this many pairs.
  explicit BpeMerger(size_t pairs);
  // left and right (not no_symbol) become merged. The first rank given to a pair counts.
  void add(Symbol left, Symbol right, uint32_t rank, Symbol merged);
  // Merges in place; what remains are the first symbols.size() entries. O(n log n). At most 2^32 - 2 symbols.
  void merge(std::vector<Symbol>& symbols, Workspace& workspace) const;

 private:
  struct Pair {
    Symbol left = no_symbol, right = no_symbol;
    uint32_t rank = 0;
    Symbol merged = no_symbol;
  };
  const Pair* find(Symbol left, Symbol right) const;
  size_t slot(Symbol left, Symbol right) const;
  void merge_short(std::vector<Symbol>& symbols) const;
  void merge_long(std::vector<Symbol>& symbols, Workspace& workspace) const;
  void push(uint32_t left, uint32_t right, Workspace& workspace) const;

  std::vector<Pair> table_;  // open addressing; a power of two, at most half full
};

// Remembers where the ids of a text's words already stand in its output, so that a repeated word costs one
// look-up. A word may be forgotten when another one takes its place.
class WordCache {
 public:
  explicit WordCache(size_t text_bytes);
  // Appends the ids of word when they are known.
  bool copy(std::string_view word, std::vector<int32_t>& ids);
  // The ids of the word that copy() was last asked for are ids[begin ..]. Its characters must outlive the
  // cache.
  void remember(std::string_view word, size_t begin, const std::vector<int32_t>& ids);

 private:
  struct Entry {
    std::string_view word;
    size_t begin = 0;
    uint32_t count = 0;
  };
  std::vector<Entry> entries_;  // a power of two, or none for short texts
  size_t slot_ = 0;             // of the last copy()
};

}  // namespace gladius
