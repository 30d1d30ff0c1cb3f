// A conversation: what is remembered, read, forgotten and cut.
#include "model/chat.h"
#include "tests/script_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

using Role = ChatMessage::Role;

Vocab chat_vocab() {
  Vocab vocab = gpt2_vocab("gpt-2");
  for (const char* text : {"<|im_start|>", "<|im_end|>"})
    vocab.tokens.push_back({text, 0, TokenType::control});
  return vocab;
}

// Random weights: what comes next depends on all that came before.
class Fixture {
 public:
  explicit Fixture(int64_t context = 512) {
    Config config;
    config.vocab = tokenizer_->vocab().size();
    config.hidden = 32, config.intermediate = 48, config.layers = 2;
    config.heads = 4, config.kv_heads = 2, config.head_dim = 8;
    config.context = context;
    model_ = new_model(config, 5, *pool_);
    for (Tensor& weight : model_.weights)  // far from uniform, so that rounding decides nothing
      if (weight.shape().rank() == 2)
        for (int64_t i = 0; i < weight.shape().elements(); ++i) weight.f32()[i] *= 10;
    options.sampling.temperature = 0;
    options.max_tokens = 12;
  }

  ChatSession session(const std::string& system = "be a b c") {
    return {ctx_, model_, *tokenizer_, chatml_, options, system};
  }
  std::vector<int32_t> ids(std::span<const ChatMessage> messages) const {
    const int32_t end = tokenizer_->vocab().size() - 1;
    return tokenizer_->encode(chatml_.render(messages), std::vector<int32_t>{end - 1, end});
  }
  Generated anew(std::span<const ChatMessage> messages) {
    GenerateOptions same = options;
    same.end_tokens = {tokenizer_->vocab().size() - 2, tokenizer_->vocab().size() - 1};
    return generate(ctx_, model_, *tokenizer_, ids(messages), same, {});
  }
  Decoder decoder(int64_t capacity) { return {ctx_, model_, capacity}; }

  GenerateOptions options;

 private:
  std::shared_ptr<BufferPool> pool_ = BufferPool::make();
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  Context ctx_{*backend_, *pool_};
  std::unique_ptr<Tokenizer> tokenizer_ = make_tokenizer(chat_vocab(), "test");
  ChatTemplate chatml_ = make_chat_template(tokenizer_->vocab(), "chatml", "test");
  Model model_;
};

// After the last byte of every prompt comes the first piece, then the others.
struct Script {
  explicit Script(const std::string& prompt_end, const std::vector<std::string>& pieces)
      : tokenizer(make_tokenizer(script_vocab({"▁fine", "▁day", "<|im_", "end|>", "er"}), "test")) {
    std::vector<std::pair<int32_t, int32_t>> next;
    int32_t last = id_of(tokenizer->vocab(), prompt_end);
    for (const std::string& piece : pieces) {
      next.emplace_back(last, id_of(tokenizer->vocab(), piece));
      last = next.back().second;
    }
    model = script_model(tokenizer->vocab().size(), next, *pool);
    options.sampling.temperature = 0;
    options.context = 400;
    options.max_tokens = 20;
  }
  ChatSession session(const std::string& chat_template) {
    return {ctx, model, *tokenizer, make_chat_template(tokenizer->vocab(), chat_template, "m"), options};
  }

  std::shared_ptr<BufferPool> pool = BufferPool::make();
  std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Context ctx{*backend, *pool};
  std::unique_ptr<Tokenizer> tokenizer;
  Model model;
  GenerateOptions options;
};

std::string shown_by(ChatSession& session, const std::string& message) {
  std::string shown;
  session.answer(message, [&](std::string_view text) { shown += text; });
  return shown;
}

}  // namespace

TEST_CASE("a decoder that forgot is as one that never read") {
  Fixture f;
  const std::vector<int32_t> first = {1, 2, 3, 4, 5}, wrong = {9, 8, 7}, second = {6, 7};
  Decoder a = f.decoder(16), b = f.decoder(16);
  a.read(first);
  a.read(wrong);
  CHECK(a.length() == 8);
  a.truncate(5);
  CHECK(a.length() == 5);
  b.read(first);
  const auto left = a.read(second), right = b.read(second);
  CHECK(std::equal(left.begin(), left.end(), right.begin(), right.end()));
  a.clear();
  CHECK(a.length() == 0);
  CHECK(a.capacity() == 16);
  CHECK(message_of([&] { b.read(std::vector<int32_t>(10, 1)); }) != "");
}

TEST_CASE(
    "each answer is the one that the whole conversation read anew gives, but only what is new is read") {
  Fixture f;
  ChatSession session = f.session();
  std::vector<ChatMessage> messages = {{Role::system, "be a b c"}};
  size_t before = 0;
  for (const char* text : {"abc abc", "a cab.\nb", "e", "bbb a c"}) {
    CAPTURE(text);
    messages.push_back({Role::user, text});
    const Generated expected = f.anew(messages);
    std::string shown;
    const ChatAnswer answer = session.answer(text, [&](std::string_view piece) { shown += piece; });
    CHECK(answer.generated.tokens == expected.tokens);
    CHECK(answer.generated.text == expected.text);
    CHECK(answer.generated.reason == expected.reason);
    CHECK(expected.text.ends_with(shown));
    const size_t prompt = f.ids(messages).size();
    // Only the last token before the answer can turn out otherwise when the answer follows it.
    CHECK(static_cast<size_t>(answer.read) <= prompt - (before > 0 ? before - 1 : 0));
    CHECK(answer.read >= 1);
    before = prompt;
    messages.push_back({Role::assistant, expected.text});
    REQUIRE(session.messages().size() == messages.size());
    CHECK(session.messages().back().text == expected.text);
  }
}

TEST_CASE("a reset conversation is as a new one, drawn tokens included") {
  Fixture f;
  f.options.sampling.temperature = 1;
  ChatSession session = f.session();
  const std::string first = shown_by(session, "abc"), second = shown_by(session, "abc");
  session.reset();
  CHECK(session.messages().size() == 1);
  CHECK(shown_by(session, "abc") == first);
  CHECK(shown_by(session, "abc") == second);
  ChatSession without = f.session("");
  shown_by(without, "abc");
  without.reset();
  CHECK(without.messages().empty());
}

TEST_CASE(
    "a full context: the oldest turns go, the system message stays, and answers are those of the rest") {
  Fixture f(120);
  ChatSession session = f.session();
  int64_t forgotten = 0;
  for (int turn = 0; turn < 12; ++turn) {
    CAPTURE(turn);
    const std::string text = "abc cab " + std::to_string(turn);
    const ChatAnswer answer = session.answer(text, {});
    forgotten += answer.forgotten;
    const auto& messages = session.messages();
    CHECK(messages[0].role == Role::system);
    CHECK(static_cast<int64_t>(messages.size()) == 1 + 2 * (turn + 1 - forgotten));
    CHECK(messages[messages.size() - 2].text == text);
    const std::span<const ChatMessage> asked(messages.data(), messages.size() - 1);
    CHECK(f.ids(asked).size() + 12 <= 120);
    if (answer.forgotten > 0) CHECK(f.ids(asked).size() <= 60);
    CHECK(answer.generated.tokens == f.anew(asked).tokens);
  }
  CHECK(forgotten > 3);
}

TEST_CASE("a message that cannot fit is refused and forgotten; the conversation goes on") {
  Fixture f(120);
  ChatSession session = f.session(), other = f.session();
  shown_by(session, "abc");
  shown_by(other, "abc");
  const std::string refusal = message_of([&] { session.answer(std::string(500, '1'), {}); });
  CHECK(contains(refusal, "the context holds 120"));
  CHECK(session.messages().size() == 3);
  CHECK(shown_by(session, "cab") == shown_by(other, "cab"));
}

TEST_CASE("a cancelled answer counts as far as it came") {
  Fixture f;
  ChatSession session = f.session(), other = f.session();
  std::atomic<bool> cancel = true;
  CHECK(session.answer("abc", {}, &cancel).generated.reason == StopReason::cancelled);
  CHECK(session.messages().size() == 1);
  cancel = false;
  const ChatAnswer cut = session.answer("abc", [&](std::string_view) { cancel = true; }, &cancel);
  const ChatAnswer whole = other.answer("abc", {});
  CHECK(cut.generated.reason == StopReason::cancelled);
  CHECK(cut.generated.text.size() < whole.generated.text.size());
  CHECK(whole.generated.text.starts_with(cut.generated.text));
  CHECK(session.messages().back().text == cut.generated.text);
  cancel = false;
  const std::vector<ChatMessage> asked = {
      session.messages()[0], session.messages()[1], session.messages()[2], {Role::user, "b"}};
  CHECK(session.answer("b", {}, &cancel).generated.tokens == f.anew(asked).tokens);
}

TEST_CASE("the end of a turn that is no token ends the answer as text") {
  Script script("<0x0A>", {"▁fine", "▁day", "<|im_", "end|>", "er"});
  ChatSession session = script.session("chatml");
  CHECK(shown_by(session, "a") == "fine day");
  CHECK(session.messages().back().text == " fine day");
  CHECK(shown_by(session, "b") == "fine day");
}

TEST_CASE("the space that a model writes before its answer is not written twice") {
  Script script("<0x5D>", {"▁fine", "▁day", "</s>"});  // after "[/INST]"
  ChatSession session = script.session("llama2");
  CHECK(shown_by(session, "a") == "fine day");
  CHECK(session.messages().back().text == "fine day");
  // The next prompt begins with tokens that are held: "<s>[INST] a [/INST]". The answer's pieces are spelt in
  // bytes when its text is read.
  const ChatAnswer next = session.answer("b", {});
  CHECK(next.generated.text == " fine day");
  const auto tail = script.tokenizer->encode(" fine day </s><s>[INST] b [/INST]", false, true);
  CHECK(next.read <= static_cast<int64_t>(tail.size()) + 1);
}
