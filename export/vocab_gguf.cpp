#include "export/vocab_gguf.h"

#include <algorithm>
#include <array>

namespace gladius {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

// Texts that llama.cpp takes for ends of generation whatever the file says.
constexpr std::array<std::string_view, 18> kEndTexts = {"<|eot_id|>",
                                                        "<|im_end|>",
                                                        "<|end|>",
                                                        "<|return|>",
                                                        "<|call|>",
                                                        "<|flush|>",
                                                        "<|calls|>",
                                                        "<end_of_turn>",
                                                        "<|endoftext|>",
                                                        "</s>",
                                                        "<|eom_id|>",
                                                        "<EOT>",
                                                        "_<EOT>",
                                                        "[EOT]",
                                                        "[EOS]",
                                                        "<|end_of_text|>",
                                                        "<end_of_utterance>",
                                                        "< EOT >"};

std::string key_of(std::string_view name) { return std::string(kPrefix) + std::string(name); }

const GgufArray* find_array(const GgufMetadata& metadata, std::string_view name, GgufType type,
                            const std::string& source) {
  const std::string key = key_of(name);
  const auto* array = metadata.find<GgufArray>(key, source);
  if (array && array->type != type) {
    fail("{}: metadata key '{}' is an array of {}, but must be one of {}", source, key,
         gguf_type_name(array->type), gguf_type_name(type));
  }
  return array;
}

// An array with an element for each token; null when absent.
const GgufArray* find_token_array(const GgufMetadata& metadata, std::string_view name, GgufType type,
                                  size_t tokens, const std::string& source) {
  const GgufArray* array = find_array(metadata, name, type, source);
  if (array && array->size() != tokens) {
    fail("{}: '{}' has {} elements for {} tokens", source, key_of(name), array->size(), tokens);
  }
  return array;
}

std::optional<int32_t> special_token(const GgufMetadata& metadata, std::string_view name,
                                     std::optional<int32_t> otherwise, size_t tokens,
                                     const std::string& source) {
  constexpr uint32_t kNone = 0xFFFFFFFF;
  const std::string key = key_of(name);
  const auto* id = metadata.find<uint32_t>(key, source);
  if (!id) return otherwise && static_cast<size_t>(*otherwise) < tokens ? otherwise : std::nullopt;
  if (*id == kNone) return std::nullopt;
  if (*id >= tokens) fail("{}: '{}' is {}, but there are only {} tokens", source, key, *id, tokens);
  return static_cast<int32_t>(*id);
}

void read_tokens(const GgufMetadata& metadata, const std::string& source, Vocab& vocab) {
  const GgufArray* texts = find_array(metadata, "tokens", GgufType::string, source);
  if (!texts) fail("{}: metadata key '{}' is missing; the file has no vocabulary", source, key_of("tokens"));
  const size_t count = texts->size();
  const GgufArray* scores = find_token_array(metadata, "scores", GgufType::float32, count, source);
  const GgufArray* types = find_token_array(metadata, "token_type", GgufType::int32, count, source);
  if (!scores && vocab.kind == TokenizerKind::llama)
    fail("{}: metadata key '{}' is missing", source, key_of("scores"));
  vocab.tokens.resize(count);
  for (size_t i = 0; i < count; ++i) {
    Token& token = vocab.tokens[i];
    token.text = texts->strings[i];
    token.score = scores ? scores->get<float>(i) : 0.0f;
    const int32_t type = types ? types->get<int32_t>(i) : 1;
    if (type < 1 || type > 6) fail("{}: token {} has the unknown type {}", source, i, type);
    token.type = static_cast<TokenType>(type);
  }
}

// llama.cpp adds BOS by default for the llama tokenizer and for Llama 3's pre-tokenizer.
bool adds_bos_by_default(const Vocab& vocab) {
  return vocab.kind == TokenizerKind::llama || vocab.pre == "llama-bpe";
}

}  // namespace

std::vector<int32_t> end_of_generation_tokens(const Vocab& vocab, std::vector<int32_t> extra) {
  if (vocab.eos) extra.push_back(*vocab.eos);
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const std::string& text = vocab.tokens[static_cast<size_t>(id)].text;
    if (std::find(kEndTexts.begin(), kEndTexts.end(), text) != kEndTexts.end()) extra.push_back(id);
  }
  std::sort(extra.begin(), extra.end());
  extra.erase(std::unique(extra.begin(), extra.end()), extra.end());
  return extra;
}

Vocab read_gguf_vocab(const GgufMetadata& metadata, const std::string& source) {
  Vocab vocab;
  const std::string& kind = metadata.get<std::string>(key_of("model"), source);
  if (kind != "llama" && kind != "gpt2") {
    fail("{}: tokenizer '{}' is not supported, only 'llama' and 'gpt2'", source, kind);
  }
  vocab.kind = kind == "llama" ? TokenizerKind::llama : TokenizerKind::gpt2;
  const bool llama = vocab.kind == TokenizerKind::llama;
  const auto* pre = metadata.find<std::string>(key_of("pre"), source);
  if (!pre && !llama)
    fail("{}: metadata key '{}' is missing: which pre-tokenizer splits the text?", source, key_of("pre"));
  vocab.pre = pre ? *pre : "default";
  if (vocab.pre == "llama3" || vocab.pre == "llama-v3")
    vocab.pre = "llama-bpe";  // other names of the same pattern
  read_tokens(metadata, source, vocab);
  if (!llama) {
    const GgufArray* merges = find_array(metadata, "merges", GgufType::string, source);
    if (!merges) fail("{}: metadata key '{}' is missing", source, key_of("merges"));
    vocab.merges = merges->strings;
  }
  const size_t count = vocab.tokens.size();
  constexpr int32_t kGpt2End = 11;  // llama.cpp's default for both ends of the gpt2 tokenizer
  vocab.bos = special_token(metadata, "bos_token_id", llama ? 1 : kGpt2End, count, source);
  vocab.eos = special_token(metadata, "eos_token_id", llama ? 2 : kGpt2End, count, source);
  vocab.unknown =
      special_token(metadata, "unknown_token_id", llama ? std::optional(0) : std::nullopt, count, source);
  vocab.padding = special_token(metadata, "padding_token_id", std::nullopt, count, source);
  std::vector<int32_t> ends;
  for (const char* name : {"eot_token_id", "eom_token_id"}) {
    if (const auto id = special_token(metadata, name, std::nullopt, count, source)) ends.push_back(*id);
  }
  vocab.end_of_generation = end_of_generation_tokens(vocab, ends);
  const auto flag = [&](const char* name, bool otherwise) {
    const bool* value = metadata.find<bool>(key_of(name), source);
    return value ? *value : otherwise;
  };
  vocab.add_bos = flag("add_bos_token", adds_bos_by_default(vocab));
  vocab.add_eos = flag("add_eos_token", false);
  vocab.add_space_prefix = flag("add_space_prefix", llama);
  if (const auto* chat = metadata.find<std::string>("tokenizer.chat_template", source))
    vocab.chat_template = *chat;
  validate(vocab, source);
  return vocab;
}

void write_gguf_vocab(const Vocab& vocab, GgufMetadata& metadata) {
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const Token& token : vocab.tokens) {
    texts.push_back(token.text);
    scores.push_back(token.score);
    types.push_back(static_cast<int32_t>(token.type));
  }
  const bool llama = vocab.kind == TokenizerKind::llama;
  metadata.set(key_of("model"), std::string(llama ? "llama" : "gpt2"));
  metadata.set(key_of("pre"), vocab.pre.empty() ? std::string("default") : vocab.pre);
  metadata.set(key_of("tokens"), GgufArray::of(std::move(texts)));
  if (llama) metadata.set(key_of("scores"), GgufArray::of(std::span<const float>(scores)));
  metadata.set(key_of("token_type"), GgufArray::of(std::span<const int32_t>(types)));
  if (!llama) metadata.set(key_of("merges"), GgufArray::of(vocab.merges));
  const auto special = [&](const char* name, std::optional<int32_t> id) {
    if (id) metadata.set(key_of(name), static_cast<uint32_t>(*id));
  };
  special("bos_token_id", vocab.bos);
  special("eos_token_id", vocab.eos);
  special("unknown_token_id", vocab.unknown);
  special("padding_token_id", vocab.padding);
  for (const int32_t id : vocab.end_of_generation) {
    if (id == vocab.eos) continue;
    special("eot_token_id", id);  // the format has room for one; the others are recognised by their texts
    break;
  }
  metadata.set(key_of("add_bos_token"), vocab.add_bos);
  metadata.set(key_of("add_eos_token"), vocab.add_eos);
  if (llama) metadata.set(key_of("add_space_prefix"), vocab.add_space_prefix);
  if (!vocab.chat_template.empty()) metadata.set("tokenizer.chat_template", vocab.chat_template);
}

}  // namespace gladius
