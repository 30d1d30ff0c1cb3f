// `gladius chat` as people meet it through a pipe.
#include "tests/cli_support.h"

namespace gladius::test {
namespace {

TEST_CASE("chat: each line of a pipe is a message, and only the answers are printed") {
  const TemporaryFolder folder;
  const std::string model = (folder / "chat.gguf").string();
  write_with(
      model, "tokenizer.chat_template",
      "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
      "{% endfor %}{{ '<|im_start|>assistant\n' }}");
  const std::vector<std::string> chat = {"chat", model, "--temperature", "0", "--tokens", "4", "--context"};
  const auto answers = [&](const std::string& input, const std::vector<std::string>& more = {"300"}) {
    write(folder / "in", input);
    const Outcome outcome = run(with(chat, more), {}, SIGKILL, folder / "in");
    CHECK_MESSAGE(outcome.code == 0, outcome.err);
    CHECK_FALSE(contains(outcome.err, "> "));
    return outcome;
  };
  const std::string first = answers("the king\n").out;
  CHECK(first.ends_with('\n'));
  CHECK(first.size() > 1);
  const Outcome two = answers("the king\nnight falls\n");
  CHECK(two.out.starts_with(first));
  CHECK(two.out.size() > first.size());
  CHECK(contains(two.err, "the requested number of tokens"));
  CHECK(answers("\n  \nthe king\n\n").out == first);              // empty lines are no messages
  CHECK(answers("the king").out == first);                        // the last line may lack its end
  CHECK(answers("the king\n/exit\nnight falls\n").out == first);  // commands
  CHECK(answers("the king\n/reset\nthe king\n").out == first + first);
  const Outcome help = answers("/help\n");
  CHECK(help.out.empty());
  CHECK(contains(help.err, "/reset"));
  const std::string lines = answers("the king\\\nspeaks\n").out;  // one message of two lines
  CHECK(lines.ends_with('\n'));
  CHECK(answers("the king\\").out == first);
  CHECK(answers("").out.empty());
  // The file's template and that by its name are the same.
  CHECK(answers("the king\n", {"300", "--template", "chatml"}).out == first);
  CHECK(contains(run({"inspect", model}).out, "\nchat template: chatml\n"));
  // A conversation longer than the context forgets its oldest turns and says so.
  const Outcome full = answers("the king speaks\nnight falls\nthe king\n", {"170"});
  CHECK(contains(full.err, "the context of 170 tokens was full"));
  write(folder / "in", std::string(400, 'x'));
  const Outcome refused = run(with(chat, {"300"}), {}, SIGKILL, folder / "in");
  CHECK(refused.code == 1);
  CHECK(contains(refused.err, "the context holds 300"));
}

TEST_CASE("chat: a template that is missing or not known is refused, with what to do") {
  const Material& m = material();
  const TemporaryFolder folder;
  const std::string model = (folder / "odd.gguf").string();
  write_with(model, "tokenizer.chat_template", "{{ '### ' + messages[0].content }}");
  check_refused({"chat", model}, 1,
                {"odd.gguf", "{{ '### ' + messages[0].content }}", "--template", "chatml"});
  CHECK(contains(run({"inspect", model}).out, "\nchat template: one that is not known\n"));
  CHECK_FALSE(contains(run({"inspect", m.path("m-F32.gguf")}).out, "chat template"));
  check_refused({"chat", m.path("m-F32.gguf")}, 1, {"m-F32.gguf has no chat template", "--template"});
}

TEST_CASE("chat: Ctrl-C ends a conversation that comes through a pipe, exit code 130") {
  const Material& m = material();
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 100000; ++i) lines += "the king\n";
  write(folder / "in", lines);
  const Outcome outcome =
      run({"chat", m.path("m-F32.gguf"), "--template", "chatml", "--context", "1000", "--temperature", "0"},
          once_printed, SIGINT, folder / "in");
  CHECK(outcome.code == 130);
  CHECK(outcome.signal == 0);
  CHECK_FALSE(outcome.out.empty());
}

}  // namespace
}  // namespace gladius::test
