#include <algorithm>
#include <unordered_map>

#include "engine/error.h"
#include "engine/mapped_file.h"
#include "export/json.h"
#include "export/pretokenizers.h"
#include "export/sentencepiece_model.h"
#include "export/tokenizer_json.h"
#include "export/vocab_gguf.h"

namespace gladius {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kMaxTokens = 1 << 24;  // as Config allows

json read_json_file(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return parse_json({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()},
                    path.string());
}

bool file_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// A component of tokenizer.json, or every part of it when it is a "Sequence"; empty when it is null.
std::vector<const json*> components(const JsonObject& tokenizer, const char* key, const char* parts_key) {
  const json* value = tokenizer.find(key);
  if (!value) return {};
  const JsonObject object(*value, fmt::format("{}: {}", tokenizer.source(), key));
  if (object.find_string("type") != "Sequence") return {value};
  const json* parts = object.find(parts_key);
  if (!parts || !parts->is_array()) fail("{}: '{}' is not an array", object.source(), parts_key);
  std::vector<const json*> result;
  for (const json& part : *parts) {
    JsonObject(part, object.source());  // every part must be an object
    result.push_back(&part);
  }
  return result;
}

std::string type_of_component(const json& component, const std::string& source) {
  return JsonObject(component, source).find_string("type").value_or("");
}

struct AddedToken {
  int32_t id;
  std::string text;
  bool special;
};

std::vector<AddedToken> read_added_tokens(const JsonObject& tokenizer) {
  std::vector<AddedToken> result;
  const json* added = tokenizer.find("added_tokens");
  if (!added) return result;
  if (!added->is_array()) fail("{}: 'added_tokens' is not an array", tokenizer.source());
  for (const json& value : *added) {
    const JsonObject token(value, tokenizer.source() + ": an added token");
    const int64_t id = token.integer("id");
    if (id < 0 || id >= kMaxTokens) fail("{}: the added token id {} is out of range", tokenizer.source(), id);
    const std::string text = token.find_string("content").value_or("");
    const bool special = token.find_bool("special").value_or(false);
    result.push_back({static_cast<int32_t>(id), text, special});
  }
  return result;
}

// Texts by id; ids without a text are left empty.
std::vector<Token> read_vocab_object(const JsonObject& model) {
  const json* entries = model.find("vocab");
  if (!entries || !entries->is_object()) fail("{}: 'vocab' is not an object", model.source());
  std::vector<Token> tokens;
  for (const auto& [text, value] : entries->items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(kMaxTokens)) {
      fail("{}: the id of '{}' is not a usable number", model.source(), text);
    }
    const auto id = value.get<size_t>();
    if (id >= tokens.size()) tokens.resize(id + 1);
    if (!tokens[id].text.empty())
      fail("{}: '{}' and '{}' have the same id {}", model.source(), tokens[id].text, text, id);
    if (text.empty()) fail("{}: token {} has no text", model.source(), id);
    tokens[id].text = text;
  }
  return tokens;
}

void apply_added_tokens(const std::vector<AddedToken>& added, std::vector<Token>& tokens,
                        const std::string& source) {
  for (const AddedToken& token : added) {
    const auto id = static_cast<size_t>(token.id);
    if (id >= tokens.size()) tokens.resize(id + 1);
    if (token.text.empty() || (!tokens[id].text.empty() && tokens[id].text != token.text)) {
      fail("{}: the added token {} has the text '{}', but the vocabulary '{}'", source, id, token.text,
           tokens[id].text);
    }
    tokens[id].text = token.text;
    if (tokens[id].type == TokenType::normal) {
      tokens[id].type = token.special ? TokenType::control : TokenType::user_defined;
    }
  }
}

// "left right" in rank order, from either of the two forms.
std::vector<std::string> read_merges(const JsonObject& model) {
  const json* merges = model.find("merges");
  if (!merges || !merges->is_array()) fail("{}: 'merges' is not an array", model.source());
  std::vector<std::string> result;
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      result.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      result.push_back(merge[0].get<std::string>() + ' ' + merge[1].get<std::string>());
    } else {
      fail("{}: merge {} is neither a text nor a pair of texts", model.source(), result.size());
    }
  }
  return result;
}

// Llama-style: earlier merges become higher scores. A piece that several merges make takes the first one's.
void scores_from_merges(const std::vector<std::string>& merges, std::vector<Token>& tokens,
                        const std::string& source) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id].text, id);
  for (Token& token : tokens) {
    if (token.type == TokenType::normal) token.score = -static_cast<float>(merges.size());
  }
  for (size_t rank = merges.size(); rank-- > 0;) {
    const std::string& merge = merges[rank];
    const size_t space = merge.find(' ');
    if (space == std::string::npos) fail("{}: merge {} ('{}') has no space", source, rank, merge);
    const std::string text = merge.substr(0, space) + merge.substr(space + 1);
    const auto position = ids.find(text);
    if (position == ids.end()) fail("{}: merge {} makes '{}', which is not a token", source, rank, text);
    tokens[position->second].score = -static_cast<float>(rank);
  }
}

// Whether texts get a space in front, by the normalizer ("legacy") or the pre-tokenizer.
bool adds_space_prefix(const JsonObject& tokenizer) {
  bool adds = false;
  for (const json* part : components(tokenizer, "normalizer", "normalizers")) {
    const std::string type = type_of_component(*part, tokenizer.source());
    if (type != "Prepend" && type != "Replace")
      fail("{}: the normalizer '{}' is not supported", tokenizer.source(), type);
    adds |= type == "Prepend";
  }
  for (const json* part : components(tokenizer, "pre_tokenizer", "pretokenizers")) {
    const JsonObject object(*part, tokenizer.source() + ": pre_tokenizer");
    const std::string type = object.find_string("type").value_or("");
    if (type != "Metaspace") fail("{}: the pre-tokenizer '{}' is not supported", tokenizer.source(), type);
    adds |= object.find_string("prepend_scheme").value_or("always") != "never";
  }
  return adds;
}

// Fills kind, pre, tokens, merges, unknown and add_space_prefix.
void read_bpe(const JsonObject& tokenizer, const JsonObject& model, Vocab& vocab) {
  if (model.find_string("type").value_or("BPE") != "BPE") {
    fail("{}: the tokenizer model '{}' is not supported, only 'BPE'", tokenizer.source(),
         *model.find_string("type"));
  }
  vocab.kind = model.find_bool("byte_fallback").value_or(false) ? TokenizerKind::llama : TokenizerKind::gpt2;
  vocab.tokens = read_vocab_object(model);
  std::vector<std::string> merges = read_merges(model);
  if (vocab.kind == TokenizerKind::llama) {
    vocab.pre = "default";
    vocab.add_space_prefix = adds_space_prefix(tokenizer);
    const auto unknown = model.find_string("unk_token");
    for (size_t id = 0; id < vocab.tokens.size(); ++id) {
      Token& token = vocab.tokens[id];
      if (token.text.size() == 6 && token.text.starts_with("<0x") && token.text.ends_with('>'))
        token.type = TokenType::byte;
      if (unknown && token.text == *unknown) {
        token.type = TokenType::unknown;
        vocab.unknown = static_cast<int32_t>(id);
      }
    }
    apply_added_tokens(read_added_tokens(tokenizer), vocab.tokens, tokenizer.source());
    scores_from_merges(merges, vocab.tokens, tokenizer.source());
    return;
  }
  vocab.add_space_prefix = false;
  const json* pre_tokenizer = tokenizer.find("pre_tokenizer");
  const auto pre = pre_tokenizer ? pretokenizer_name(*pre_tokenizer) : std::nullopt;
  if (!pre)
    fail("{}: its pre-tokenizer is none of those of GPT-2, SmolLM, Llama 3 and Qwen2", tokenizer.source());
  vocab.pre = *pre;
  for (const json* part : components(tokenizer, "normalizer", "normalizers")) {
    const std::string type = type_of_component(*part, tokenizer.source());
    // Qwen2 composes accents (NFC); like llama.cpp, gladius takes the text as it is.
    if (type != "NFC" || vocab.pre != "qwen2")
      fail("{}: the normalizer '{}' is not supported", tokenizer.source(), type);
  }
  vocab.merges = std::move(merges);
  apply_added_tokens(read_added_tokens(tokenizer), vocab.tokens, tokenizer.source());
}

// Whether the post-processor's template puts a special token before (or after) a text.
struct Template {
  bool found = false, before = false, after = false;
  std::string before_text;
};

Template read_template(const JsonObject& tokenizer) {
  Template result;
  for (const json* part : components(tokenizer, "post_processor", "processors")) {
    const JsonObject processor(*part, tokenizer.source() + ": post_processor");
    if (processor.find_string("type") != "TemplateProcessing") continue;
    const json* single = processor.find("single");
    if (!single || !single->is_array()) continue;
    result.found = true;
    bool text_seen = false;
    for (const json& piece : *single) {
      if (!piece.is_object()) continue;
      text_seen |= piece.contains("Sequence");
      if (!piece.contains("SpecialToken")) continue;
      (text_seen ? result.after : result.before) = true;
      if (!text_seen) {
        const JsonObject special(piece["SpecialToken"], processor.source());
        result.before_text = special.find_string("id").value_or("");
      }
    }
  }
  return result;
}

std::optional<int32_t> find_token(const Vocab& vocab, std::string_view text) {
  for (int32_t id = 0; id < vocab.size(); ++id) {
    if (vocab.tokens[static_cast<size_t>(id)].text == text) return id;
  }
  return std::nullopt;
}

// tokenizer_config.json names special tokens by text: "<s>" or {"content": "<s>"}.
std::optional<int32_t> config_token(const JsonObject& config, const char* key, const Vocab& vocab) {
  const json* value = config.find(key);
  if (!value) return std::nullopt;
  const std::string text =
      value->is_object()
          ? JsonObject(*value, config.source() + ": " + key).find_string("content").value_or("")
          : config.find_string(key).value_or("");
  const auto id = find_token(vocab, text);
  if (!id) fail("{}: '{}' is '{}', which is not a token", config.source(), key, text);
  return id;
}

void apply_tokenizer_config(const fs::path& path, Vocab& vocab) {
  const json value = read_json_file(path);
  const JsonObject config(value, path.string());
  if (const auto id = config_token(config, "bos_token", vocab)) vocab.bos = id;
  if (const auto id = config_token(config, "eos_token", vocab)) vocab.eos = id;
  if (const auto id = config_token(config, "pad_token", vocab)) vocab.padding = id;
  if (const auto id = config_token(config, "unk_token", vocab); id && vocab.kind == TokenizerKind::llama)
    vocab.unknown = id;
  vocab.add_bos = config.find_bool("add_bos_token").value_or(vocab.add_bos);
  vocab.add_eos = config.find_bool("add_eos_token").value_or(vocab.add_eos);
}

void fill_gaps(Vocab& vocab, int64_t size, const std::string& source) {
  if (size > 0 && vocab.size() > size) {
    fail("{}: the tokenizer has {} tokens, but the model only {}", source, vocab.size(), size);
  }
  if (size > vocab.size()) vocab.tokens.resize(static_cast<size_t>(size));
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (!vocab.tokens[id].text.empty()) continue;
    vocab.tokens[id] = {fmt::format("[PAD{}]", id), 0.0f, TokenType::unused};
  }
}

}  // namespace

Vocab read_hf_vocab(const fs::path& folder, int64_t size) {
  const fs::path model_path = folder / "tokenizer.model", json_path = folder / "tokenizer.json",
                 config_path = folder / "tokenizer_config.json";
  const bool has_model = file_exists(model_path);
  if (!has_model && !file_exists(json_path))
    fail("{}: it has neither tokenizer.json nor tokenizer.model", folder.string());
  const std::string source = (has_model ? model_path : json_path).string();
  Vocab vocab;
  if (has_model) vocab = read_sentencepiece_model(model_path);
  if (file_exists(json_path)) {
    const json value = read_json_file(json_path);
    const JsonObject tokenizer(value, json_path.string());
    if (has_model) {  // tokens added to the model afterwards
      apply_added_tokens(read_added_tokens(tokenizer), vocab.tokens, json_path.string());
    } else {
      const json* model = tokenizer.find("model");
      if (!model) fail("{}: 'model' is missing", json_path.string());
      read_bpe(tokenizer, JsonObject(*model, json_path.string() + ": model"), vocab);
      const Template post = read_template(tokenizer);
      vocab.add_bos = post.before;
      vocab.add_eos = post.after;
      if (post.before) vocab.bos = find_token(vocab, post.before_text);
    }
  }
  fill_gaps(vocab, size, source);
  if (file_exists(config_path)) apply_tokenizer_config(config_path, vocab);
  vocab.chat_template = read_hf_chat_template(folder);
  vocab.end_of_generation = end_of_generation_tokens(vocab, {});
  validate(vocab, source);
  return vocab;
}

std::string read_hf_chat_template(const fs::path& folder) {
  if (const fs::path path = folder / "chat_template.jinja"; file_exists(path)) {
    const auto file = MappedFile::open(path);
    return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
  }
  const fs::path path = folder / "tokenizer_config.json";
  if (!file_exists(path)) return {};
  const json value = read_json_file(path);
  const json* chat = JsonObject(value, path.string()).find("chat_template");
  return chat && chat->is_string() ? chat->get<std::string>() : std::string();
}

}  // namespace gladius
