// Trains a tokenizer's vocabulary on text: SentencePiece BPE with byte fallback (Kudo & Richardson 2018,
// arXiv:1808.06226), by the sentencepiece library.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "model/vocab.h"
#include "train/corpus.h"

namespace gladius {

// Calls visit with each text in order, in UTF-8. What is not valid UTF-8 is passed over.
using TextSource = std::function<void(const std::function<void(std::string_view text)>& visit)>;

TextSource texts_of(const Corpus& corpus);  // the corpus must outlive it

struct TokenizerTrainOptions {
  // 3 special and 256 byte tokens, the text's characters, and merges for the rest.
  int32_t vocab_size = 32000;
  // Of a larger text a sample is used: lines drawn evenly from all of it, of at least half and at most this
  // many bytes. Training takes up to 25 times as much memory.
  uint64_t sample_bytes = uint64_t{64} << 20;
  // Share of the text's characters that get tokens of their own, the most frequent first; others are spelled
  // in bytes.
  double character_coverage = 0.9999;
  bool split_digits = true;  // each digit is a token
  // Put a space before every text (Llama 2's habit). Off, since then a text reads the same at its start and
  // after a line feed, decoding is plain concatenation, and every format can say so (GGUF add_space_prefix,
  // SentencePiece add_dummy_prefix, no Prepend in tokenizer.json).
  bool add_space_prefix = false;
  uint64_t seed = 0;  // of the sample
};

// Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then merges by falling score, then characters. Text is not
// normalised, runs of spaces stay as they are and may be tokens, line feeds may be tokens together with
// punctuation and other line feeds; tokens never span a space, two scripts or a digit (split_digits). The
// result depends on the text and the options alone. Throws Error when there is no text, and when the size is
// too small or too large for it, with the size that is possible.
//
// The sentencepiece library is told to be silent for the rest of the process.
Vocab train_tokenizer(const TextSource& texts, const TokenizerTrainOptions& options);

}  // namespace gladius
