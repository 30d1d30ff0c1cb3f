// Cuts text into the words that byte-level BPE merges inside of.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace gladius {

// The patterns of OpenAI's GPT-2 ("gpt-2"), Llama 3 ("llama-bpe"), SmolLM ("smollm") and Qwen2 ("qwen2"),
// under their GGUF names (tokenizer.ggml.pre). Immutable and thread-safe after construction.
//
// Letters and numbers are those of the Unicode version that the PCRE2 library knows; white space is Unicode's
// White_Space. As in llama.cpp, contractions in other cases ('S, 'RE) are ASCII only.
class Pretokenizer {
 public:
  explicit Pretokenizer(const std::string& name);  // throws Error for an unknown name
  ~Pretokenizer();

  // Calls word for each word in order; joined they are the text. Text may hold any bytes: what is not a
  // character counts as one symbol (neither letter, number nor space), in the places where llama.cpp sees
  // U+FFFD.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

 private:
  struct Pattern;
  std::unique_ptr<const Pattern> pattern_;
};

}  // namespace gladius
