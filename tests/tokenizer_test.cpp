// Tokenizers: other programs' ids, the definition by brute force, round trips, special tokens, streaming,
// broken vocabularies.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <thread>

#include "engine/error.h"
#include "tests/tokenizer_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

using Ids = std::vector<int32_t>;

// The ids of text by the format's definition: of all neighbours whose joined text is a token merge those with
// the highest score, of equal scores the leftmost, until there are none. Quadratic.
Ids merge_by_definition(const Vocab& vocab, const std::map<std::string, int32_t>& ids,
                        const std::string& text) {
  const std::string escaped = replace_all((vocab.add_space_prefix ? " " : "") + text, " ", "\xE2\x96\x81");
  std::vector<std::string> symbols = characters_of(escaped);
  while (true) {
    size_t best = symbols.size();
    float best_score = -std::numeric_limits<float>::infinity();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto entry = ids.find(symbols[i] + symbols[i + 1]);
      if (entry == ids.end()) continue;
      const float score = vocab.tokens[static_cast<size_t>(entry->second)].score;
      if (best == symbols.size() || score > best_score) best = i, best_score = score;
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  Ids out;
  for (const std::string& symbol : symbols) {
    const auto entry = ids.find(symbol);
    if (entry != ids.end()) {
      out.push_back(entry->second);
    } else {
      for (const char byte : symbol) out.push_back(3 + static_cast<unsigned char>(byte));
    }
  }
  return out;
}

std::map<std::string, int32_t> ids_by_text(const Vocab& vocab) {
  std::map<std::string, int32_t> ids;
  for (int32_t id = 0; id < vocab.size(); ++id) ids[vocab.tokens[static_cast<size_t>(id)].text] = id;
  return ids;
}

// 3 special and 256 byte tokens, then these pieces with falling scores.
Vocab small_llama_vocab(const std::vector<std::string>& pieces) {
  Vocab vocab = llama_vocabulary().vocab;
  vocab.tokens.resize(259);
  for (const std::string& piece : pieces) {
    vocab.tokens.push_back({piece, -static_cast<float>(vocab.tokens.size()), TokenType::normal});
  }
  return vocab;
}

// Where characters begin; bytes that belong to none count as one each.
std::vector<bool> character_borders(std::string_view text) {
  std::vector<bool> borders(text.size() + 1);
  for (size_t at = 0; at < text.size(); at += std::max<size_t>(1, utf8_valid_length(text.substr(at))))
    borders[at] = true;
  borders[text.size()] = true;
  return borders;
}

void check_stream(const Tokenizer& tokenizer, const Ids& ids) {
  const std::string whole = tokenizer.decode(ids);
  const std::vector<bool> borders = character_borders(whole);
  StreamDecoder stream(tokenizer);
  std::string joined;
  for (size_t i = 0; i < ids.size(); ++i) {
    joined += stream.push(ids[i]);
    REQUIRE(joined.size() <= whole.size());
    if (!borders[joined.size()]) FAIL_CHECK("cut inside a character at byte ", joined.size(), " of ", whole);
    // At most an unfinished character is held back.
    const std::string so_far = tokenizer.decode(std::span(ids).first(i + 1));
    if (so_far.size() > joined.size() + 3) FAIL_CHECK("held back too much of ", whole);
  }
  joined += stream.finish();
  CHECK(joined == whole);
}

}  // namespace

TEST_CASE("llama and gpt2 vocabularies encode llama.cpp's hard strings to its ids") {
  for (const VocabularyFile& file : {llama_vocabulary(), gpt2_vocabulary()}) {
    const auto tokenizer = make_tokenizer(file.vocab, "test");
    REQUIRE(file.cases.size() == 46);
    for (const auto& item : file.cases) {
      const std::string text = item["text"];
      CAPTURE(text);
      const Ids ids = tokenizer->encode(text, false);
      CHECK(ids == item["ids"].get<Ids>());
      CHECK(tokenizer->decode(ids) == text);
    }
  }
}

TEST_CASE("llama: fast merging gives what the definition gives") {
  const Vocab full = llama_vocabulary().vocab;
  // Equal scores (runs of spaces in the full vocabulary, everything here), pieces that overlap themselves,
  // and pieces with characters that are no tokens.
  Vocab small = small_llama_vocab({"aa", "aaa", "aaaa", "ab", "ba", "aba", "bab", "\xE2\x96\x81\xE2\x96\x81",
                                   "b\xE2\x96\x81", "\xC3\xA9\xC3\xA9",
                                   "\xC3\xA9"
                                   "a",
                                   "a\n", "\n\n", "\xE4\xBD\xA0\xE5\xA5\xBD"});
  for (size_t id = 259; id < 266; ++id) small.tokens[id].score = -1;
  RandomTexts random(1);
  for (const Vocab& vocab : {full, small}) {
    const auto tokenizer = make_tokenizer(vocab, "test");
    const auto ids = ids_by_text(vocab);
    for (int i = 0; i < 1500; ++i) {
      std::string text = random.text(1 + random.below(30), true);
      if (i % 2 == 0) {  // few characters, so that much merges
        for (char& c : text) c = "aab \n"[static_cast<unsigned char>(c) % 5];
      }
      CAPTURE(text);
      CHECK(tokenizer->encode(text, false) == merge_by_definition(vocab, ids, text));
    }
    // Longer texts in which words come again.
    std::string text;
    while (text.size() < 3000) text += random.text(3, true) + " the word again\n";
    CHECK(tokenizer->encode(text, false) == merge_by_definition(vocab, ids, text));
  }
}

TEST_CASE("a long text without a place to cut round-trips") {
  const auto tokenizer = make_tokenizer(llama_vocabulary().vocab, "test");
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "\xE4\xBD\xA0";
  CHECK(tokenizer->decode(tokenizer->encode(text, true)) == text);
  const std::string letters(300000, 'x');
  const Ids ids = tokenizer->encode(letters, false);
  CHECK(tokenizer->decode(ids) == letters);
}

TEST_CASE("10,000 random byte strings come back") {
  RandomTexts random(2);
  std::vector<std::string> texts;
  for (int i = 0; i < 10000; ++i) texts.push_back(random.text(random.below(40), i % 2 == 1));
  Vocab no_prefix = llama_vocabulary().vocab;
  no_prefix.add_space_prefix = false;
  for (const Vocab& vocab :
       {llama_vocabulary().vocab, no_prefix, small_llama_vocab({"a"}), gpt2_vocabulary().vocab}) {
    const auto tokenizer = make_tokenizer(vocab, "test");
    for (const std::string& text : texts) {
      const Ids ids = tokenizer->encode(text, vocab.add_bos);
      const std::string expected =
          vocab.kind == TokenizerKind::llama ? replace_all(text, "\xE2\x96\x81", " ") : text;
      if (tokenizer->decode(ids) != expected) FAIL_CHECK("not equal: ", text);
    }
  }
}

TEST_CASE("gpt2: the four pre-tokenizers round-trip and differ where they should") {
  RandomTexts random(3);
  Vocab vocab = gpt2_vocabulary().vocab;
  for (const char* pre : {"gpt-2", "llama-bpe", "smollm", "qwen2"}) {
    vocab.pre = pre;
    const auto tokenizer = make_tokenizer(vocab, "test");
    for (int i = 0; i < 1000; ++i) {
      const std::string text = random.text(random.below(40), true);
      CHECK(tokenizer->decode(tokenizer->encode(text, false)) == text);
    }
    // "2000" is one token of GPT-2's vocabulary; the others cut numbers.
    const size_t count = tokenizer->encode("2000", false).size();
    CHECK(count == (vocab.pre == "gpt-2" ? 1 : vocab.pre == "llama-bpe" ? 2 : 4));
  }
}

TEST_CASE("gpt2: llama-bpe takes a word that is a token without merging") {
  Vocab vocab = gpt2_vocabulary().vocab;
  const auto index = static_cast<int32_t>(vocab.tokens.size());
  vocab.tokens.push_back({"\xC4\xA0qzxjv", 0, TokenType::normal});  // " qzxjv", which no merge makes
  const auto merging = make_tokenizer(vocab, "test");
  CHECK(merging->encode(" qzxjv", false).size() > 1);
  vocab.pre = "llama-bpe";
  const auto taking = make_tokenizer(vocab, "test");
  CHECK(taking->encode(" qzxjv", false) == Ids{index});
  CHECK(taking->decode(Ids{index}) == " qzxjv");
}

TEST_CASE("special tokens") {
  Vocab vocab = llama_vocabulary().vocab;
  const int32_t user = vocab.size(), longer = user + 1;
  vocab.tokens.push_back({"[X]", 0, TokenType::user_defined});
  vocab.tokens.push_back({"[X][Y]", 0, TokenType::control});
  const auto tokenizer = make_tokenizer(vocab, "test");
  const Ids a = tokenizer->encode("a", false), b = tokenizer->encode("b", false);  // with the prefix space
  REQUIRE(a.size() == 1);
  REQUIRE(b.size() == 1);

  SUBCASE("beginning and end") {
    CHECK(tokenizer->encode("", true) == Ids{1});
    CHECK(tokenizer->encode("", false).empty());
    CHECK(tokenizer->encode("a", true) == Ids{1, a[0]});
    vocab.add_eos = true;
    vocab.add_bos = false;
    CHECK(make_tokenizer(vocab, "test")->encode("a", true) == Ids{a[0], 2});
  }
  SUBCASE("user-defined always, control and unknown on request, a space after each") {
    CHECK(tokenizer->encode("a[X]b", false) == Ids{a[0], user, b[0]});
    CHECK(tokenizer->encode("a</s>b<unk>a", false, true) == Ids{a[0], 2, b[0], 0, a[0]});
    const Ids plain = tokenizer->encode("a</s>b", false);
    CHECK(std::find(plain.begin(), plain.end(), 2) == plain.end());
    CHECK(tokenizer->decode(plain) == "a</s>b");
    CHECK(tokenizer->encode("</s></s>", false, true) == Ids{2, 2});
  }
  SUBCASE("what a person wrote never becomes a control token, though merges would make it") {
    Vocab merging = vocab;
    const Token control{"<|b|>", 100, TokenType::control};  // a score above all others
    for (const char* part : {"<|", "<|b", "|>"}) merging.tokens.push_back({part, 100, TokenType::normal});
    merging.tokens.push_back(control);
    const auto other = make_tokenizer(merging, "test");
    const int32_t id = merging.size() - 1;
    const Ids alone = other->encode("a<|b|>", false);
    REQUIRE(std::find(alone.begin(), alone.end(), id) != alone.end());  // as llama.cpp does
    const std::vector<TextPart> parts = {{"<|b|>", true}, {"a<|b|>b", false}};
    const Ids ids = other->encode(parts, {});
    CHECK(std::count(ids.begin(), ids.end(), id) == 1);
    CHECK(ids[0] == id);
    CHECK(other->decode(Ids(ids.begin() + 1, ids.end())) == "a<|b|>b");

    merging.tokens.back().type = TokenType::normal;  // a token that merges make, and that is reserved
    const auto with_reserved = make_tokenizer(merging, "test");
    const std::vector<TextPart> typed = {{"a<|b|>b", false}};
    const Ids free = with_reserved->encode(typed, {});
    CHECK(std::count(free.begin(), free.end(), id) == 1);
    const Ids reserved = with_reserved->encode(typed, Ids{id});
    CHECK(std::count(reserved.begin(), reserved.end(), id) == 0);
    CHECK(with_reserved->decode(reserved) == "a<|b|>b");
  }
  SUBCASE("the longest first") {
    CHECK(tokenizer->encode("[X][Y]", false, true) == Ids{longer});
    CHECK(tokenizer->encode("[X][X][Y]", false, true) == Ids{user, longer});
    CHECK(tokenizer->encode("[X][Y]", false)[0] == user);
  }
  SUBCASE("decoding shows them on request, and drops one leading space") {
    CHECK(tokenizer->decode(Ids{1, a[0], 2}) == "a");
    CHECK(tokenizer->decode(Ids{1, a[0], 2}, true) == "<s> a</s>");
    CHECK(tokenizer->decode(Ids{a[0], user, b[0]}) == "a[X] b");
    CHECK(tokenizer->decode(tokenizer->encode("  a", true)) == "  a");
    CHECK(tokenizer->piece(a[0]) == " a");
    CHECK(tokenizer->piece(3 + 0xFF) == "\xFF");
    CHECK(tokenizer->piece(2).empty());
    CHECK(tokenizer->piece(2, true) == "</s>");
    CHECK_THROWS_AS(tokenizer->piece(vocab.size()), Error);
    CHECK_THROWS_AS(tokenizer->piece(-1), Error);
  }
  SUBCASE("end of generation") {
    vocab.end_of_generation = {user};
    const auto other = make_tokenizer(vocab, "test");
    for (int32_t id = 0; id < vocab.size(); ++id)
      CHECK(other->ends_generation(id) == (id == user || id == 2));
    CHECK_FALSE(other->ends_generation(-1));
    CHECK_FALSE(other->ends_generation(vocab.size()));
  }
}

TEST_CASE("streamed text never ends inside a character, and joined is the decoded text") {
  RandomTexts random(4);
  for (const VocabularyFile& file : {llama_vocabulary(), gpt2_vocabulary()}) {
    const auto tokenizer = make_tokenizer(file.vocab, "test");
    for (int i = 0; i < 1000; ++i)
      check_stream(*tokenizer, tokenizer->encode(random.text(random.below(40), true), true));
    for (int i = 0; i < 1000; ++i) {  // any tokens at all
      Ids ids;
      for (uint64_t n = random.below(30); n > 0; --n) {
        const auto bound = static_cast<uint64_t>(random.below(2) == 0 ? 300 : file.vocab.size());
        ids.push_back(static_cast<int32_t>(random.below(bound)));
      }
      check_stream(*tokenizer, ids);
    }
  }
  const auto tokenizer = make_tokenizer(llama_vocabulary().vocab, "test");
  const Ids word = tokenizer->encode("but", false);
  StreamDecoder start(*tokenizer), continued(*tokenizer, true);
  CHECK(start.push(word[0]) == "but");
  CHECK(continued.push(word[0]) == " but");
}

TEST_CASE("one tokenizer serves several threads") {
  RandomTexts random(5);
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back(random.text(200, true));
  for (const VocabularyFile& file : {llama_vocabulary(), gpt2_vocabulary()}) {
    const auto tokenizer = make_tokenizer(file.vocab, "test");
    std::vector<Ids> expected(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) expected[i] = tokenizer->encode(texts[i], true);
    std::vector<std::vector<Ids>> results(4, std::vector<Ids>(texts.size()));
    std::vector<std::thread> threads;
    for (std::vector<Ids>& result : results) {
      threads.emplace_back([&] {
        for (size_t i = 0; i < texts.size(); ++i) result[i] = tokenizer->encode(texts[i], true);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& result : results) CHECK(result == expected);
  }
}

TEST_CASE("broken vocabularies are refused by name") {
  const auto refuses = [](Vocab vocab, const std::string& reason) {
    CAPTURE(reason);
    try {
      make_tokenizer(std::move(vocab), "file.gguf");
      FAIL_CHECK("accepted");
    } catch (const Error& error) {
      const std::string message = error.what();
      CHECK(message.find("file.gguf") == 0);
      CHECK_MESSAGE(message.find(reason) != std::string::npos, message);
    }
  };
  const Vocab llama = small_llama_vocab({"a", "b", "ab"}), gpt2 = gpt2_vocabulary().vocab;
  const auto with = [](Vocab vocab, auto change) {
    change(vocab);
    return vocab;
  };
  refuses(with(llama, [](Vocab& v) { v.tokens.clear(); }), "no tokens");
  refuses(with(llama, [](Vocab& v) { v.tokens[260].text = ""; }), "token 260 has no text");
  refuses(with(llama, [](Vocab& v) { v.tokens[260].text = "a"; }), "259 and 260");
  refuses(with(llama, [](Vocab& v) { v.tokens[260].type = TokenType{9}; }), "type 9");
  refuses(with(llama, [](Vocab& v) { v.tokens[260].score = std::nanf(""); }), "score");
  refuses(with(llama, [](Vocab& v) { v.tokens[13].text = "zz"; }), "zz");
  refuses(with(llama, [](Vocab& v) { v.tokens[13].type = TokenType::normal; }), "<0x0A>");
  refuses(with(llama, [](Vocab& v) { v.tokens.push_back({"<0xab>", 0, TokenType::byte}); }), "<0xab>");
  refuses(with(llama, [](Vocab& v) { v.bos = 262; }), "beginning-of-sequence token is 262");
  refuses(with(llama, [](Vocab& v) { v.eos = -1; }), "end-of-sequence token is -1");
  refuses(with(llama, [](Vocab& v) { v.unknown = 1000; }), "unknown token is 1000");
  refuses(with(llama, [](Vocab& v) { v.padding = 1000; }), "padding token is 1000");
  refuses(with(llama, [](Vocab& v) { v.end_of_generation = {2, 5000}; }), "5000");
  refuses(with(llama, [](Vocab& v) { v.bos.reset(); }), "beginning-of-sequence");
  refuses(with(llama, [](Vocab& v) { v.eos.reset(), v.add_eos = true; }), "end-of-sequence");
  refuses(with(gpt2, [](Vocab& v) { v.pre = "my-pre"; }), "my-pre");
  refuses(with(gpt2, [](Vocab& v) { v.merges[7] = "ab"; }), "merge 7");
  refuses(with(gpt2, [](Vocab& v) { v.merges[7] = "a b c"; }), "merge 7");
  refuses(with(gpt2, [](Vocab& v) { v.merges[7] = "q qzx"; }), "qzx");
  refuses(with(gpt2, [](Vocab& v) { v.merges[7] = "q \xC4\xA0"; }), "merge 7");
}
