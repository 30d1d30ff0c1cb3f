// Comparing weights, and verifying what was written: sound conversions pass, each kind of damage is named.
#include "eval/weight_check.h"

#include "engine/random.h"
#include "eval/verification.h"
#include "export/certificate.h"
#include "export/model_gguf.h"
#include "export/quantize.h"
#include "tests/export_support.h"

namespace gladius::test {
namespace {

constexpr DType kTypes[] = {DType::F32,  DType::F16,  DType::BF16, DType::Q8_0, DType::Q6_K, DType::Q5_K,
                            DType::Q5_1, DType::Q5_0, DType::Q4_K, DType::Q4_1, DType::Q4_0};

struct Pair {
  std::unique_ptr<Backend> backend = make_cpu_backend(2);
  std::shared_ptr<BufferPool> pool = BufferPool::make();
  Context ctx{*backend, *pool};
  Model base, tested;  // of one tensor

  explicit Pair(const Shape& shape) : base(of(shape)), tested(base) {}
  Model of(const Shape& shape) const {
    Model model;
    model.specs = {{"blk.0.ffn_up.weight", "", shape, Init::normal, RowOrder::same, 0}};
    model.weights = {Tensor(*pool, DType::F32, shape)};
    return model;
  }
  void convert(DType type, const float* importance = nullptr) { tested = converted(base, type, importance); }
  Model converted(const Model& from, DType type, const float* importance = nullptr) const {
    const Tensor& x = from.weights[0];
    Model to = from;
    to.weights = {Tensor(*pool, type, x.shape())};
    backend->quantize(type, x.shape().rows(), x.shape()[-1], x.f32(), importance, to.weights[0].data());
    return to;
  }
  WeightCheck check(bool importance = false) { return check_weights(ctx, base, tested, importance).front(); }
  WeightCheck check_known() {
    const Expected expected = expected_model(ctx, base, tested, {});
    return check_weights(ctx, base, tested, false, &expected).front();
  }
};

// Values as hard for a quantiser as they come: magnitudes over many decades, single spikes, groups of zeros,
// blocks of one sign.
void fill_hard(const Tensor& weight, uint64_t seed) {
  const Random random(seed, 0);
  const int64_t n = weight.shape().elements();
  random.normal(0, n, 0.0f, 1.0f, weight.f32());
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t kind = random.below(static_cast<uint64_t>(n + i / 32), 6);
    float& x = weight.f32()[i];
    const auto decades = static_cast<float>(random.below(static_cast<uint64_t>(2 * n + i / 16), 12));
    if (kind == 0) x = 0;
    if (kind == 1) x = i % 32 == 5 ? 3.0f : x * 1e-3f;
    if (kind == 2) x *= std::pow(10.0f, -decades);
    if (kind == 3) x = std::fabs(x) + 1.0f;
    if (kind == 4) x = x * x * x;
  }
}

TEST_CASE("weights: sound conversions of hard values pass, with and without importances, from every type") {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Pair p({64, 512});
    fill_hard(p.base.weights[0], seed);
    std::vector<float> importance(512);
    for (size_t i = 0; i < importance.size(); ++i)
      importance[i] = i % 3 == 0 ? 0.0f : std::pow(10.0f, static_cast<float>(i % 7) - 3.0f);
    for (const DType type : kTypes) {
      for (const bool weighted : {false, true}) {
        CAPTURE(seed);
        CAPTURE(dtype_info(type).name);
        CAPTURE(weighted);
        p.convert(type, weighted ? importance.data() : nullptr);
        const WeightCheck check = p.check(weighted);
        CHECK_MESSAGE(check.fault.empty(), check.fault);
        CHECK(check.same == (type == DType::F32));
        if (!weighted) CHECK(check.rms <= rms_limit(type));
        // The coarser one may be the base, too.
        std::swap(p.base, p.tested);
        CHECK_MESSAGE(p.check(weighted).fault.empty(), p.check(weighted).fault);
        std::swap(p.base, p.tested);
      }
    }
  }
}

TEST_CASE("weights: one flipped scale of one block, rows in another order, other values: each is found") {
  for (const DType type : kTypes) {
    CAPTURE(dtype_info(type).name);
    Pair p({64, 512});
    Random(1, 2).normal(0, 64 * 512, 0.0f, 0.05f, p.base.weights[0].f32());
    p.convert(type);
    const Tensor& weight = p.tested.weights[0];
    const DTypeInfo& info = dtype_info(type);
    const auto row = static_cast<size_t>(row_bytes(type, 512));
    const int64_t dense = 2 * 256 / info.block_size;
    // The block that holds row 37's column 256; the sign of its first scale, or of its first value.
    std::byte* block = weight.data() + 37 * row + static_cast<size_t>(dense / 2 * info.block_bytes);
    const size_t sign = type == DType::Q6_K ? 209 : type == DType::F32 ? 3 : 1;
    block[sign] ^= std::byte{0x80};
    const std::string fault = p.check().fault;
    CAPTURE(fault);
    CHECK(contains(fault, "row 37, columns 256 to "));
    block[sign] ^= std::byte{0x80};
    CHECK(p.check().fault.empty());

    std::vector<std::byte> kept(weight.data(), weight.data() + row);
    std::copy_n(weight.data() + row, row, weight.data());
    std::copy_n(kept.data(), row, weight.data() + row);
    CHECK(contains(p.check().fault, "row 0, columns 0 to "));

    Model other = p.of({64, 512});
    Random(1, 3).normal(0, 64 * 512, 0.0f, 0.05f, other.weights[0].f32());
    p.tested = p.converted(other, type);
    CHECK(contains(p.check().fault, fmt::format("% RMS, {} should ", info.name)));
    // Independent values of one deviation are sqrt(2) apart.
    CHECK(p.check().rms == doctest::Approx(std::sqrt(2.0)).epsilon(0.05));
  }
}

TEST_CASE("weights: where the conversion is known, the last bit of a code is found") {
  for (const DType type : kTypes) {
    if (type == DType::F32) continue;
    CAPTURE(dtype_info(type).name);
    Pair p({64, 512});
    Random(1, 2).normal(0, 64 * 512, 0.0f, 0.05f, p.base.weights[0].f32());
    p.convert(type);
    CHECK(p.check_known().fault.empty());
    const Tensor& weight = p.tested.weights[0];
    // A byte of codes in the last block of row 9: all but Q6_K's scale stand before or at its end.
    std::byte* block = weight.data() + 10 * row_bytes(type, 512) - dtype_info(type).block_bytes;
    std::byte& code = dtype_info(type).quantised
                          ? block[type == DType::Q6_K ? 0 : dtype_info(type).block_bytes - 1]
                          : block[0];
    code ^= std::byte{1};
    CHECK(contains(p.check_known().fault, "row 9, columns "));
    CHECK(contains(p.check_known().fault, "are not what converting the base's gives"));
  }
}

struct Written {
  Fixture f;
  Written() {
    f.backend = make_cpu_backend(2);
    Config config = small_config(f.vocab);
    config.hidden = 64, config.intermediate = 256, config.layers = 3;
    f.model = new_model(config, kSeed, *f.pool);
  }
  LoadedModel base() const { return {f.model, f.vocab}; }
  fs::path path() const { return f.folder / "x.gguf"; }
  void save(const Model& model, FileType type) const {
    save_gguf(path(), model, f.vocab, {}, {.type = type}, *f.backend);
  }
  Verification verified(std::optional<DType> stored = {}, const ImportanceMatrix* importance = nullptr,
                        int64_t tokens = 40) {
    Context ctx{*f.backend, *f.pool};
    const LoadedModel rows = stored ? f.load() : load_gguf(path());
    const LoadedModel inference = stored ? f.load() : load_gguf_panels(path(), *f.backend, *f.pool);
    const Conversion conversion{importance, stored};
    return verify(ctx, base(), "base", {&rows, &inference, "x"}, conversion,
                  verification_tokens(f.model.config, tokens));
  }
  size_t index(const std::string& name) const {
    for (size_t k = 0; k < f.model.specs.size(); ++k)
      if (f.model.specs[k].gguf_name == name) return k;
    FAIL(name);
    return 0;
  }
};

TEST_CASE("verify: what was written well passes; what keeps every bit has the same logits") {
  Written w;
  for (const FileType type :
       {FileType::F32, FileType::F16, FileType::Q8_0, FileType::Q4_K_M, FileType::Q4_1}) {
    CAPTURE(file_type_name(type));
    w.save(w.f.model, type);
    const Verification v = w.verified();
    CHECK_MESSAGE(v.fault.empty(), v.fault);
    CHECK(v.weights.size() == w.f.model.specs.size());
    CHECK(v.logits.same == (type == FileType::F32));
    CHECK((v.logits.largest == 0) == (type == FileType::F32));
    CHECK(v.logits.kl_max >= v.logits.kl_mean);
    const Verification few = w.verified({}, nullptr, 3);  // products of few rows
    CHECK_MESSAGE(few.fault.empty(), few.fault);
    CHECK(few.logits.same == (type == FileType::F32));
  }
  for (const DType type : {DType::F32, DType::BF16, DType::F16}) {
    w.f.save(type);
    const Verification v = w.verified(type);
    CHECK_MESSAGE(v.fault.empty(), v.fault);
    CHECK(v.logits.same == (type == DType::F32));
  }
}

TEST_CASE("verify: an importance matrix belongs to how a file was made") {
  Written w;
  ImportanceMatrix matrix;
  for (const ParamSpec& spec : w.f.model.specs) {
    if (spec.shape.rank() < 2 || spec.gguf_name == "token_embd.weight") continue;
    ImportanceMatrix::Entry& entry = matrix.entries[spec.gguf_name];
    for (int64_t i = 0; i < spec.shape[-1]; ++i) entry.sums.push_back(static_cast<float>(i % 5) + 0.1f);
    entry.count = 1;
  }
  save_gguf(w.path(), w.f.model, w.f.vocab, {}, {.type = FileType::Q4_K_M, .importance = &matrix},
            *w.f.backend);
  CHECK(load_gguf(w.path()).importance);
  CHECK(w.verified({}, &matrix).fault.empty());
  const std::string fault = w.verified().fault;
  CHECK(contains(fault, "are not what converting the base's gives"));
  CHECK(contains(fault, "the logits are other ones, from layer 0 on"));
  w.save(w.f.model, FileType::Q4_K_M);
  CHECK_FALSE(load_gguf(w.path()).importance);
}

TEST_CASE("verify: rows not permuted, tensors swapped, a flipped scale: the tensor and the layer are named") {
  Written w;
  for (const FileType type : {FileType::F32, FileType::Q4_K_M}) {
    CAPTURE(file_type_name(type));
    Model broken = w.f.model;  // Q's rows in layer 1 in Hugging Face's order
    const size_t q = w.index("blk.1.attn_q.weight");
    const int64_t D = w.f.model.config.head_dim, C = w.f.model.config.hidden;
    broken.weights[q] = Tensor(*w.f.pool, DType::F32, broken.specs[q].shape);
    for (int64_t row = 0; row < broken.specs[q].shape[0]; ++row) {
      const int64_t g = row % D, to = row - g + D / 2 * (g % 2) + g / 2;
      std::copy_n(w.f.model.weights[q].f32() + row * C, C, broken.weights[q].f32() + to * C);
    }
    w.save(broken, type);
    std::string fault = w.verified().fault;
    CAPTURE(fault);
    CHECK(fault.starts_with("blk.1.attn_q.weight differs by "));
    CHECK(contains(fault, "from layer 1 on"));

    broken = w.f.model;
    std::swap(broken.weights[w.index("blk.2.ffn_gate.weight")],
              broken.weights[w.index("blk.2.ffn_up.weight")]);
    w.save(broken, type);
    fault = w.verified().fault;
    CHECK(contains(fault, "blk.2.ffn_gate.weight differs by "));
    CHECK(contains(fault, "blk.2.ffn_up.weight differs by "));
    CHECK(contains(fault, "from layer 2 on"));

    w.save(w.f.model, type);
    uint64_t at = 0;
    {
      const GgufFile file = GgufFile::open(w.path());
      const GgufTensor& down = *file.find("blk.0.ffn_down.weight");
      const size_t sign = down.type == static_cast<uint32_t>(DType::Q6_K) ? 209 : 1 + 2 * (down.type == 0);
      at = static_cast<uint64_t>(file.data(down).data() - file.data(file.tensors()[0]).data()) + sign;
      at += fs::file_size(w.path()) - (file.tensors().back().offset + file.tensors().back().bytes);
    }
    std::string bytes = read(w.path());
    bytes[at] = static_cast<char>(bytes[at] ^ 0x80);
    write(w.path(), bytes);
    fault = w.verified().fault;
    CHECK(fault.starts_with("blk.0.ffn_down.weight "));
    CHECK(contains(fault, "row 0, columns 0 to "));
    CHECK(contains(fault, "from layer 0 on"));
  }
}

TEST_CASE("verify: another configuration or vocabulary is refused") {
  Written w;
  Model other = w.f.model;
  other.config.rope_theta = 500000.0f;
  w.save(other, FileType::F32);
  CHECK(contains(message_of([&] { w.verified(); }), "RoPE"));
  Vocab vocab = w.f.vocab;
  vocab.tokens[50].text += "x";
  save_gguf(w.path(), w.f.model, vocab, {}, {.type = FileType::F32}, *w.f.backend);
  CHECK(contains(message_of([&] { w.verified(); }), "token 50"));
}

}  // namespace
}  // namespace gladius::test
