// The reader's index of every operation: one abstract Backend with one method per operation on whole arrays.
//
// Letters:
//   B  sequences in a batch             H  query heads                C  model width
//   T  positions of a sequence          G  key/value heads, H = n*G   F  feed-forward width
//   M  rows, usually B*T tokens         D  width of a head            V  vocabulary
//   M, N, K  rows, columns and summed dimension of a matrix product
// X[M,K] is row-major and contiguous unless a stride is given; strides and sizes count elements, not bytes.
//
// Above each method stand the equation, the shapes, and what accumulates. An output that "accumulates" is
// added to when its flag is set and overwritten when it is not; every other output is overwritten. Outputs
// may not overlap inputs unless said.
//
// Calls of one backend must not overlap: it serves one caller at a time, with scratch memory of its own and
// as many threads as it was made with. Callers check shapes (engine/ops). A backend does not throw, and it
// does not allocate, but for attention with heads wider than 256, which only the reference loops compute.
//
// The same build gives the same bits at any number of threads: work is split over outputs, never over a
// summed dimension, or over fixed chunks that are added in a fixed order. (oneDNN's backend, which is there
// to compare with, promises less: see make_onednn_backend.)
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/dtype.h"

namespace gladius {

// What the F32 factors of a matrix product are rounded to before they are multiplied; sums are F32. BF16
// products are faster where the CPU has instructions for them, and the same elsewhere.
enum class Precision { fp32, bf16 };
constexpr std::string_view precision_name(Precision precision) {
  return precision == Precision::bf16 ? "bf16" : "fp32";
}

struct MatmulDims {
  int64_t M, N, K;  // C[M,N], summed over K
  Precision precision = Precision::fp32;
};

// What happens to a matrix product's sum before it is stored: C = sum (+ C if accumulate) (+ residual).
struct Epilogue {
  bool accumulate = false;
  const float* residual = nullptr;  // [M,N], added to the sum; may be C itself only through accumulate
};

// A weight matrix [N,K] in any dtype; rows are row_bytes(dtype, K) apart.
struct WeightView {
  DType dtype;
  const void* data;
  bool panels = false;  // in the form that Backend::make_panels wrote
};

// One of several products with the same A: C[M,N] = A · W[N,K]ᵀ.
struct WeightProduct {
  WeightView W;
  int64_t N;
  float* C;
};

// The largest K of matmul_weight: a row converted to another type has to fit a backend's scratch memory.
inline constexpr int64_t max_weight_columns = 1 << 20;

// Query i of Tq stands at position Tk - Tq + i and sees the keys 0 .. its position.
struct AttentionDims {
  int64_t B;                // sequences
  int64_t Tq, Tk;           // query rows and key rows of each
  int64_t H, G, D;          // query head h reads key/value head h / (H / G)
  int64_t q_stride;         // from one query row to the next, >= H*D; sequences are Tq * q_stride apart
  int64_t kv_stride;        // from one key (value) row to the next, >= G*D
  int64_t kv_batch_stride;  // from one sequence's keys (values) to the next, >= Tk * kv_stride
  float scale;              // of the scores, usually 1/sqrt(D)
};

// A cache of keys and values: blocks of kv_block_tokens tokens, each [G, kv_block_tokens, D] in rows of
// row_bytes(dtype, D). The blocks of one sequence may lie anywhere.
inline constexpr int64_t kv_block_tokens = 144;
struct KvCacheView {
  DType dtype;  // F32, F16, BF16, or Q8_0
  void *k, *v;
};
constexpr bool is_kv_type(DType dtype) {
  return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16 || dtype == DType::Q8_0;
}

// Rows of a batch that continue one sequence: its last `rows` tokens of `length`. The key and the value of
// token p lie in the cache's block blocks[p / kv_block_tokens].
struct SequenceRows {
  int64_t first_row, rows, length;
  const int32_t* blocks;
};

struct CachedAttentionDims {
  int64_t H, G, D;  // as in AttentionDims; D a multiple of the cache's block size
  float scale;
};

// What the backward pass of attention and of RMSNorm reads of the forward pass: its inputs and outputs.
struct AttentionState {
  const float *q, *k, *v, *o, *lse;
};
struct RmsNormState {
  const float *x, *w, *r;
};

struct AttentionGradients {
  float *dq, *dk, *dv;
};

// Where a gradient that accumulates goes.
struct GradTarget {
  float* data = nullptr;
  bool accumulate = false;  // added to what is there, else overwritten
};

struct RopeDims {
  int64_t M, heads, D;  // x[M, heads, D], D even
  int64_t stride;       // floats from one row to the next, >= heads*D
};

struct LossDims {
  int64_t M, C, V;                        // hidden rows, their width, vocabulary
  Precision precision = Precision::fp32;  // of the products with the head
};

// Room for the logits of some rows at a time.
struct LogitsRoom {
  float* data;   // [rows, V]
  int64_t rows;  // at least 1
};

struct LossGradients {
  float scale = 1.0f;   // of the loss
  float* dh = nullptr;  // [M,C]; null: neither gradient is computed
  GradTarget dW;        // [V,C]
};

struct AdamWStep {
  float lr, beta1, beta2, eps, weight_decay;
  float correction1, correction2;  // 1 - beta1^t and 1 - beta2^t of step t >= 1
  float grad_scale;                // gradients are multiplied by this first (clipping)
};

enum class RopeDirection { forward, backward };

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // for people, e.g. "cpu (avx2)"
  virtual int threads() const = 0;
  virtual size_t scratch_bytes() const = 0;  // memory that the backend itself holds

  // ---- matrix products ----

  // C[M,N] = A[M,K] · B[N,K]ᵀ, then the epilogue. Forward pass of a linear layer: B is its weight.
  virtual void matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) = 0;

  // C[M,N] = A[M,K] · B[K,N], then the epilogue. Gradient of a linear layer's input.
  virtual void matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) = 0;

  // C[M,N] = A[K,M]ᵀ · B[K,N], then the epilogue. Gradient of a linear layer's weight.
  virtual void matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) = 0;

  // C[M,N] = A[M,K] · W[N,K]ᵀ, then the epilogue; W of any dtype that a weight may have (is_weight_type),
  // K at most max_weight_columns, but for rows of F32. Those are matmul_nt; F32 in panels is always
  // multiplied in fp32. Otherwise each row of A is first converted to dtype_info(W.dtype).dot_with; integer
  // products are exact, block sums are F32. F32 and 16-bit weights may give other bits in panels than as
  // rows.
  virtual void matmul_weight(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) = 0;

  // matmul_weight, without epilogue, by each of several weights: a backend may convert A once for all. d.N is
  // not used.
  virtual void matmul_weights(MatmulDims d, const float* A, std::span<const WeightProduct> products) {
    for (const WeightProduct& p : products) matmul_weight({d.M, p.N, d.K, d.precision}, A, p.W, p.C, {});
  }

  // The same values in a form whose products are faster, for a backend that has one. panels_bytes: how many
  // bytes W[N,K] takes in it, 0 where there is none. make_panels writes them, 64-byte aligned, for
  // backends of this kind; only matmul_weight and matmul_weights read them.
  virtual int64_t panels_bytes(DType dtype, int64_t N, int64_t K) const {
    return (void)dtype, (void)N, (void)K, 0;
  }
  virtual void make_panels(DType dtype, int64_t N, int64_t K, const void* rows, void* panels) {
    (void)dtype, (void)N, (void)K, (void)rows, (void)panels;
  }

  // ---- embedding ----

  // y[m,:] = W[tokens[m],:]; W[V,C] of any dtype but I32, y[M,C]. Tokens must be in [0, V).
  virtual void embedding(LossDims d, const int32_t* tokens, WeightView W, float* y) = 0;

  // dW[v,:] = sum over m with tokens[m] = v of dy[m,:]; dW[V,C] accumulates.
  virtual void embedding_backward(LossDims d, const int32_t* tokens, const float* dy, float* dW,
                                  bool accumulate) = 0;

  // ---- RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) ----

  // r[m] = 1/sqrt(mean_c x[m,c]² + eps), y[m,c] = x[m,c] * r[m] * w[c].
  // x, y [M,C], w [C], r [M] (may be null).
  virtual void rms_norm(int64_t M, int64_t C, float eps, const float* x, const float* w, float* y,
                        float* r) = 0;

  // With g[c] = dy[m,c] * w[c]:
  //   dx[m,c] = r[m] * (g[c] - x[m,c] * r[m]² * mean_k(g[k] * x[m,k])); accumulates.
  //   dw[c] = sum_m dy[m,c] * x[m,c] * r[m]; accumulates.
  // Where either's data is null, it is not computed.
  virtual void rms_norm_backward(int64_t M, int64_t C, const RmsNormState& f, const float* dy, GradTarget dx,
                                 GradTarget dw) = 0;

  // ---- RoPE (Su et al. 2021, arXiv:2104.09864) on adjacent pairs, as in GGUF's "llama" architecture ----

  // In every head, with c, s = cos, sin[positions[m], i]:
  //   (y[2i], y[2i+1]) = (x[2i] c - x[2i+1] s, x[2i] s + x[2i+1] c)
  // cos, sin [P, D/2], positions in [0, P). Backward is the inverse rotation (s -> -s). y may be x.
  virtual void rope(RopeDims d, const int32_t* positions, const float* cos, const float* sin,
                    RopeDirection direction, const float* x, float* y) = 0;

  // ---- causal grouped-query attention ----

  // For every query row i and its visible keys j:
  //   s[i,j] = scale * q[i]·k[j];  o[i] = sum_j softmax_j(s[i,:]) v[j];  lse[b,h,i] = ln sum_j exp s[i,j]
  // q, o: rows of H*D; k, v: rows of G*D; lse [B,H,Tq] (may be null). No T×T array is held: softmax is
  // computed online (Milakov & Gimelshein 2018, arXiv:1805.02867; tiled as in Dao et al. 2022,
  // arXiv:2205.14135).
  virtual void attention(const AttentionDims& d, const float* q, const float* k, const float* v, float* o,
                         float* lse) = 0;

  // With p = exp(s - lse) and delta[i] = dO[i]·o[i]:
  //   ds[i,j] = p[i,j] (dO[i]·v[j] - delta[i])
  //   dq[i] = scale * sum_j ds[i,j] k[j];  dk[j] = scale * sum_i ds[i,j] q[i];  dv[j] = sum_i p[i,j] dO[i]
  // dk and dv sum over the H/G query heads of a group. Strides of dO and dq as q, of dk and dv as k. Only
  // Tq = Tk.
  virtual void attention_backward(const AttentionDims& d, const AttentionState& f, const float* dO,
                                  const AttentionGradients& g) = 0;

  // Attention of rows that continue sequences (paged as in Kwon et al. 2023, arXiv:2309.06180): the rows of k
  // and v [M, G*D] are put into the cache, rounded to its type.
  virtual void append_to_cache(const CachedAttentionDims& d, std::span<const SequenceRows> sequences,
                               const float* k, const float* v, KvCacheView cache) = 0;
  // Every row of q [M, H*D] attends to its sequence's tokens up to itself, as above, all of which the cache
  // holds. o as q.
  virtual void cached_attention(const CachedAttentionDims& d, std::span<const SequenceRows> sequences,
                                const float* q, KvCacheView cache, float* o) = 0;

  // ---- SwiGLU (Shazeer 2020, arXiv:2002.05202) ----

  // y = silu(g) * u with silu(g) = g / (1 + exp(-g)); n elements each.
  virtual void swiglu(int64_t n, const float* g, const float* u, float* y) = 0;

  // dg = dy * u * sigma(g) * (1 + g * (1 - sigma(g))), du = dy * silu(g) with sigma(g) = 1 / (1 + exp(-g)).
  // dg may be g and du may be u.
  virtual void swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                               float* du) = 0;

  // ---- softmax and loss ----

  // y[m,n] = exp(x[m,n] - max_k x[m,k]) / sum_k exp(x[m,k] - max). y may be x.
  virtual void softmax(int64_t M, int64_t N, const float* x, float* y) = 0;

  // dx[m,n] = y[m,n] * (dy[m,n] - sum_k dy[m,k] y[m,k]). dx may be dy.
  virtual void softmax_backward(int64_t M, int64_t N, const float* y, const float* dy, float* dx) = 0;

  // Cross entropy fused with the LM head, in chunks of rows, so that full logits never exist:
  //   z = h[M,C] · W[V,C]ᵀ
  //   losses[m] = ln sum_v exp z[m,v] - z[m, targets[m]], or 0 where targets[m] < 0 (ignored)
  // With gradients:
  //   dz[m,v] = scale * (softmax(z)[m,v] - [v = targets[m]]), 0 for ignored rows
  //   dh[M,C] = dz · W;  dW[V,C] = dzᵀ · h, accumulates
  virtual void linear_cross_entropy(LossDims d, const float* h, const float* W, const int32_t* targets,
                                    LogitsRoom logits, float* losses, const LossGradients& g) = 0;

  // ---- optimiser ----

  // AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101), decoupled decay: with g = grad_scale * grad,
  //   m = beta1 m + (1-beta1) g
  //   v = beta2 v + (1-beta2) g²
  //   p = p - lr * weight_decay * p - lr * (m / correction1) / (sqrt(v / correction2) + eps)
  // p, m, v are updated in place.
  virtual void adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) = 0;

  // sum_i x[i]², added in double over fixed chunks; not finite when an element is not.
  virtual double sum_of_squares(int64_t n, const float* x) = 0;

  // ---- elementwise ----

  virtual void add(int64_t n, const float* a, const float* b, float* y) = 0;  // y = a + b; y may be a or b
  virtual void copy(int64_t n, const float* x, float* y) = 0;                 // y = x
  virtual void fill(int64_t n, float value, float* y) = 0;                    // y = value

  // ---- conversion ----

  // Converts rows × cols floats to any dtype, row by row, exactly as llama.cpp's quantiser does (bytes
  // compare equal). importance [cols] weighs the squared errors of a row's elements; null: unweighted.
  virtual void quantize(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance,
                        void* y) = 0;

  // The inverse, to floats.
  virtual void dequantize(DType dtype, int64_t rows, int64_t cols, const void* x, float* y) = 0;
};

// Plain loops that accumulate in double: slow, single-threaded, the definition that the others are tested
// against. Unlike the others it allocates while it works.
std::unique_ptr<Backend> make_reference_backend();

// The CPU's kernels. isa: a name from cpu_isas(), or empty for the environment variable GLADIUS_ISA if set,
// else the best that this CPU runs. Throws std::invalid_argument for a name that is unknown or that this CPU
// cannot run.
std::unique_ptr<Backend> make_cpu_backend(int threads, std::string_view isa = {});

// The same with the dense products of F32 matrices done by oneDNN, to compare the two: matmul_nt, _nn, _tn
// and what is made of them (matmul_weight with F32 weights, linear_cross_entropy). bf16 products are oneDNN's
// where it has some for this CPU; name() says so. oneDNN chooses its own instruction set, whatever isa says.
//
// Its products do not promise the same bits at another number of threads. They take memory while they work:
// oneDNN's own, and for bf16 as much as the largest rounded factors need; and they throw std::exception when
// oneDNN fails, which it does when there is no memory.
//
// Throws std::invalid_argument as make_cpu_backend does, and where onednn_version() is empty.
std::unique_ptr<Backend> make_onednn_backend(int threads, std::string_view isa = {});

// Of the library that this program runs with, e.g. "2.6.3"; empty in a build without oneDNN.
std::string onednn_version();

// Does nothing: a step run on it touches no data, so that its memory can be measured without doing its work.
std::unique_ptr<Backend> make_null_backend();

}  // namespace gladius
