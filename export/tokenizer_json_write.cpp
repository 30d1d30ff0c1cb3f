#include <algorithm>
#include <unordered_set>

#include "engine/error.h"
#include "export/json.h"
#include "export/pretokenizers.h"
#include "export/tokenizer_json.h"
#include "model/utf8.h"

namespace gladius {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSpace = "\u2581";

const std::string& text_of(const Vocab& vocab, int32_t id) {
  return vocab.tokens[static_cast<size_t>(id)].text;
}

// Tokens that are cut out of a text before anything else.
Json added_tokens(const Vocab& vocab) {
  Json added = Json::array();
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const Token& token = vocab.tokens[static_cast<size_t>(id)];
    const bool special = token.type == TokenType::control || token.type == TokenType::unknown;
    if (!special && token.type != TokenType::user_defined) continue;
    added.push_back({{"id", id},
                     {"content", token.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

Json post_processor(const Vocab& vocab) {
  Json single = Json::array(), pair_second = Json::array(), specials = Json::object();
  const auto special = [&](Json& list, int32_t id, int type) {
    const std::string& text = text_of(vocab, id);
    list.push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  const auto sequence = [&](Json& list, const char* name, int type) {
    if (vocab.add_bos) special(list, *vocab.bos, type);
    list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    if (vocab.add_eos) special(list, *vocab.eos, type);
  };
  sequence(single, "A", 0);
  Json pair = single;
  sequence(pair, "B", 1);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

struct Merge {
  float score;
  int32_t id;  // of the merged token
  size_t left_length;
  std::string text;  // "left right"
};

// For every piece, each split into two pieces, by descending score. Among the splits of one piece the longer
// left comes first. The highest score merges first in SentencePiece, the first pair here.
std::vector<Merge> merges_from_scores(const Vocab& vocab) {
  std::unordered_set<std::string_view> texts;
  for (const Token& token : vocab.tokens) texts.insert(token.text);
  std::vector<Merge> merges;
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const Token& token = vocab.tokens[static_cast<size_t>(id)];
    if (token.type == TokenType::control || token.type == TokenType::unknown) continue;
    const std::string_view text = token.text;
    for (size_t i = utf8_length(text[0]); i < text.size(); i += utf8_length(text[i])) {
      const std::string_view left = text.substr(0, i), right = text.substr(i);
      if (!texts.contains(left) || !texts.contains(right)) continue;
      merges.push_back({token.score, id, i, std::string(left) + ' ' + std::string(right)});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.id != b.id ? a.id < b.id : a.left_length > b.left_length;
  });
  return merges;
}

Json bpe_model(const Vocab& vocab) {
  const bool llama = vocab.kind == TokenizerKind::llama;
  Json ids = Json::object();
  // Assigning through operator[] would search the ordered object for each key; texts are distinct already.
  auto& entries = ids.get_ref<Json::object_t&>();
  for (int32_t id = 0; id < vocab.size(); ++id) entries.emplace_back(text_of(vocab, id), id);
  Json merges = Json::array();
  if (llama) {
    for (Merge& merge : merges_from_scores(vocab)) merges.push_back(std::move(merge.text));
  } else {
    for (const std::string& merge : vocab.merges) merges.push_back(merge);
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", llama && vocab.unknown ? Json(text_of(vocab, *vocab.unknown)) : Json(nullptr)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", llama},
          {"byte_fallback", llama},
          {"ignore_merges", !llama && pretokenizer_ignores_merges(vocab.pre)},
          {"vocab", std::move(ids)},
          {"merges", std::move(merges)}};
}

Json llama_normalizer(const Vocab& vocab) {
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}};
  if (!vocab.add_space_prefix) return replace;
  return {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", kSpace}}, replace}}};
}

Json llama_decoder(const Vocab& vocab) {
  Json decoders = {{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (vocab.add_space_prefix)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", decoders}};
}

}  // namespace

std::string tokenizer_json(const Vocab& vocab) {
  const bool llama = vocab.kind == TokenizerKind::llama;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  Json tokenizer = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  tokenizer["added_tokens"] = added_tokens(vocab);
  tokenizer["normalizer"] = llama ? llama_normalizer(vocab) : Json(nullptr);
  tokenizer["pre_tokenizer"] = llama ? Json(nullptr) : Json(pretokenizer_json(vocab.pre));
  tokenizer["post_processor"] = post_processor(vocab);
  tokenizer["decoder"] = llama ? llama_decoder(vocab) : byte_level;
  tokenizer["model"] = bpe_model(vocab);
  try {
    return tokenizer.dump(1) + "\n";
  } catch (const nlohmann::json::exception& error) {
    fail("the vocabulary cannot be written as JSON: {}", error.what());
  }
}

std::string tokenizer_config_json(const Vocab& vocab, int64_t context) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  const auto token = [&](const char* key, std::optional<int32_t> id) {
    if (id) config[key] = text_of(vocab, *id);
  };
  token("bos_token", vocab.bos);
  token("eos_token", vocab.eos);
  token("unk_token", vocab.unknown);
  token("pad_token", vocab.padding);
  config["add_bos_token"] = vocab.add_bos;
  config["add_eos_token"] = vocab.add_eos;
  if (vocab.kind == TokenizerKind::llama) config["add_prefix_space"] = vocab.add_space_prefix;
  config["clean_up_tokenization_spaces"] = false;
  config["model_max_length"] = context;
  if (!vocab.chat_template.empty()) config["chat_template"] = vocab.chat_template;
  return config.dump(2) + "\n";
}

}  // namespace gladius
