#include "model/sequence_batch.h"

#include <algorithm>

namespace gladius {

namespace {

int64_t longest_of(const SequenceBatch::Options& options) {
  return options.longest > 0 ? std::min(options.longest, options.tokens) : options.tokens;
}

}  // namespace

SequenceBatch::SequenceBatch(Context& ctx, const Model& model, const Options& options)
    : ctx_(ctx),
      model_(model),
      options_(options),
      rope_table_(make_rope_table(model.config, longest_of(options), ctx.pool)),
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
  if (most > longest_of(options_))
    fail("a sequence of {} tokens does not fit a cache of {} a sequence", most, longest_of(options_));
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
  if (sequence.kv.length > sequence.taken_over)  // else others hold all of it
    remembered_.push_back(std::move(sequence));
  else
    cache_.truncate(sequence.kv, 0);
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
  const auto used = std::find_if(remembered_.begin(), remembered_.end(),
                                 [&](const Sequence& other) { return &other == source; });
  if (used != remembered_.end()) std::rotate(used, used + 1, remembered_.end());
  // Nothing is forgotten in vain: of what it needs alone, sequences at work must leave enough. A block that
  // it shares in part is copied, or its own once nobody else remembers it.
  const int64_t own = KvCache::blocks_for(sequence.most) - longest / kv_block_tokens;
  const int64_t left = cache_.blocks() - blocks_in_use() + (longest % kv_block_tokens != 0 ? 1 : 0);
  while (own > left || !cache_.reserve(sequence.kv, sequence.most - longest)) {
    if (own > left || remembered_.empty()) {
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

// Blocks that sequences at work hold, those that several share counted once.
int64_t SequenceBatch::blocks_in_use() const {
  std::vector<bool> used(static_cast<size_t>(cache_.blocks()));
  for (const auto& [id, sequence] : active_)
    for (const int32_t block : sequence.kv.blocks) used[static_cast<size_t>(block)] = true;
  return std::count(used.begin(), used.end(), true);
}

std::vector<SequenceBatch::Part> SequenceBatch::choose_parts() {
  std::vector<Part> parts;
  int64_t room = options_.most_per_pass;
  const auto choose = [&](bool one, auto begin, auto end) {
    for (auto at = begin; at != end && room > 0; ++at) {
      auto& [id, sequence] = *at;
      const int64_t unread = sequence.admitted ? sequence.unread() : 0;
      if (unread == 0 || (unread == 1) != one) continue;
      parts.push_back({id, &sequence, std::min(unread, room)});
      room -= parts.back().rows;
    }
  };
  const auto next = active_.upper_bound(last_of_one_);
  choose(true, next, active_.end());
  choose(true, active_.begin(), next);
  if (!parts.empty()) last_of_one_ = parts.back().id;
  choose(false, active_.begin(), active_.end());
  return parts;
}

// The hidden states of the last row of each part.
Tensor SequenceBatch::last_states(std::span<const Part> parts) {
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
  const Past past{cache_, sequences, true};
  return forward(ctx_, model_, rope_table_, batch, &past);
}

// Of the sequences that have no more to read.
void SequenceBatch::write_logits(std::span<const Part> parts, const Tensor& states) {
  std::vector<int64_t> whole;
  for (size_t i = 0; i < parts.size(); ++i)
    if (parts[i].rows == parts[i].sequence->unread()) whole.push_back(static_cast<int64_t>(i));
  if (whole.empty()) return;
  logits_ = logits(ctx_, model_, take_rows(ctx_, states, whole));
  const auto V = static_cast<size_t>(model_.config.vocab);
  for (size_t i = 0; i < whole.size(); ++i)
    ready_.push_back({parts[static_cast<size_t>(whole[i])].id, {logits_.f32() + i * V, V}});
}

std::span<const SequenceBatch::Ready> SequenceBatch::step() {
  ready_.clear();
  admit();
  const std::vector<Part> parts = choose_parts();
  if (parts.empty()) return ready_;
  write_logits(parts, last_states(parts));
  for (const Part& part : parts) part.sequence->kv.length += part.rows;
  return ready_;
}

}  // namespace gladius
