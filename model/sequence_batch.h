// Several sequences at work on one model at once: each pass through it reads tokens of many of them
// (continuous batching, Yu et al. 2022, "Orca"), so that the weights are read once for all. A sequence that
// begins as another one did takes over what the cache holds of that.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "model/model.h"

namespace gladius {

class SequenceBatch {
 public:
  struct Options {
    int64_t tokens;               // room in the cache (KvCache)
    int64_t longest = 0;          // most tokens of one sequence; 0: as many as the cache has room for
    DType kv_type = DType::F32;   // of the cache
    int64_t most_per_pass = 512;  // tokens that go through the model at once
  };
  // ctx and model must live as long as the batch.
  SequenceBatch(Context& ctx, const Model& model, const Options& options);

  // A new sequence that begins with `tokens`, at least one, and will never hold more than `most`. It waits
  // until the cache has room for all of them; those that came first go first. Returns its number. Throws
  // Error when the cache could never hold `most`, and for a token that is not in the vocabulary.
  int add(std::span<const int32_t> tokens, int64_t most);
  // One more token of a sequence.
  void append(int id, int32_t token);
  // Ends a sequence. What the cache holds of it stays as long as nothing else needs the room.
  void finish(int id);
  // The same, and the cache forgets it.
  void forget(int id);

  struct Ready {
    int id;
    std::span<const float> logits;  // [V], of what follows its last token; valid until the next step
  };
  // Sends one pass's worth of tokens through the model: first one token of each sequence that lacks only
  // that, going on behind the one that came last where there are too many; then the others' in the order in
  // which they came. Returns those that have no more to read.
  std::span<const Ready> step();

  bool idle() const;                 // no sequence has anything to read
  int64_t taken_over(int id) const;  // tokens that the cache held already when the sequence began
  int64_t length(int id) const;      // tokens read
  size_t bytes_per_token() const { return cache_.bytes_per_token(); }

 private:
  struct Sequence {
    std::vector<int32_t> tokens;
    int64_t most = 0;
    bool admitted = false;
    int64_t taken_over = 0;
    KvSequence kv{};
    int64_t unread() const { return static_cast<int64_t>(tokens.size()) - kv.length; }
  };
  // Some of a sequence's unread tokens, which go through the model in this pass.
  struct Part {
    int id;
    Sequence* sequence;
    int64_t rows;
  };

  void check_token(int32_t token) const;
  Sequence& find(int id);
  const Sequence& find(int id) const { return const_cast<SequenceBatch*>(this)->find(id); }
  void admit();
  bool admit(Sequence& sequence);
  int64_t blocks_in_use() const;
  std::vector<Part> choose_parts();
  Tensor last_states(std::span<const Part> parts);
  void write_logits(std::span<const Part> parts, const Tensor& states);

  Context& ctx_;
  const Model& model_;
  Options options_;
  RopeTable rope_table_;
  KvCache cache_;
  std::map<int, Sequence> active_;    // by number: in the order in which they came
  std::vector<Sequence> remembered_;  // ended, the least recently used first
  int next_id_ = 0;
  int last_of_one_ = -1;  // the last sequence that one token was read of
  Tensor logits_;
  std::vector<Ready> ready_;
};

}  // namespace gladius
