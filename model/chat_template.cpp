#include "model/chat_template.h"

#include <algorithm>
#include <array>

#include "engine/error.h"

namespace gladius {
namespace {

using System = ChatTemplate::System;
using Trim = ChatTemplate::Trim;

// A known template. Its texts write {bos} and {eos} for the vocabulary's tokens. A Jinja text is this
// template when it holds all of `has` and nothing of `lacks`, either as it stands, but for double quotes, or
// in the compact form below.
struct Known {
  std::string name;
  std::vector<std::string> has, lacks;
  bool begins_with_bos;  // when chosen by name; else the Jinja text tells
  ChatTemplate::Around system, user, answer;
  std::string lead = {};
  System place = System::message;
  Trim trim = Trim::nothing;
  std::optional<std::string> default_system = {};
};

// The first that fits is taken.
const std::vector<Known>& known_templates() {
  static const std::vector<Known> all = {
      {.name = "chatml",
       .has = {"<|im_start|>", "<|im_end|>\n"},
       .lacks = {"<|im_sep|>", "<end_of_utterance>", "<think>", "<|im_middle|>"},
       .begins_with_bos = false,
       .system = {"<|im_start|>system\n", "<|im_end|>\n"},
       .user = {"<|im_start|>user\n", "<|im_end|>\n"},
       .answer = {"<|im_start|>assistant\n", "<|im_end|>\n"}},
      {.name = "llama3.1",  // and 3.2 and 3.3; the date is the templates' own where the time is not known
       .has = {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023\n", "26 Jul 2024",
               "content|trim"},
       .lacks = {},
       .begins_with_bos = true,
       .system = {"<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
                  "Today Date: 26 Jul 2024\n\n",
                  "<|eot_id|>"},
       .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
       .answer = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
       .trim = Trim::everything,
       .default_system = ""},
      {.name = "llama3",
       .has = {"<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "content|trim"},
       .lacks = {"Cutting Knowledge Date"},
       .begins_with_bos = true,
       .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
       .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
       .answer = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
       .trim = Trim::everything},
      {.name = "llama2",
       .has = {"bos_token + '[INST] '", "<<SYS>>\n", "content.strip()", "' [/INST]'", "''+eos_token"},
       .lacks = {"elifnot'<<SYS>>'", "eliftrue"},  // these have a system message of their own
       .begins_with_bos = false,
       .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
       .user = {"{bos}[INST] ", " [/INST]"},
       .answer = {"", " {eos}"},
       .lead = " ",
       .place = System::in_first_user,
       .trim = Trim::everything},
      {.name = "mistral-v7",
       .has = {"'[SYSTEM_PROMPT] '", "'[INST] '", "'[/INST]'", "' ' + message"},
       .lacks = {},
       .begins_with_bos = true,
       .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
       .user = {"[INST] ", "[/INST]"},
       .answer = {"", "{eos}"},
       .lead = " "},
      {.name = "mistral-v3",
       .has = {"[AVAILABLE_TOOLS]", "'[INST] '", "'[/INST]'", "''+message.content|trim+eos_token"},
       .lacks = {"[SYSTEM_PROMPT]"},
       .begins_with_bos = true,
       .system = {"", "\n\n"},
       .user = {"[INST] ", "[/INST]"},
       .answer = {"", "{eos}"},
       .lead = " ",
       .place = System::in_last_user,
       .trim = Trim::answers},
      {.name = "mistral-v3-tekken",
       .has = {"[AVAILABLE_TOOLS]", "'[INST]'", "'[/INST]'", "{{-message.content+eos_token"},
       .lacks = {"[SYSTEM_PROMPT]", "'[INST] '"},
       .begins_with_bos = true,
       .system = {"", "\n\n"},
       .user = {"[INST]", "[/INST]"},
       .answer = {"", "{eos}"},
       .place = System::in_last_user},
      {.name = "mistral-v1",
       .has = {"' [INST] ' + system_message", "' [/INST]'", "' ' + message['content'] + eos_token"},
       .lacks = {},
       .begins_with_bos = true,
       .system = {"", "\n\n"},
       .user = {" [INST] ", " [/INST]"},
       .answer = {"", "{eos}"},
       .lead = " ",
       .place = System::in_first_user},
      // The oldest two refuse system messages: here one goes where version 1 puts it.
      {.name = "mistral-7b-v0.1",
       .has = {"'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token + ' '"},
       .lacks = {"<<SYS>>", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]", "bos_token + '[INST]"},
       .begins_with_bos = true,
       .system = {"", "\n\n"},
       .user = {"[INST] ", " [/INST]"},
       .answer = {"", "{eos} "},
       .place = System::in_first_user},
      {.name = "mistral-7b-v0.2",
       .has = {"'[INST] ' + message['content'] + ' [/INST]'", "{{ message['content'] + eos_token"},
       .lacks = {"<<SYS>>", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]", "bos_token + '[INST]", "eos_token + ' '"},
       .begins_with_bos = true,
       .system = {"", "\n\n"},
       .user = {"[INST] ", " [/INST]"},
       .answer = {"", "{eos}"},
       .place = System::in_first_user},
      {.name = "gemma",  // the first ones refuse system messages: here one goes where later ones put it
       .has = {"<start_of_turn>", "<end_of_turn>\n", "|trim"},
       .lacks = {},
       .begins_with_bos = true,
       .system = {"", "\n\n"},
       .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
       .answer = {"<start_of_turn>model\n", "<end_of_turn>\n"},
       .place = System::in_first_user,
       .trim = Trim::everything},
      {.name = "phi3",
       .has = {"|>\n'+message.content", "<|end|>\n", "<|assistant|>"},
       .lacks = {},
       .begins_with_bos = true,
       .system = {"<|system|>\n", "<|end|>\n"},
       .user = {"<|user|>\n", "<|end|>\n"},
       .answer = {"<|assistant|>\n", "<|end|>\n"}},
      {.name = "zephyr",
       .has = {"<|user|>\n'+message.content+eos_token}}\n", "'<|assistant|>'}}\n"},
       .lacks = {"<|end|>"},
       .begins_with_bos = false,
       .system = {"<|system|>\n", "{eos}\n"},
       .user = {"<|user|>\n", "{eos}\n"},
       .answer = {"<|assistant|>\n", "{eos}\n"}},
  };
  return all;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// What different ways to write the same Jinja have in common: without spaces, fields by dots, strings joined.
std::string compact(std::string text) {
  std::erase_if(text, [](char c) { return c == ' ' || c == '\t' || c == '\r'; });
  text = replaced(replaced(std::move(text), "['", "."), "']", "");
  return replaced(std::move(text), "'+'", "");
}

struct Forms {
  explicit Forms(std::string_view jinja)
      : unescaped(replaced(replaced(std::string(jinja), "\\n", "\n"), "\\'", "'")),
        plain(replaced(unescaped, "\"", "'")),
        compacted(compact(plain)) {}
  bool hold(std::string_view part) const {
    return plain.find(part) != std::string::npos || compacted.find(part) != std::string::npos;
  }
  std::string unescaped, plain, compacted;
};

const Known* recognise(const Forms& forms) {
  for (const Known& known : known_templates()) {
    const auto held = [&](const std::string& part) { return forms.hold(part); };
    if (std::all_of(known.has.begin(), known.has.end(), held) &&
        std::none_of(known.lacks.begin(), known.lacks.end(), held))
      return &known;
  }
  return nullptr;
}

// The system message that some templates write when the conversation has none: it stands there as plain text.
std::optional<std::string> default_system(const Forms& forms, const Known& known) {
  if (known.place != System::message) return known.default_system;
  const std::string& before = known.system.before;
  const std::string& jinja = forms.unescaped;
  for (size_t at = 0; (at = jinja.find(before, at)) != std::string::npos;) {
    at += before.size();
    const std::string text = jinja.substr(at, jinja.find(known.system.after, at) - at);
    if (text.find_first_of("{}+") == std::string::npos) return text;
  }
  return known.default_system;
}

// The start of a file's text as a terminal may show it: one line, no control characters.
std::string start_of(std::string_view text) {
  constexpr size_t kShown = 120;
  std::string line(text.substr(0, kShown));
  const auto unprintable = [](char c) { return c < 0x20 || c > 0x7E; };
  std::replace_if(line.begin(), line.end(), unprintable, ' ');
  return text.size() > kShown ? line + "…" : line;
}

ChatTemplate fill_in(const Known& known, const Vocab& vocab) {
  const auto text_of = [&](std::optional<int32_t> id) {
    return id ? vocab.tokens[static_cast<size_t>(*id)].text : std::string();
  };
  const std::string bos = text_of(vocab.bos), eos = text_of(vocab.eos);
  const auto filled = [&](const std::string& text) {
    return replaced(replaced(text, "{bos}", bos), "{eos}", eos);
  };
  const auto around = [&](const ChatTemplate::Around& texts) {
    return ChatTemplate::Around{filled(texts.before), filled(texts.after)};
  };
  return {.name = known.name,
          .begin = known.begins_with_bos ? bos : "",
          .system = around(known.system),
          .user = around(known.user),
          .answer = around(known.answer),
          .lead = known.lead,
          .place = known.place,
          .trim = known.trim,
          .default_system = known.default_system};
}

constexpr std::string_view kSpace = " \t\n\r\f\v";

void trim_front(std::string& text) { text.erase(0, text.find_first_not_of(kSpace)); }
void trim_back(std::string& text) { text.erase(text.find_last_not_of(kSpace) + 1); }

void append(std::vector<TextPart>& parts, std::string text, bool special) {
  if (text.empty()) return;
  if (!parts.empty() && parts.back().special == special) {
    parts.back().text += text;
  } else {
    parts.push_back({std::move(text), special});
  }
}

}  // namespace

std::vector<TextPart> ChatTemplate::render(std::span<const ChatMessage> messages) const {
  using Role = ChatMessage::Role;
  std::vector<TextPart> parts;
  append(parts, begin, true);
  std::optional<std::string> system_text = default_system;
  if (!messages.empty() && messages[0].role == Role::system) {
    system_text = messages[0].text;
    messages = messages.subspan(1);
  }
  if (messages.empty() || messages.back().role != Role::user)
    fail("chat template {}: the last message is not the user's", name);
  // A message's parts, white space dropped at both ends of them all, between what stands around it.
  const auto add = [&](const Around& around, std::vector<TextPart> message, bool trimmed) {
    if (trimmed && !message.front().special) trim_front(message.front().text);
    if (trimmed) trim_back(message.back().text);
    append(parts, around.before, true);
    for (TextPart& part : message) append(parts, std::move(part.text), part.special);
    append(parts, around.after, true);
  };
  if (system_text && place == System::message) add(system, {{*system_text}}, trim == Trim::everything);
  const size_t with_system = place == System::in_last_user ? messages.size() - 1 : 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == Role::assistant) {
      add({answer.before + lead, answer.after}, {{messages[i].text}}, trim != Trim::nothing);
      continue;
    }
    std::vector<TextPart> message;
    if (system_text && place != System::message && i == with_system) {
      append(message, system.before, true);
      append(message, *system_text, false);
      append(message, system.after, true);
    }
    message.push_back({messages[i].text});
    add(user, std::move(message), trim == Trim::everything);
  }
  append(parts, answer.before, true);
  return parts;
}

std::string ChatTemplate::surroundings() const {
  return begin + system.before + system.after + user.before + user.after + answer.before + answer.after;
}

std::vector<std::string> chat_template_names() {
  std::vector<std::string> names;
  for (const Known& known : known_templates()) names.push_back(known.name);
  return names;
}

std::string_view recognise_chat_template(std::string_view jinja) {
  const Known* known = recognise(Forms(jinja));
  return known ? std::string_view(known->name) : std::string_view();
}

ChatTemplate make_chat_template(const Vocab& vocab, const std::string& name, const std::string& source) {
  const auto choose = [] {
    return fmt::format("choose one with --template: {}", fmt::join(chat_template_names(), ", "));
  };
  if (!name.empty()) {
    for (const Known& known : known_templates())
      if (known.name == name) return fill_in(known, vocab);
    fail("there is no chat template '{}'; {}", name, choose());
  }
  if (vocab.chat_template.empty()) fail("{} has no chat template; {}", source, choose());
  const Forms forms(vocab.chat_template);
  const Known* known = recognise(forms);
  if (!known) {
    fail("{}: its chat template is none that is known ('{}'); {}", source, start_of(vocab.chat_template),
         choose());
  }
  ChatTemplate result = fill_in(*known, vocab);
  const bool has_bos = vocab.chat_template.find("bos_token") != std::string::npos;
  if (known->user.before.find("{bos}") == std::string::npos)
    result.begin = has_bos && vocab.bos ? vocab.tokens[static_cast<size_t>(*vocab.bos)].text : "";
  result.default_system = default_system(forms, *known);
  if (result.place == System::in_last_user && !forms.hold("loop.last and system_message"))
    result.place = System::in_first_user;
  if (result.trim == Trim::nothing && (forms.hold("content|trim") || forms.hold("content.strip()")))
    result.trim = Trim::everything;
  return result;
}

}  // namespace gladius
