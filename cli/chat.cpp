#include "model/chat.h"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <optional>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"

namespace gladius::cli {
namespace {

struct Options {
  Options() { generate.max_tokens = 1024; }
  std::string model, system, chat_template;
  GenerateOptions generate;
  ComputeOptions compute;
};

constexpr char kHelp[] =
    "/exit   ends the conversation (so do Ctrl-D and Ctrl-C)\n"
    "/reset  forgets it and starts anew\n"
    "/help   shows this\n"
    "A \\ at the end of a line continues the message on the next. Ctrl-C during an answer stops it.\n";

// The next message, which goes on after each line that ends in a backslash; nothing at the end of the input.
std::optional<std::string> read_message(bool terminal) {
  std::string message, line;
  for (bool more = false;; more = true) {
    if (terminal) note("{}", more ? "… " : "> ");
    if (!std::getline(std::cin, line)) break;
    if (line.ends_with('\r')) line.pop_back();
    if (!line.ends_with('\\')) return message + line;
    line.back() = '\n';
    message += line;
  }
  if (message.empty()) return std::nullopt;
  message.pop_back();
  return message;
}

void say_forgotten(const ChatAnswer& answer, int64_t context) {
  if (answer.forgotten == 0) return;
  note("(the context of {} tokens was full: the oldest {} forgotten)\n", context,
       answer.forgotten == 1 ? std::string("turn is") : fmt::format("{} turns are", answer.forgotten));
}

void answer(ChatSession& session, const std::string& message, bool terminal) {
  const InterruptibleWork work;
  const ChatAnswer answer = session.answer(message, print, &interrupted());
  print("\n");
  say_forgotten(answer, session.context());
  switch (answer.generated.reason) {
    case StopReason::cancelled:
      if (!terminal) throw Exit{kInterruptedExit};
      break;
    case StopReason::length:
    case StopReason::context_full:
      note("(the answer ends here: {})\n", describe(answer.generated.reason));
      break;
    default:
      break;
  }
}

void converse(ChatSession& session, bool terminal) {
  while (const std::optional<std::string> message = read_message(terminal)) {
    if (message->find_first_not_of(" \t\n") == std::string::npos) continue;
    if (*message == "/exit") return;
    if (*message == "/help") {
      note("{}", kHelp);
    } else if (*message == "/reset") {
      session.reset();
      note("(a new conversation)\n");
    } else {
      try {
        answer(session, *message, terminal);
      } catch (const Error& error) {  // a person may go on with another message
        if (!terminal) throw;
        note("gladius: {}\n", error.what());
      }
    }
  }
  if (terminal) note("\n");
}

void run(const Options& o) {
  const auto backend = make_backend(o.compute);
  const auto pool = BufferPool::make();
  const LoadedModel loaded = load_model(o.model, *backend, *pool, weight_use(o.compute));
  const auto tokenizer = make_tokenizer(loaded.vocab, o.model);
  ChatTemplate chat_template = make_chat_template(loaded.vocab, o.chat_template, o.model);
  note_long_context(o.generate.context, loaded.model.config);
  Context ctx{*backend, *pool};
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  if (terminal) note("{}, chat template {}; /help for help\n", o.model, chat_template.name);
  ChatSession session(ctx, loaded.model, *tokenizer, std::move(chat_template), o.generate, o.system);
  converse(session, terminal);
}

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "chat", "A conversation: each line of standard input is a message, the model answers");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  command->add_option("--system", o->system, "What the model is told before the conversation");
  command->add_option("--template", o->chat_template, "Chat template in place of the file's")
      ->check(CLI::IsMember(chat_template_names()));
  command->add_option("-n,--tokens", o->generate.max_tokens, "Most tokens of an answer")
      ->check(whole(1, int64_t{1} << 40))
      ->capture_default_str();
  command
      ->add_option("--context", o->generate.context,
                   "Tokens to remember of the conversation; 0: the model's context length")
      ->check(whole(0, kMostContext))
      ->capture_default_str();
  add_sampling_options(*command, o->generate);
  add_kv_type_option(*command, o->generate.kv_type);
  add_inference_options(*command, o->compute);
  command->footer(
      "Example:\n  gladius chat model-Q4_K_M.gguf --system \"Answer in one sentence.\"\n  echo \"What is a "
      "sword?\" | gladius chat model-Q4_K_M.gguf --temperature 0");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
