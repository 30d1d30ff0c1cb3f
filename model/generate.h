// Text generation: the prompt once, then token by token.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/decoder.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/tokenizer.h"

namespace gladius {

struct GenerateOptions {
  int64_t max_tokens = 128;
  int64_t context = 0;              // capacity of the key/value cache; 0: the model's context length
  DType kv_type = DType::F32;       // of the key/value cache (is_kv_type)
  bool ignore_end = false;          // go on past end-of-generation tokens
  std::vector<int32_t> end_tokens;  // end the text besides those of the vocabulary
  std::vector<std::string> stops;
  SamplingOptions sampling;
};

enum class StopReason { length, end_token, stop_string, context_full, cancelled };
std::string_view describe(StopReason reason);

struct Generated {
  std::string text;
  std::vector<int32_t> tokens;  // without the end token
  StopReason reason = StopReason::length;
  double prompt_seconds = 0, generation_seconds = 0;
};

// Throws Error when the prompt is empty or does not fit the context.
void check_prompt(std::span<const int32_t> prompt, const Model& model, const GenerateOptions& options);

// Continues `prompt` (token ids, at least one). on_text receives text as soon as it is certain: whole UTF-8
// characters (but for one that generation ends inside of), and nothing that could still become a stop string.
// Throws Error as check_prompt() does.
Generated generate(Context& ctx, const Model& model, const Tokenizer& tokenizer,
                   std::span<const int32_t> prompt, const GenerateOptions& options,
                   const std::function<void(std::string_view)>& on_text,
                   const std::atomic<bool>* cancel = nullptr);

// The same with a decoder that holds the first tokens of `prompt`, but not all of them: only the others are
// read. options.context and kv_type have no meaning here; the prompt must fit the decoder. Afterwards the
// decoder holds the prompt and the generated tokens, the last of which may be missing, or less when it was
// cancelled.
Generated generate(Decoder& decoder, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                   const GenerateOptions& options, const std::function<void(std::string_view)>& on_text,
                   const std::atomic<bool>* cancel = nullptr);

}  // namespace gladius
