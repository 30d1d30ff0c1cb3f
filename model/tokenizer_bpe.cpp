#include "model/tokenizer_bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace gladius {
namespace {

constexpr uint32_t none = UINT32_MAX;
// Below this many symbols searching them all for the best pair is faster than a queue.
constexpr size_t short_word = 32;

}  // namespace

BpeMerger::BpeMerger(size_t pairs) : table_(std::bit_ceil(2 * pairs + 2)) {}

size_t BpeMerger::slot(Symbol left, Symbol right) const {
  const uint64_t key = uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  const size_t mask = table_.size() - 1;
  size_t at = static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 32) & mask;  // Fibonacci hashing
  while (table_[at].left != no_symbol && (table_[at].left != left || table_[at].right != right)) {
    at = (at + 1) & mask;
  }
  return at;
}

const BpeMerger::Pair* BpeMerger::find(Symbol left, Symbol right) const {
  if (left == no_symbol || right == no_symbol) return nullptr;
  const Pair& pair = table_[slot(left, right)];
  return pair.left == no_symbol ? nullptr : &pair;
}

void BpeMerger::add(Symbol left, Symbol right, uint32_t rank, Symbol merged) {
  Pair& pair = table_[slot(left, right)];
  if (pair.left == no_symbol) pair = {left, right, rank, merged};
}

void BpeMerger::merge(std::vector<Symbol>& symbols, Workspace& workspace) const {
  if (symbols.size() <= short_word) {
    merge_short(symbols);
  } else {
    merge_long(symbols, workspace);
  }
}

void BpeMerger::merge_short(std::vector<Symbol>& symbols) const {
  const Pair* pairs[short_word];  // pairs[i]: symbols i and i + 1
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    const Pair* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < n; ++i) {
      if (pairs[i] != nullptr && (best == nullptr || pairs[i]->rank < best->rank)) best = pairs[i], at = i;
    }
    if (best == nullptr) break;
    symbols[at] = best->merged;
    std::move(symbols.begin() + static_cast<ptrdiff_t>(at) + 2, symbols.begin() + static_cast<ptrdiff_t>(n),
              symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    std::move(pairs + at + 1, pairs + n - 1, pairs + at);
    --n;
    if (at > 0) pairs[at - 1] = find(symbols[at - 1], symbols[at]);
    if (at + 1 < n) pairs[at] = find(symbols[at], symbols[at + 1]);
  }
  symbols.resize(n);
}

void BpeMerger::push(uint32_t left, uint32_t right, Workspace& workspace) const {
  if (left == none || right == none) return;
  const Symbol right_symbol = workspace.nodes[right].symbol;
  const Pair* pair = find(workspace.nodes[left].symbol, right_symbol);
  if (pair == nullptr) return;
  workspace.queue.push_back({uint64_t{pair->rank} << 32 | left, right, right_symbol, pair->merged});
  std::push_heap(workspace.queue.begin(), workspace.queue.end(),
                 [](const auto& a, const auto& b) { return a.order > b.order; });
}

void BpeMerger::merge_long(std::vector<Symbol>& symbols, Workspace& workspace) const {
  auto& nodes = workspace.nodes;
  auto& queue = workspace.queue;
  const auto n = static_cast<uint32_t>(symbols.size());
  nodes.resize(n);
  queue.clear();
  for (uint32_t i = 0; i < n; ++i) nodes[i] = {symbols[i], i == 0 ? none : i - 1, i + 1 == n ? none : i + 1};
  for (uint32_t i = 0; i + 1 < n; ++i) push(i, i + 1, workspace);

  std::vector<bool> merged_away(n);
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), [](const auto& a, const auto& b) { return a.order > b.order; });
    const Workspace::Candidate candidate = queue.back();
    queue.pop_back();
    const auto left = static_cast<uint32_t>(candidate.order);
    const uint32_t right = candidate.right;
    // Out of date: a side was merged into its left neighbour, or the right one has grown. (The left one can
    // only grow by taking the right one.)
    if (merged_away[left] || merged_away[right] || nodes[right].symbol != candidate.right_symbol) continue;
    merged_away[right] = true;
    nodes[left].symbol = candidate.merged;
    nodes[left].next = nodes[right].next;
    if (nodes[right].next != none) nodes[nodes[right].next].previous = left;
    push(nodes[left].previous, left, workspace);
    push(left, nodes[left].next, workspace);
  }

  size_t count = 0;
  for (uint32_t i = 0; i != none; i = nodes[i].next) symbols[count++] = nodes[i].symbol;
  symbols.resize(count);
}

WordCache::WordCache(size_t text_bytes) {
  if (text_bytes >= 1024) entries_.resize(std::min<size_t>(std::bit_floor(text_bytes) / 16, 32768));
}

bool WordCache::copy(std::string_view word, std::vector<int32_t>& ids) {
  if (entries_.empty()) return false;
  slot_ = std::hash<std::string_view>{}(word) & (entries_.size() - 1);
  const Entry& entry = entries_[slot_];
  if (entry.word != word) return false;
  const size_t size = ids.size();
  ids.resize(size + entry.count);
  std::copy_n(ids.begin() + static_cast<ptrdiff_t>(entry.begin), entry.count,
              ids.begin() + static_cast<ptrdiff_t>(size));
  return true;
}

void WordCache::remember(std::string_view word, size_t begin, const std::vector<int32_t>& ids) {
  if (entries_.empty() || ids.size() - begin > UINT32_MAX) return;
  entries_[slot_] = {word, begin, static_cast<uint32_t>(ids.size() - begin)};
}

}  // namespace gladius
