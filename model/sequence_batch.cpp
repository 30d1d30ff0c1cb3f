#include "model/sequence_batch.h"

#include <algorithm>

namespace gladius {

SequenceBatch::SequenceBatch(Context& ctx, const Model& model, const Options& options)
    : ctx_(ctx),
      model_(model),
      options_(options),
      rope_table_(make_rope_table(model.config, options.tokens, ctx.pool)),
      cache_(model.config, options.kv_type, options.tokens, ctx.pool) {
  if (options.most_per_pass < 1) fail("a pass through the model takes at least one token");
}

void SequenceBatch::check_token(int32_t token) const {
  if (token < 0 || token >= model_.config.vocab)
    fail("token {} is not in the vocabulary of {}", token, model_.config.vocab);
}

SequenceBatch::Sequence& SequenceBatch::find(int id) {
  const auto found = active_.find(id);
  if (found == active_.end()) fail("there is no sequence {}", id);
  return found->second;
}

int SequenceBatch::add(std::span<const int32_t> tokens, int64_t most) {
  if (tokens.empty()) fail("a sequence begins with at least one token");
  for (const int32_t token : tokens) check_token(token);
  if (static_cast<int64_t>(tokens.size()) > most)
    fail("a sequence of {} tokens cannot begin with {}", most, tokens.size());
  if (most > options_.tokens)
    fail("a sequence of {} tokens does not fit a cache of {}", most, options_.tokens);
  const int id = next_id_++;
  active_[id] = {.tokens = {tokens.begin(), tokens.end()}, .most = most};
  return id;
}

void SequenceBatch::append(int id, int32_t token) {
  Sequence& sequence = find(id);
  check_token(token);
  if (static_cast<int64_t>(sequence.tokens.size()) == sequence.most)
    fail("sequence {} has the {} tokens that it may have", id, sequence.most);
  sequence.tokens.push_back(token);
}

void SequenceBatch::finish(int id) {
  Sequence& sequence = find(id);
  cache_.truncate(sequence.kv, sequence.kv.length);  // what was reserved for more
  sequence.tokens.resize(static_cast<size_t>(sequence.kv.length));
  if (!sequence.tokens.empty()) remembered_.push_back(std::move(sequence));
  active_.erase(id);
}

void SequenceBatch::forget(int id) {
  cache_.truncate(find(id).kv, 0);
  active_.erase(id);
}

bool SequenceBatch::idle() const {
  return std::none_of(active_.begin(), active_.end(), [](const auto& a) { return a.second.unread() > 0; });
}

int64_t SequenceBatch::taken_over(int id) const { return find(id).taken_over; }

int64_t SequenceBatch::length(int id) const { return find(id).kv.length; }

void SequenceBatch::admit() {
  for (auto& [id, sequence] : active_)
    if (!sequence.admitted && !admit(sequence)) return;  // nobody is overtaken
}

// Takes over the longest beginning that the cache holds, but for the last token, whose logits are wanted, and
// reserves all that the sequence may need, so that it can never get stuck.
bool SequenceBatch::admit(Sequence& sequence) {
  const Sequence* source = nullptr;
  int64_t longest = 0;
  const auto consider = [&](const Sequence& other) {
    const auto most = std::min(static_cast<size_t>(other.kv.length), sequence.tokens.size() - 1);
    const auto end = sequence.tokens.begin() + static_cast<std::ptrdiff_t>(most);
    const auto same = std::mismatch(sequence.tokens.begin(), end, other.tokens.begin()).first;
    const int64_t length = same - sequence.tokens.begin();
    if (length > longest) longest = length, source = &other;
  };
  for (const auto& [id, other] : active_) consider(other);
  for (const Sequence& other : remembered_) consider(other);

  if (source) sequence.kv = cache_.fork(source->kv, longest);
  while (!cache_.reserve(sequence.kv, sequence.most - longest)) {
    if (remembered_.empty()) {
      cache_.truncate(sequence.kv, 0);
      return false;
    }
    cache_.truncate(remembered_.front().kv, 0);
    remembered_.erase(remembered_.begin());
  }
  sequence.taken_over = longest;
  sequence.admitted = true;
  return true;
}

std::vector<SequenceBatch::Part> SequenceBatch::choose_parts() {
  std::vector<Part> parts;
  int64_t room = options_.most_per_pass;
  for (const bool one : {true, false}) {
    for (auto& [id, sequence] : active_) {
      const int64_t unread = sequence.admitted ? sequence.unread() : 0;
      if (room == 0 || unread == 0 || (unread == 1) != one) continue;
      parts.push_back({id, &sequence, std::min(unread, room)});
      room -= parts.back().rows;
    }
  }
  return parts;
}

// The hidden states of all rows of the parts.
Tensor SequenceBatch::read(std::span<const Part> parts) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  TokenBatch batch = make_token_batch(1, rows, ctx_.pool);
  std::vector<SequenceRows> sequences;
  int64_t row = 0;
  for (const Part& part : parts) {
    const KvSequence& kv = part.sequence->kv;
    sequences.push_back({row, part.rows, kv.length + part.rows, kv.blocks.data()});
    for (int64_t i = 0; i < part.rows; ++i, ++row) {
      batch.tokens.i32()[row] = part.sequence->tokens[static_cast<size_t>(kv.length + i)];
      batch.positions.i32()[row] = static_cast<int32_t>(kv.length + i);
    }
  }
  const Past past{cache_, sequences};
  const Tensor hidden = forward(ctx_, model_, rope_table_, batch, &past);
  for (const Part& part : parts) part.sequence->kv.length += part.rows;
  return hidden;
}

void SequenceBatch::write_logits(std::span<const Part> parts, const Tensor& hidden) {
  const auto whole = [](const Part& part) { return part.sequence->unread() == 0; };
  const int64_t n = std::count_if(parts.begin(), parts.end(), whole), C = model_.config.hidden;
  if (n == 0) return;
  const Tensor last = ctx_.empty({n, C});
  int64_t row = 0, i = 0;
  for (const Part& part : parts) {
    row += part.rows;
    if (whole(part)) ctx_.backend.copy(C, hidden.f32() + (row - 1) * C, last.f32() + i++ * C);
  }
  logits_ = logits(ctx_, model_, last);
  const int64_t V = model_.config.vocab;
  i = 0;
  for (const Part& part : parts)
    if (whole(part)) ready_.push_back({part.id, {logits_.f32() + i++ * V, static_cast<size_t>(V)}});
}

std::span<const SequenceBatch::Ready> SequenceBatch::step() {
  ready_.clear();
  admit();
  const std::vector<Part> parts = choose_parts();
  if (!parts.empty()) write_logits(parts, read(parts));
  return ready_;
}

}  // namespace gladius
