// A conversation with a model.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat_template.h"
#include "model/decoder.h"
#include "model/generate.h"

namespace gladius {

struct ChatAnswer {
  Generated generated;    // its text as it was generated
  int64_t read = 0;       // tokens of the conversation that were read; the others were still known
  int64_t forgotten = 0;  // oldest turns, a message and its answer each, that were dropped for room
};

// Owns the messages and what the model remembers of them: a turn reads only what is new. A conversation that
// becomes too long for the context loses its oldest turns, never its system message. Model, tokenizer and
// context must outlive it.
class ChatSession {
 public:
  // options.max_tokens is meant per answer; options.context as in generate(). An empty system message: that
  // of the template, if it has one.
  ChatSession(Context& ctx, const Model& model, const Tokenizer& tokenizer, ChatTemplate chat_template,
              GenerateOptions options, const std::string& system = {});

  // The model's answer to a message. on_text receives it as it comes, without white space at its start. A
  // cancelled answer counts as far as it came; when nothing came, the message is forgotten. Throws Error when
  // the message alone does not fit the context, as generate() does, and then forgets the message.
  ChatAnswer answer(const std::string& message, const std::function<void(std::string_view)>& on_text,
                    const std::atomic<bool>* cancel = nullptr);

  void reset();  // forgets all but the system message

  const std::vector<ChatMessage>& messages() const { return messages_; }
  int64_t context() const { return decoder_.capacity(); }

 private:
  std::vector<int32_t> encode(std::span<const ChatMessage> messages) const;
  std::vector<int32_t> make_room(int64_t& forgotten);
  void keep_known(std::span<const int32_t> prompt);

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  GenerateOptions options_;
  std::vector<int32_t> markers_;  // the template's special tokens
  Decoder decoder_;
  std::vector<ChatMessage> messages_;
  std::vector<int32_t> held_;  // the tokens that the decoder holds
  uint64_t answers_ = 0;
};

}  // namespace gladius
