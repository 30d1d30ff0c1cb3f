#include "cli/verify_export.h"

#include <fmt/format.h>

#include "cli/chunk_options.h"
#include "cli/terminal.h"

namespace gladius::cli {
namespace {

std::vector<int32_t> tokens_of(const VerifyOptions& o, const LoadedModel& source, const std::string& name) {
  const Config& config = source.model.config;
  if (o.text.empty()) return verification_tokens(config, o.tokens);
  std::vector<int32_t> tokens = read_tokens(*make_tokenizer(source.vocab, name), o.text);
  tokens.resize(std::min({static_cast<int64_t>(tokens.size()), o.tokens, config.context}));
  if (tokens.size() < 2) fail("{}: it has too few tokens to verify with", o.text);
  return tokens;
}

Certificate certificate_of(const Verification& v, std::span<const int32_t> tokens, const Backend& backend) {
  Certificate c;
  c.version = version();
  c.engine = backend.name();
  c.tensors = static_cast<uint32_t>(v.weights.size());
  c.tokens = static_cast<uint32_t>(tokens.size());
  c.tokens_checksum = tokens_checksum(tokens);
  c.logits_same = v.logits.same;
  c.logits_largest = v.logits.largest, c.logits_rms = v.logits.rms;
  c.kl_mean = v.logits.kl_mean, c.kl_max = v.logits.kl_max;
  c.same_top = v.logits.same_top;
  return c;
}

}  // namespace

std::string certificate_text(const Certificate& c) {
  std::string text = fmt::format("{} tensors as they must be; logits of {} tokens ", c.tensors, c.tokens);
  if (c.logits_same) return text + "the same to the bit";
  return text + fmt::format(
                    "differ by {:.3g} at most, {:.3g} RMS; KL divergence {:.3g} nats, {:.3g} at most; same "
                    "likeliest "
                    "token {:.1f} %",
                    c.logits_largest, c.logits_rms, c.kl_mean, c.kl_max, 100 * c.same_top);
}

void add_verify_options(CLI::App& command, VerifyOptions& options) {
  command.add_flag("--verify", options.wanted,
                   "Read back what was written: every tensor must have the bits that converting the source's "
                   "gives, and logits are compared. A GGUF file gets a certificate that `inspect` checks");
  command
      .add_option(
          "--verify-text", options.text,
          "Text whose tokens are read by both models; by default ids drawn at random, always the same")
      ->needs("--verify");
  command
      .add_option("--verify-tokens", options.tokens,
                  "Tokens to compare logits on, at most the model's context")
      ->check(whole(2, kMostContext))
      ->capture_default_str()
      ->needs("--verify");
}

ExportVerifier::ExportVerifier(const VerifyOptions& options, Context& ctx, const LoadedModel& source,
                               std::string name)
    : ctx_(ctx), source_(source), name_(std::move(name)), tokens_(tokens_of(options, source, name_)) {}

void ExportVerifier::gguf(const std::filesystem::path& path, const ImportanceMatrix* importance) {
  certify(path, verified(path, {.importance = importance, .stored = {}}));
}

void ExportVerifier::hugging_face(const std::filesystem::path& folder, DType stored) {
  verified(folder, {.importance = nullptr, .stored = stored});
}

Certificate ExportVerifier::verified(const std::filesystem::path& path, const Conversion& conversion) {
  const std::string file = path.string();
  const LoadedModel rows = load_model(file, ctx_.backend, ctx_.pool, WeightUse::rows);
  const LoadedModel inference = load_model(file, ctx_.backend, ctx_.pool, WeightUse::inference);
  Progress progress(fmt::format("verifying {}", path.filename().string()));
  const Verification v = verify(ctx_, source_, name_, {&rows, &inference, file}, conversion, tokens_,
                                [&](int64_t done, int64_t total) {
                                  stop_if_interrupted();
                                  progress.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
                                });
  progress.done();
  if (!v.fault.empty())
    fail("{} is not {}, and stays as it is, without certificate: {}", file, name_, v.fault);
  const Certificate certificate = certificate_of(v, tokens_, ctx_.backend);
  fmt::print("  verified: {}\n", certificate_text(certificate));
  return certificate;
}

}  // namespace gladius::cli
