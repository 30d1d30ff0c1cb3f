#include "model/generate.h"

#include <algorithm>
#include <chrono>

#include "model/decoder.h"

namespace gladius {
namespace {

int64_t context_of(const Model& model, const GenerateOptions& options) {
  return options.context > 0 ? options.context : model.config.context;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string_view describe(StopReason reason) {
  switch (reason) {
    case StopReason::length:
      return "the requested number of tokens is reached";
    case StopReason::end_token:
      return "the model ended the text";
    case StopReason::stop_string:
      return "a stop string was generated";
    case StopReason::context_full:
      return "the context is full";
    case StopReason::cancelled:
      return "cancelled";
  }
  return "";
}

void check_prompt(std::span<const int32_t> prompt, const Model& model, const GenerateOptions& options) {
  if (prompt.empty()) fail("generation needs a prompt of at least one token");
  if (const int64_t capacity = context_of(model, options); static_cast<int64_t>(prompt.size()) > capacity) {
    fail("the prompt has {} tokens, but the context holds {}", prompt.size(), capacity);
  }
}

Generated generate(Context& ctx, const Model& model, const Tokenizer& tokenizer,
                   std::span<const int32_t> prompt, const GenerateOptions& options,
                   const std::function<void(std::string_view)>& on_text, const std::atomic<bool>* cancel) {
  check_prompt(prompt, model, options);
  const int64_t most = static_cast<int64_t>(prompt.size()) + std::max<int64_t>(0, options.max_tokens);
  // no memory for tokens that cannot come
  Decoder decoder(ctx, model, std::min(context_of(model, options), most), options.kv_type);
  return generate(decoder, tokenizer, prompt, options, on_text, cancel);
}

Generated generate(Decoder& decoder, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                   const GenerateOptions& options, const std::function<void(std::string_view)>& on_text,
                   const std::atomic<bool>* cancel) {
  const auto cancelled = [&] { return cancel && cancel->load(); };
  const auto ends = [&](int32_t token) {
    return tokenizer.ends_generation(token) ||
           std::find(options.end_tokens.begin(), options.end_tokens.end(), token) != options.end_tokens.end();
  };
  Sampler sampler(options.sampling, static_cast<int32_t>(decoder.vocab()));
  StreamDecoder stream(tokenizer, true);  // the text continues the prompt
  StopMatcher matcher(options.stops);
  Generated result;
  const auto show = [&](const std::string& text) {
    result.text += text;
    if (!text.empty() && on_text) on_text(text);
  };

  std::vector<int32_t> history(prompt.begin(), prompt.end());
  auto start = std::chrono::steady_clock::now();
  std::span<const float> logits = decoder.read(prompt.subspan(static_cast<size_t>(decoder.length())), cancel);
  result.prompt_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  result.reason = StopReason::length;
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    if (cancelled()) {
      result.reason = StopReason::cancelled;
      break;
    }
    const int32_t token = sampler.sample(logits, history);
    if (ends(token) && !options.ignore_end) {
      result.reason = StopReason::end_token;
      break;
    }
    history.push_back(token);
    result.tokens.push_back(token);
    show(matcher.push(stream.push(token)));
    if (matcher.stopped()) {
      result.reason = StopReason::stop_string;
      break;
    }
    if (static_cast<int64_t>(result.tokens.size()) == options.max_tokens) break;
    if (decoder.length() == decoder.capacity()) {
      result.reason = StopReason::context_full;
      break;
    }
    logits = decoder.read({&history.back(), 1});
  }
  if (!matcher.stopped()) show(matcher.push(stream.finish()));
  if (!matcher.stopped()) show(matcher.finish());
  result.generation_seconds = seconds_since(start);
  return result;
}

}  // namespace gladius
