// Chat templates: how a conversation is written down as the one text that a model was trained on. Files carry
// them as Jinja programs. This recognises the common ones by their text and renders those itself; others are
// refused, because a text that differs a little makes a model's answers much worse, without a sign of why.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace gladius {

struct ChatMessage {
  enum class Role { system, user, assistant };
  Role role;
  std::string text;
};

struct ChatTemplate {
  struct Around {
    std::string before, after;  // of a message's text
  };
  enum class System { message, in_first_user, in_last_user };  // where the system message stands
  enum class Trim { nothing, answers, everything };            // whose white space around it is dropped

  std::string name;
  std::string begin;  // of the conversation
  Around system, user, answer;
  std::string lead;  // between answer.before and an answer's text; the model writes it itself
  System place = System::message;
  Trim trim = Trim::nothing;
  std::optional<std::string> default_system;  // when the conversation has no system message

  // The conversation up to where the model's next answer begins: the template's texts are special, those of
  // the messages are not. A system message can only be the first; the last message is the user's.
  std::vector<TextPart> render(std::span<const ChatMessage> messages) const;
  // All that is written around messages.
  std::string surroundings() const;
};

// Names of the templates that are known.
std::vector<std::string> chat_template_names();

// The name of the known template that this Jinja text is; empty when it is none.
std::string_view recognise_chat_template(std::string_view jinja);

// The template that the vocabulary's file carries, or the known one called `name` when that is not empty.
// Throws Error when there is none, or it is not known. source names the file.
ChatTemplate make_chat_template(const Vocab& vocab, const std::string& name, const std::string& source);

}  // namespace gladius
