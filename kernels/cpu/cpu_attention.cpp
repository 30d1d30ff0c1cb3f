// Attention: tasks are tiles of query rows (forward) or whole key/value heads of a sequence (backward, where
// the rows of a head add to the same keys). A few rows with many keys are cut along the keys: into pieces
// that depend on the number of keys only, and are added in order.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/parallel.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/cached_attention.h"

namespace gladius::cpu {

void CpuBackend::attention(const AttentionDims& d, const float* q, const float* k, const float* v, float* o,
                           float* lse) {
  if (d.D > attention_max_width) return reference::attention(d, q, k, v, o, lse);
  const int64_t rows = d.Tq * (d.H / d.G), tiles = (rows + attention_rows - 1) / attention_rows;
  parallel_tasks(threads_, d.B * d.G * tiles, [&](int64_t task, int worker) {
    // Head by head, so that its keys stay in cache. The last rows see the most keys: their tiles go first, so
    // that no thread is left with a long one at the end.
    const int64_t tile = tiles - 1 - task % tiles, head = task / tiles;
    f_.attention({.d = &d,
                  .b = head / d.G,
                  .g = head % d.G,
                  .row_begin = tile * attention_rows,
                  .row_end = std::min(rows, (tile + 1) * attention_rows),
                  .q = q,
                  .k = k,
                  .v = v,
                  .o = o,
                  .lse = lse,
                  .scratch = attention_.data() + worker * attention_scratch});
  });
}

void CpuBackend::attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                                    const AttentionGradients& g) {
  if (d.D > attention_max_width)
    return reference::attention_backward(d, {f.q, f.k, f.v, f.o, f.lse}, dO, g.dq, g.dk, g.dv);
  parallel_tasks(threads_, d.B * d.G, [&](int64_t head, int worker) {
    f_.attention_backward({.d = &d,
                           .b = head / d.G,
                           .g = head % d.G,
                           .q = f.q,
                           .k = f.k,
                           .v = f.v,
                           .o = f.o,
                           .lse = f.lse,
                           .dO = dO,
                           .dq = g.dq,
                           .dk = g.dk,
                           .dv = g.dv,
                           .scratch = attention_.data() + worker * attention_scratch});
  });
}

namespace {

// How the query rows of a head that continue one sequence are cut into tasks.
struct SequenceTasks {
  int64_t rows;        // query rows times heads of the group
  int64_t tiles;       // of the rows
  int64_t pieces = 1;  // of the keys, where there is one tile
  int64_t piece_keys;

  SequenceTasks(const CachedAttentionDims& d, const SequenceRows& s)
      : rows(s.rows * (d.H / d.G)), tiles(ceil_div(rows, attention_rows)), piece_keys(s.length) {
    if (rows > few_rows) return;
    const int64_t key_tiles = ceil_div(s.length, attention_keys);
    const int64_t most_pieces = std::max<int64_t>(1, attention_partials / d.G);
    piece_keys =
        std::max(attention_piece_keys / attention_keys, ceil_div(key_tiles, most_pieces)) * attention_keys;
    pieces = ceil_div(s.length, piece_keys);
  }
};

// Some sequences' tasks, numbered one after the other: those of a sequence head by head.
class Pass {
 public:
  // As many of the sequences as there is room for, at least one.
  Pass(const CachedAttentionDims& d, std::span<const SequenceRows> sequences) : d_(d), sequences_(sequences) {
    for (const SequenceRows& s : sequences) {
      const SequenceTasks cut(d, s);
      const int64_t partials = first_partial_[size_] + (cut.pieces > 1 ? d.G * cut.pieces : 0);
      if (size_ == most || (size_ > 0 && partials > attention_partials)) break;
      first_task_[size_ + 1] = first_task_[size_] + d.G * cut.tiles * cut.pieces;
      first_partial_[++size_] = partials;
    }
  }
  size_t size() const { return size_; }
  int64_t heads() const { return static_cast<int64_t>(size_) * d_.G; }
  int64_t tasks() const { return first_task_[size_]; }
  bool in_pieces() const { return first_partial_[size_] > 0; }

  struct Place {
    const SequenceRows& sequence;
    SequenceTasks cut;
    int64_t g, tile, piece;
    int64_t first_partial;  // of the head; its pieces follow each other
  };
  // As in attention(), the tiles that see the most keys go first.
  Place place(int64_t task) const {
    size_t s = 0;
    while (first_task_[s + 1] <= task) ++s;
    task -= first_task_[s];
    const SequenceTasks cut(d_, sequences_[s]);
    const int64_t of_head = cut.tiles * cut.pieces;
    return head(s, cut, task / of_head, cut.tiles - 1 - task % of_head / cut.pieces, task % cut.pieces);
  }
  Place head(int64_t number) const {
    const auto s = static_cast<size_t>(number / d_.G);
    return head(s, {d_, sequences_[s]}, number % d_.G, 0, 0);
  }

 private:
  Place head(size_t s, const SequenceTasks& cut, int64_t g, int64_t tile, int64_t piece) const {
    return {sequences_[s], cut, g, tile, piece, first_partial_[s] + g * cut.pieces};
  }

  static constexpr size_t most = 64;
  const CachedAttentionDims& d_;
  std::span<const SequenceRows> sequences_;
  size_t size_ = 0;
  int64_t first_task_[most + 1] = {}, first_partial_[most + 1] = {};
};

}  // namespace

void CpuBackend::append_to_cache(const CachedAttentionDims& d, std::span<const SequenceRows> sequences,
                                 const float* k, const float* v, KvCacheView cache) {
  for (const SequenceRows& s : sequences) {
    parallel_ranges(threads_, s.rows, attention_rows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t g = 0; g < d.G; ++g) {
          const int64_t from = ((s.first_row + i) * d.G + g) * d.D, p = s.length - s.rows + i;
          const int64_t to = reference::cache_offset(d, s, cache.dtype, p, g);
          table_.q.quantize_row(cache.dtype, d.D, k + from, nullptr, static_cast<std::byte*>(cache.k) + to);
          table_.q.quantize_row(cache.dtype, d.D, v + from, nullptr, static_cast<std::byte*>(cache.v) + to);
        }
    });
  }
}

void CpuBackend::cached_attention(const CachedAttentionDims& d, std::span<const SequenceRows> sequences,
                                  const float* q, KvCacheView cache, float* o) {
  if (d.D > attention_max_width) {
    for (const SequenceRows& s : sequences) reference::cached_attention(d, s, q, cache, o);
    return;
  }
  while (!sequences.empty()) {
    const Pass pass(d, sequences);
    const auto with_task = [&](const Pass::Place& at, int worker, auto&& run) {
      const AttentionDims dims = reference::sequence_dims(d, at.sequence, d.D);
      const CachedKeys keys{cache, d.G, row_bytes(cache.dtype, d.D), at.sequence.blocks,
                            table_.q.dequantize_row};
      run(AttentionTask{.d = &dims,
                        .b = 0,
                        .g = at.g,
                        .row_begin = at.tile * attention_rows,
                        .row_end = std::min(at.cut.rows, (at.tile + 1) * attention_rows),
                        .q = q + at.sequence.first_row * dims.q_stride,
                        .k = nullptr,
                        .v = nullptr,
                        .o = o + at.sequence.first_row * dims.q_stride,
                        .lse = nullptr,
                        .scratch = attention_.data() + worker * attention_scratch,
                        .cached = &keys});
    };
    const auto partials = [&](int64_t number) {
      return partials_.data() + number * attention_partial_floats;
    };
    parallel_tasks(threads_, pass.tasks(), [&](int64_t number, int worker) {
      const Pass::Place at = pass.place(number);
      with_task(at, worker, [&](AttentionTask task) {
        task.key_begin = at.piece * at.cut.piece_keys;
        task.key_end = task.key_begin + at.cut.piece_keys;
        if (at.cut.pieces > 1) task.partial = partials(at.first_partial + at.piece);
        f_.attention(task);
      });
    });
    if (pass.in_pieces()) {
      for (int64_t number = 0; number < pass.heads(); ++number) {
        const Pass::Place at = pass.head(number);
        if (at.cut.pieces == 1) continue;
        with_task(at, 0, [&](const AttentionTask& task) {
          f_.attention_merge(task, at.cut.pieces, partials(at.first_partial));
        });
      }
    }
    sequences = sequences.subspan(pass.size());
  }
}

}  // namespace gladius::cpu
