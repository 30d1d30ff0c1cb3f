// generate(): what is shown, and why it stops. The model is a script: after each token comes the one that the
// test says.
#include <numeric>

#include "model/generate.h"
#include "model/utf8.h"
#include "tests/script_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

Vocab vocabulary() { return script_vocab({"▁once", "▁upon", "▁a", "▁time", "ST", "O", "P!", "ing", "▁é"}); }

class Script {
 public:
  explicit Script(const std::vector<std::string>& tokens) : tokenizer_(make_tokenizer(vocabulary(), "test")) {
    for (const std::string& token : tokens) ids_.push_back(id_of(tokenizer_->vocab(), token));
    std::vector<std::pair<int32_t, int32_t>> next;
    for (size_t i = 0; i + 1 < ids_.size(); ++i) next.emplace_back(ids_[i], ids_[i + 1]);
    model_ = script_model(tokenizer_->vocab().size(), next, *pool_);
    options.sampling.temperature = 0;
  }

  // The script's first n tokens as prompt.
  Generated run(size_t prompt = 1) {
    shown.clear();
    const std::vector<int32_t> read(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(prompt));
    const auto show = [&](std::string_view text) {
      shown.emplace_back(text);
      if (on_text) on_text();
    };
    const Generated result = generate(ctx_, model_, *tokenizer_, read, options, show, &cancel);
    CHECK(std::accumulate(shown.begin(), shown.end(), std::string()) == result.text);
    for (const std::string& text : shown) CHECK_FALSE(text.empty());
    // The tokens are the script's, and prompt and text together are what all tokens say.
    REQUIRE(prompt + result.tokens.size() <= ids_.size());
    CHECK(std::equal(result.tokens.begin(), result.tokens.end(),
                     ids_.begin() + static_cast<std::ptrdiff_t>(prompt)));
    if (result.reason != StopReason::stop_string) {
      std::vector<int32_t> all = read;
      all.insert(all.end(), result.tokens.begin(), result.tokens.end());
      CHECK(tokenizer_->decode(all) == tokenizer_->decode(read) + result.text);
    }
    return result;
  }

  GenerateOptions options;
  std::atomic<bool> cancel = false;
  std::function<void()> on_text;   // called after each piece
  std::vector<std::string> shown;  // the pieces

 private:
  std::shared_ptr<BufferPool> pool_ = BufferPool::make();
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  Context ctx_{*backend_, *pool_};
  std::unique_ptr<Tokenizer> tokenizer_;
  Model model_;
  std::vector<int32_t> ids_;
};

bool whole_characters(std::string_view text) {
  for (size_t at = 0; at < text.size(); at += utf8_length(text[at]))
    if (utf8_valid_length(text.substr(at)) == 0) return false;
  return true;
}

}  // namespace

TEST_CASE("text continues the prompt, its first word's space included, until the requested length") {
  Script script({"▁once", "▁upon", "▁a", "▁time", "ing"});
  script.options.max_tokens = 3;
  const Generated result = script.run();
  CHECK(result.text == " upon a time");
  CHECK(result.tokens.size() == 3);
  CHECK(result.reason == StopReason::length);
  CHECK(script.shown ==
        std::vector<std::string>{" upon", " a", " time"});  // each word as soon as it is there
  CHECK(script.run(2).text == " a timeing");
}

TEST_CASE("no tokens are asked for: nothing is generated") {
  Script script({"▁once", "▁upon"});
  script.options.max_tokens = 0;
  const Generated result = script.run();
  CHECK(result.text.empty());
  CHECK(result.tokens.empty());
  CHECK(result.reason == StopReason::length);
}

TEST_CASE("an end token stops and is not shown, unless it is ignored") {
  Script script({"▁once", "▁upon", "</s>", "▁a", "▁time"});
  const Generated result = script.run();
  CHECK(result.text == " upon");
  CHECK(result.tokens.size() == 1);
  CHECK(result.reason == StopReason::end_token);

  script.options.ignore_end = true;
  script.options.max_tokens = 4;
  const Generated longer = script.run();
  CHECK(longer.text == " upon a time");
  CHECK(longer.tokens.size() == 4);
  CHECK(longer.reason == StopReason::length);
}

TEST_CASE("a stop string is found across tokens, and neither it nor a part of it is shown") {
  Script script({"▁once", "▁a", "ST", "O", "P!", "▁time"});
  script.options.max_tokens = 5;
  script.options.stops = {"STOP"};
  const Generated result = script.run();
  CHECK(result.text == " a");
  CHECK(result.tokens.size() == 4);
  CHECK(result.reason == StopReason::stop_string);
  CHECK(script.shown == std::vector<std::string>{" a"});

  // What only looked like one is shown as soon as it cannot be one, or at the end.
  script.options.stops = {"STOOP"};
  CHECK(script.run().text == " aSTOP! time");
  CHECK(script.shown == std::vector<std::string>{" a", "STOP!", " time"});
  script.options.max_tokens = 2;
  CHECK(script.run().text == " aST");
  script.options.max_tokens = 5;
  script.options.stops = {"e and more", "xyz"};
  CHECK(script.run().text == " aSTOP! time");
  CHECK(script.shown.back() == "e");
}

TEST_CASE("characters are shown whole, however their bytes come") {
  Script script(
      {"▁once", "<0x20>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁é", "<0xC3>", "<0xA9>", "ing", "</s>"});
  const Generated result = script.run();
  CHECK(result.text == " 😀 ééing");
  CHECK(result.reason == StopReason::end_token);
  for (const std::string& text : script.shown) CHECK(whole_characters(text));

  script.options.stops = {"éé"};  // the second é comes as bytes
  CHECK(script.run().text == " 😀 ");
  for (const std::string& text : script.shown) CHECK(whole_characters(text));

  // Where generation ends inside a character, its bytes come last.
  script.options.stops = {};
  script.options.max_tokens = 3;
  CHECK(script.run().text == " \xF0\x9F");
  CHECK(script.shown == std::vector<std::string>{" ", "\xF0\x9F"});
}

TEST_CASE("a full context stops: the last token need not be read") {
  Script script({"▁once", "▁upon", "▁a", "▁time", "ST", "O", "P!"});
  script.options.context = 4;
  const Generated result = script.run(2);
  CHECK(result.text == " a timeST");
  CHECK(result.reason == StopReason::context_full);
  const Generated one = script.run(4);
  CHECK(one.text == "ST");
  CHECK(one.reason == StopReason::context_full);
  script.options.max_tokens = 1;
  CHECK(script.run(4).reason == StopReason::length);
}

TEST_CASE("prompts that are empty or longer than the context are refused") {
  Script script({"▁once", "▁upon", "▁a"});
  CHECK(contains(message_of([&] { script.run(0); }), "at least one token"));
  script.options.context = 2;
  const std::string message = message_of([&] { script.run(3); });
  CHECK(contains(message, "3 tokens"));
  CHECK(contains(message, "holds 2"));
}

TEST_CASE("a prompt of several pieces is read to its end") {
  std::vector<std::string> tokens(1099, "ing");
  tokens.insert(tokens.end(), {"▁once", "▁upon"});
  Script script(tokens);
  script.options.context = 1100;
  script.options.max_tokens = 1;
  CHECK(script.run(1100).text == " upon");
}

TEST_CASE("cancelling stops at once, with what was shown so far") {
  Script script({"▁once", "▁upon", "▁a", "▁time"});
  script.cancel = true;
  const Generated nothing = script.run();
  CHECK(nothing.text.empty());
  CHECK(nothing.reason == StopReason::cancelled);

  script.cancel = false;
  script.on_text = [&] { script.cancel = script.shown.size() == 2; };
  const Generated result = script.run();
  CHECK(result.text == " upon a");
  CHECK(result.reason == StopReason::cancelled);
}
