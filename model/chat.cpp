#include "model/chat.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"

namespace gladius {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

std::vector<int32_t> marker_tokens(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids = tokenizer.encode(text, false, true);
  std::erase_if(ids, [&](int32_t id) { return !tokenizer.is_special(id); });
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// What ends an answer where the vocabulary does not have it as a token.
std::string end_text(const Tokenizer& tokenizer, const ChatTemplate& chat_template) {
  std::string text = chat_template.answer.after;
  if (!marker_tokens(tokenizer, text).empty()) return {};
  text.erase(0, text.find_first_not_of(kSpace));
  text.erase(text.find_last_not_of(kSpace) + 1);
  return text;
}

}  // namespace

ChatSession::ChatSession(Context& ctx, const Model& model, const Tokenizer& tokenizer,
                         ChatTemplate chat_template, GenerateOptions options, const std::string& system)
    : tokenizer_(tokenizer),
      template_(std::move(chat_template)),
      options_(std::move(options)),
      markers_(marker_tokens(tokenizer, template_.surroundings())),
      decoder_(ctx, model, options_.context > 0 ? options_.context : model.config.context, options_.kv_type) {
  if (!system.empty()) messages_.push_back({ChatMessage::Role::system, system});
  options_.end_tokens.insert(options_.end_tokens.end(), markers_.begin(), markers_.end());
  options_.stops.push_back(end_text(tokenizer, template_));
}

void ChatSession::reset() {
  if (!messages_.empty() && messages_[0].role == ChatMessage::Role::system) {
    messages_.resize(1);
  } else {
    messages_.clear();
  }
  answers_ = 0;
}

std::vector<int32_t> ChatSession::encode(std::span<const ChatMessage> messages) const {
  std::vector<int32_t> ids = tokenizer_.encode(template_.render(messages), markers_);
  const Vocab& vocab = tokenizer_.vocab();
  if (vocab.add_bos && (ids.empty() || ids[0] != *vocab.bos)) ids.insert(ids.begin(), *vocab.bos);
  return ids;
}

// The tokens of the messages, of which the oldest turns go when not enough of the context is left for an
// answer. Then half of the context is freed: each time, all that follows has to be read anew.
std::vector<int32_t> ChatSession::make_room(int64_t& forgotten) {
  const int64_t capacity = decoder_.capacity();
  const int64_t answer = std::clamp<int64_t>(options_.max_tokens, 1, std::max<int64_t>(1, capacity / 4));
  std::vector<int32_t> ids = encode(messages_);
  const auto length = [&] { return static_cast<int64_t>(ids.size()); };
  if (length() + answer <= capacity) return ids;

  std::vector<ChatMessage> kept = messages_;
  const auto oldest = kept.begin() + (kept[0].role == ChatMessage::Role::system ? 1 : 0);
  const auto offset = oldest - kept.begin();
  while (length() > capacity / 2 && static_cast<int64_t>(kept.size()) > offset + 1) {
    kept.erase(kept.begin() + offset, kept.begin() + offset + 2);
    ++forgotten;
    ids = encode(kept);
  }
  if (length() >= capacity) {
    fail("this message, with what stands around it, has {} tokens, but the context holds {}", length(),
         capacity);
  }
  messages_ = std::move(kept);
  return ids;
}

// Cuts what is held back to the beginning that it shares with the prompt, whose last token is always read:
// the answer begins with its logits.
void ChatSession::keep_known(std::span<const int32_t> prompt) {
  const auto most = std::min(held_.size(), prompt.size() - 1);
  const auto same =
      std::mismatch(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(most), prompt.begin());
  held_.erase(same.first, held_.end());
  decoder_.truncate(static_cast<int64_t>(held_.size()));
}

ChatAnswer ChatSession::answer(const std::string& message,
                               const std::function<void(std::string_view)>& on_text,
                               const std::atomic<bool>* cancel) {
  bool started = false;
  const auto show = [&](std::string_view text) {
    if (!started) text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
    if (text.empty()) return;
    started = true;
    if (on_text) on_text(text);
  };
  ChatAnswer result;
  messages_.push_back({ChatMessage::Role::user, message});
  try {
    std::vector<int32_t> prompt = make_room(result.forgotten);
    keep_known(prompt);
    result.read = static_cast<int64_t>(prompt.size() - held_.size());
    GenerateOptions options = options_;
    options.sampling.seed += answers_++;  // or every answer would draw the same numbers
    result.generated = generate(decoder_, tokenizer_, prompt, options, show, cancel);
    held_ = std::move(prompt);
    held_.insert(held_.end(), result.generated.tokens.begin(), result.generated.tokens.end());
    held_.resize(static_cast<size_t>(decoder_.length()));
  } catch (...) {
    messages_.pop_back();
    decoder_.clear();
    held_.clear();
    throw;
  }
  std::string text = result.generated.text;
  if (text.starts_with(template_.lead)) text.erase(0, template_.lead.size());
  if (text.empty() && result.generated.reason == StopReason::cancelled) {
    messages_.pop_back();
  } else {
    messages_.push_back({ChatMessage::Role::assistant, std::move(text)});
  }
  return result;
}

}  // namespace gladius
