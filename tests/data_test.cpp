#include <doctest/doctest.h>

#include <chrono>
#include <functional>

#include "engine/error.h"
#include "tests/train_support.h"
#include "train/corpus.h"
#include "train/token_cache.h"

using namespace gladius;
using namespace gladius::test;

namespace {

std::vector<std::string> texts_of(const Corpus& corpus) {
  std::vector<std::string> texts;
  corpus.for_each([&](const Document& document, uint64_t) {
    std::string decoded;
    texts.emplace_back(document_text(document, decoded));
    return true;
  });
  return texts;
}

Corpus open_corpus(const fs::path& input) { return Corpus::open({&input, 1}); }

PreparedTokens prepare(const fs::path& input, const Tokenizer& tokenizer, const fs::path& folder,
                       int threads = 1) {
  return prepare_tokens(open_corpus(input), tokenizer, {folder, threads, {}, nullptr});
}

fs::path only_file_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  REQUIRE(files.size() == 1);
  return files[0];
}

std::vector<int32_t> ids_of(const TokenCache& cache) {
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < cache.tokens(); ++i) ids.push_back(cache[i]);
  return ids;
}

// Encodes piece by piece as the cache does: the character before a cut goes along and its tokens are dropped.
std::vector<int32_t> encode_in_pieces(const Tokenizer& tokenizer, std::string_view text, size_t length,
                                      size_t& pieces) {
  const SafeCuts cuts(tokenizer.vocab());
  std::vector<int32_t> ids;
  for (size_t begin = 0; begin < text.size(); ++pieces) {
    const size_t end = cuts.find(text, std::min(begin + length, text.size()));
    const size_t context = begin > 0 ? 1 : 0;
    const auto piece = tokenizer.encode(text.substr(begin - context, end - begin + context), false);
    const size_t dropped = tokenizer.encode(text.substr(begin - context, context), false).size();
    ids.insert(ids.end(), piece.begin() + static_cast<std::ptrdiff_t>(dropped), piece.end());
    begin = end;
  }
  return ids;
}

}  // namespace

TEST_CASE("a corpus reads text files whole and JSON lines by line, in the order of their paths") {
  const TemporaryFolder folder;
  fs::create_directories(folder / "in/b");
  write(folder / "in/c.txt", "third\nfile");
  write(folder / "in/b/z.txt", "second");
  write(folder / "in/a.jsonl",
        "{\"text\": \"one\\n\\u00e9\"}\n\n  \r\n{\"id\": 1, \"text\": \"two\"}\r\n{\"text\":\"\"}");
  write(folder / "in/notes.md", "not read");
  write(folder / "in/empty.txt", "");
  const Corpus corpus = open_corpus(folder / "in");
  CHECK(texts_of(corpus) ==
        std::vector<std::string>{"one\n\xC3\xA9", "two", "", "second", "third\nfile", ""});
  CHECK(corpus.bytes() == fs::file_size(folder / "in/a.jsonl") + 6 + 10);
  CHECK(corpus.files().size() == 4);

  uint64_t last = 0;
  corpus.for_each([&](const Document&, uint64_t read) {
    CHECK(read >= last);
    last = read;
    return true;
  });
  CHECK(last == corpus.bytes());
  int visits = 0;
  corpus.for_each([&](const Document&, uint64_t) { return ++visits < 4; });
  CHECK(visits == 4);

  // Several inputs keep the order in which they are named.
  const std::vector<fs::path> inputs = {folder / "in/c.txt", folder / "in/b"};
  CHECK(texts_of(Corpus::open(inputs)) == std::vector<std::string>{"third\nfile", "second"});
}

TEST_CASE("a corpus says what is wrong with its inputs") {
  const TemporaryFolder folder;
  const auto error_of = [&](const std::string& name) {
    return message_of([&] { texts_of(open_corpus(folder / name)); });
  };
  CHECK(contains(error_of("missing.txt"), "cannot find"));
  CHECK(contains(error_of("missing.txt"), "missing.txt"));
  write(folder / "notes.md", "x");
  CHECK(contains(error_of("notes.md"), "neither"));
  fs::create_directory(folder / "none");
  write(folder / "none/x.md", "x");
  CHECK(contains(error_of("none"), "looked for .txt and .jsonl"));
  CHECK(contains(error_of("none"), (folder / "none").string()));
  CHECK(contains(message_of([] { Corpus::open({}); }), "no texts"));

  const std::vector<std::pair<std::string, std::string>> lines = {
      {"{\"text\": \"open", "parse error"},         {"[\"text\"]", "object"},
      {"{\"body\": \"x\"}", "\"text\" is missing"}, {"{\"text\": 3}", "not a string"},
      {"{\"text\": null}", "not a string"},         {"{\"text\": \"\xFF\"}", "UTF-8"},
      {"{\"text\": \"a\"} x", "parse error"},       {"{\"text\": \"\\ud800\"}", "surrogate"}};
  for (const auto& [line, reason] : lines) {
    CAPTURE(line);
    write(folder / "bad.jsonl", "{\"text\": \"good\"}\n\n" + line + "\n");
    const std::string message = error_of("bad.jsonl");
    CHECK(contains(message, "bad.jsonl, line 3: "));
    CHECK(contains(message, reason));
  }
}

TEST_CASE("texts cut at safe places encode as the whole, for both kinds of tokenizers") {
  std::vector<Vocab> vocabs = {llama_vocab(), llama_vocab(300, 2, true), llama_vocab(40, 3, true)};
  vocabs.push_back(llama_vocab(100, 4, true));
  vocabs.back().add_space_prefix = false;
  for (const char* pre : {"gpt-2", "llama-bpe", "smollm", "qwen2"}) vocabs.push_back(gpt2_vocab(pre));
  std::mt19937 random(11);
  for (const Vocab& vocab : vocabs) {
    CAPTURE(vocab.pre);
    const auto tokenizer = make_tokenizer(vocab, "test");
    size_t pieces = 0;
    for (int i = 0; i < 400; ++i) {
      const std::string text = random_text(random, 1 + random() % 300);
      CAPTURE(text);
      REQUIRE(encode_in_pieces(*tokenizer, text, 1 + random() % 12, pieces) ==
              tokenizer->encode(text, false));
    }
    CHECK(pieces > 800);  // it does cut
  }
}

TEST_CASE("a cut never falls inside a broken character, a piece or after a user-defined token") {
  Vocab vocab = llama_vocab(0);
  const auto cuts_at = [&](std::string_view text) { return SafeCuts(vocab).find(text, 0); };
  CHECK(cuts_at("aaaabbbb") == 4);  // no piece joins a and b, nor a and a
  CHECK(cuts_at("aaa") == 3);       // none before the fifth byte
  CHECK(cuts_at("\xF0"
                "abcdefgh") == 5);        // the lead byte claims abc as its own
  CHECK(cuts_at("a b c d e f g") == 13);  // not beside a space
  vocab.tokens.push_back({"aa", 0, TokenType::normal});
  vocab.tokens.push_back({"xab", 0, TokenType::normal});
  CHECK(cuts_at("aaaabbbb") == 5);  // b and b
  vocab.tokens.push_back({"#b", 0, TokenType::user_defined});
  CHECK(cuts_at("aaaabbbb") == 8);
  const Vocab gpt2 = gpt2_vocab("gpt-2");
  CHECK(SafeCuts(gpt2).find("abcde \n1\nab\n", 0) == 11);  // letter, line feed
}

TEST_CASE("the cache holds every document's tokens and EOS, at any thread count the same bytes") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "in");
  std::mt19937 random(3);
  std::vector<std::string> documents = {random_text(random, 1500000), "", random_text(random, 200000)};
  for (int i = 0; i < 3000; ++i) documents.push_back(random_text(random, random() % 60));
  documents.push_back(std::string(300000, ' '));  // no safe cut
  for (size_t i = 0; i < 3; ++i) write(folder / fmt::format("in/{}.txt", i), documents[i]);
  std::string lines;
  for (size_t i = 3; i < 3003; ++i) {
    std::erase_if(documents[i], [](char c) { return static_cast<unsigned char>(c) >= 128; });
    std::string escaped;
    for (const char c : documents[i]) escaped += c == '\n' ? std::string("\\n") : std::string{c};
    lines += fmt::format("{{\"text\":\"{}\"}}\n", escaped);
  }
  write(folder / "in/3.jsonl", lines);
  write(folder / "in/4.txt", documents.back());

  for (const bool llama : {true, false}) {
    const auto tokenizer = make_tokenizer(llama ? llama_vocab(200, 1, true) : gpt2_vocab("smollm"), "test");
    std::string bytes;
    for (const int threads : {1, 2, 3, 8}) {
      const fs::path cache_folder = folder / fmt::format("cache{}{}", threads, llama ? "l" : "g");
      const PreparedTokens made = prepare(folder / "in", *tokenizer, cache_folder, threads);
      CHECK(made.built);
      CHECK(made.damage.empty());
      const std::string now = read(only_file_in(cache_folder));
      if (threads > 1) CHECK(now == bytes);
      bytes = now;
      CHECK(!prepare(folder / "in", *tokenizer, cache_folder, threads).built);
      if (threads > 1) continue;
      const TokenCache& cache = *made.cache;
      std::vector<int32_t> wanted;
      uint64_t d = 0, source = 0;
      for (const std::string& text : documents) {
        if (text.empty()) continue;
        REQUIRE(d < cache.documents());
        CHECK(cache.document(d).token == wanted.size());
        CHECK(cache.document(d).byte == source);
        const auto ids = tokenizer->encode(text, false);
        wanted.insert(wanted.end(), ids.begin(), ids.end());
        wanted.push_back(*tokenizer->vocab().eos);
        ++d;
        source += text.size();
      }
      CHECK(cache.documents() == d);
      CHECK(cache.document(d).byte == source);
      CHECK(ids_of(cache) == wanted);
      CHECK(cache.bytes(0, cache.tokens(), *tokenizer) == source);
    }
  }
}

TEST_CASE("bytes of any run of tokens add up to the source") {
  for (const bool llama : {true, false}) {
    const TemporaryFolder folder;
    fs::create_directory(folder / "in");
    std::mt19937 random(5);
    for (int i = 0; i < 40; ++i) {
      // Every third document begins with what makes the space before the text special.
      const std::string start = i % 3 == 0 ? "<c>" : i % 3 == 1 ? " " : "\xE9 ";
      write(folder / fmt::format("in/{}.txt", i), start + random_text(random, random() % 200));
    }
    const auto tokenizer = make_tokenizer(llama ? llama_vocab(200, 1, true) : gpt2_vocab("gpt-2"), "test");
    const auto cache = prepare(folder / "in", *tokenizer, folder / "cache").cache;
    for (uint64_t d = 0; d < cache->documents(); ++d) {
      const DocumentStart start = cache->document(d), end = cache->document(d + 1);
      const uint64_t source = end.byte - start.byte;
      CHECK(cache->bytes(start.token, end.token, *tokenizer) == source);      // as recorded
      CHECK(cache->bytes(start.token, end.token - 1, *tokenizer) == source);  // counted; EOS has none
      CHECK(cache->bytes(end.token - 1, end.token, *tokenizer) == 0);
      CHECK(cache->bytes(start.token, start.token, *tokenizer) == 0);
    }
    // Over several documents, with parts at both ends.
    const DocumentStart a = cache->document(2), b = cache->document(6);
    CHECK(cache->bytes(a.token, b.token - 1, *tokenizer) == b.byte - a.byte);
    CHECK(cache->bytes(a.token - 1, b.token, *tokenizer) == b.byte - a.byte);
  }
}

TEST_CASE("ids take two bytes up to 65536 tokens and four beyond") {
  const TemporaryFolder folder;
  write(folder / "t.txt", "abc abc");
  for (const int32_t size : {65536, 65537}) {
    Vocab vocab = llama_vocab();
    while (vocab.size() < size) {
      vocab.tokens.push_back({fmt::format("x{}", vocab.size()), -2000, TokenType::unused});
    }
    vocab.eos = size - 1;
    vocab.tokens.back().type = TokenType::control;
    const auto tokenizer = make_tokenizer(vocab, "test");
    const auto cache = prepare(folder / "t.txt", *tokenizer, folder / std::to_string(size)).cache;
    auto wanted = tokenizer->encode("abc abc", false);
    wanted.push_back(size - 1);
    CHECK(ids_of(*cache) == wanted);
    const uint64_t id_bytes = wanted.size() * (size == 65536 ? 2 : 4);
    CHECK(fs::file_size(only_file_in(folder / std::to_string(size))) ==
          64 + (id_bytes + 7) / 8 * 8 + 2 * 16 + 48);
  }
}

TEST_CASE("a vocabulary without EOS leaves documents unmarked") {
  const TemporaryFolder folder;
  write(folder / "t.txt", "abc abc");
  Vocab vocab = llama_vocab();
  vocab.eos.reset();
  const auto tokenizer = make_tokenizer(vocab, "test");
  const auto cache = prepare(folder / "t.txt", *tokenizer, folder / "cache").cache;
  CHECK(ids_of(*cache) == tokenizer->encode("abc abc", false));
  CHECK(cache->bytes(0, cache->tokens() - 1, *tokenizer) < 7);
}

TEST_CASE("the cache's key follows the contents and the tokenizer, not names and times") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "in");
  write(folder / "in/a.txt", "abc");
  write(folder / "in/b.jsonl", "{\"text\":\"b\"}");
  const Vocab vocab = llama_vocab(200, 1, true);
  const auto key = [&](const Vocab& v) {
    return prepare(folder / "in", *make_tokenizer(v, "test"), folder / "cache").cache->key();
  };
  std::set<std::string> keys = {key(vocab)};
  fs::last_write_time(folder / "in/a.txt", fs::file_time_type::clock::now() + std::chrono::hours(1));
  fs::rename(folder / "in/a.txt", folder / "in/aa.txt");
  keys.insert(key(vocab));
  CHECK(keys.size() == 1);

  const std::vector<std::function<void()>> source_changes = {
      [&] { write(folder / "in/aa.txt", "abd"); },
      [&] { write(folder / "in/aa.txt", "abd "); },
      [&] { write(folder / "in/b.jsonl", "{\"text\":\"c\"}"); },
      [&] { fs::rename(folder / "in/b.jsonl", folder / "in/b.txt"); },  // now plain text
      [&] { fs::rename(folder / "in/b.txt", folder / "in/0.txt"); },    // now the first
      [&] { write(folder / "in/c.txt", ""); }};
  for (const auto& change : source_changes) {
    change();
    CHECK(keys.insert(key(vocab)).second);
  }
  std::set<std::string> prints = {fingerprint(vocab)};
  const std::vector<std::function<void(Vocab&)>> vocab_changes = {
      [](Vocab& v) { v.tokens[270].score = std::nextafter(v.tokens[270].score, 0.0f); },
      [](Vocab& v) { v.tokens[270].text += "x"; },
      [](Vocab& v) { std::swap(v.tokens[271], v.tokens[272]); },
      [](Vocab& v) { v.tokens[270].type = TokenType::unused; },
      [](Vocab& v) { v.tokens.push_back({"xyz", 0, TokenType::normal}); },
      [](Vocab& v) { v.merges.push_back("a b"); },
      [](Vocab& v) { v.eos.reset(); },
      [](Vocab& v) { v.bos = 2; },
      [](Vocab& v) { v.add_space_prefix = false; },
      [](Vocab& v) { v.add_bos = false; },
      [](Vocab& v) { v.kind = TokenizerKind::gpt2; },
      [](Vocab& v) { v.pre = "gpt-2"; }};
  for (const auto& change : vocab_changes) {
    Vocab changed = vocab;
    change(changed);
    CHECK(prints.insert(fingerprint(changed)).second);
  }
  Vocab changed = vocab;
  vocab_changes[0](changed);
  CHECK(keys.insert(key(changed)).second);
}

TEST_CASE("a damaged cache is noticed and built again") {
  const TemporaryFolder folder;
  write(folder / "t.txt", "abc abc. abc\nabc");
  const auto tokenizer = make_tokenizer(llama_vocab(), "test");
  const auto key = prepare(folder / "t.txt", *tokenizer, folder / "cache").cache->key();
  const fs::path path = only_file_in(folder / "cache");
  const std::string good = read(path);
  const auto flipped = [&](size_t at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    return bytes;
  };
  std::string other_key = good;
  other_key[32] = other_key[32] == '0' ? '1' : '0';
  const std::vector<std::pair<std::string, std::string>> damages = {
      {"", "too short"},
      {"gladius-tokens", "too short"},
      {good.substr(0, good.size() - 1), ""},
      {good.substr(0, good.size() - 8), ""},
      {good.substr(0, 128), ""},
      {good + '\0', ""},
      {good + std::string(8, '\0'), ""},
      {std::string(good.size(), '\0'), "does not start"},
      {flipped(0), "does not start"},
      {flipped(16), "version"},
      {flipped(20), "bytes per token"},
      {flipped(25), "checksum"},  // the vocabulary's size
      {other_key, "other texts"},
      {flipped(64), "checksum"},                     // the first id
      {flipped(good.size() - 48 - 16), "checksum"},  // the documents' table
      {flipped(good.size() - 48), "bytes"},          // the number of tokens
      {flipped(good.size() - 40), "bytes"},          // the number of documents
      {flipped(good.size() - 41), "counts"},         // its highest byte
      {flipped(good.size() - 1), "checksum"},        // the checksum itself
      {good.substr(0, 64) + good.substr(66, 2) + good.substr(64, 2) + good.substr(68),
       "checksum"},  // swapped ids
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    CAPTURE(i);
    const auto& [bytes, reason] = damages[i];
    write(path, bytes);
    const std::string message = message_of([&] { TokenCache::open(path, key); });
    CHECK(contains(message, "token cache " + path.string() + " is damaged"));
    CHECK(contains(message, reason));
    const PreparedTokens made = prepare(folder / "t.txt", *tokenizer, folder / "cache");
    CHECK(made.built);
    CHECK(made.damage == message);
    CHECK(read(path) == good);
  }
  // Any single flipped bit.
  for (size_t at = 0; at < good.size(); ++at) {
    write(path, flipped(at));
    CHECK_THROWS_AS(TokenCache::open(path, key), Error);
  }
}

TEST_CASE("building a cache stops cleanly: no text, a bad line, no folder, cancelled") {
  const TemporaryFolder folder;
  const auto tokenizer = make_tokenizer(llama_vocab(), "test");
  const auto files_left = [&] {
    return std::distance(fs::directory_iterator(folder / "cache"), fs::directory_iterator());
  };
  write(folder / "empty.txt", "");
  write(folder / "empty.jsonl", "{\"text\":\"\"}\n");
  CHECK(contains(message_of([&] { prepare(folder / "empty.txt", *tokenizer, folder / "cache"); }),
                 "empty.txt"));
  CHECK(
      contains(message_of([&] { prepare(folder / "empty.jsonl", *tokenizer, folder / "cache"); }), "empty"));
  std::string lines;
  for (int i = 1; i <= 20000; ++i)
    lines += i == 7000 || i == 15000 ? "oops\n" : "{\"text\":\"abc abc abc abc\"}\n";
  write(folder / "bad.jsonl", lines);
  for (const int threads : {1, 2, 5}) {  // the first bad line, whichever thread meets one first
    CHECK(contains(message_of([&] { prepare(folder / "bad.jsonl", *tokenizer, folder / "cache", threads); }),
                   "line 7000"));
  }
  write(folder / "file", "");
  CHECK(contains(message_of([&] { prepare(folder / "empty.jsonl", *tokenizer, folder / "file" / "x"); }),
                 "folder"));
  CHECK(files_left() == 0);

  std::atomic<bool> cancel{false};
  CacheOptions options{folder / "cache", 2, {}, &cancel};
  uint64_t last = 0;
  options.progress = [&](CacheOptions::Stage stage, uint64_t done, uint64_t total) {
    CHECK(total == 5000000);
    if (stage == CacheOptions::Stage::encoding) cancel = true;
    CHECK(done <= total);
  };
  write(folder / "long.txt", [] {
    std::string text;
    while (text.size() < 5000000) text += "abc\n";
    return text;
  }());
  // Cancelled after the first progress report of the encoding, which comes before the end of a text of this
  // length.
  CHECK_THROWS_AS(prepare_tokens(open_corpus(folder / "long.txt"), *tokenizer, options), Error);
  CHECK(files_left() == 0);
  cancel = false;
  options.progress = [&](CacheOptions::Stage stage, uint64_t done, uint64_t) {
    if (stage != CacheOptions::Stage::encoding) return;
    CHECK(done >= last);
    last = done;
  };
  const auto cache = prepare_tokens(open_corpus(folder / "long.txt"), *tokenizer, options).cache;
  CHECK(last == 5000000);
  CHECK(cache->document(1).byte == 5000000);
}

TEST_CASE("the end of the tokens is held out: whole documents where there are many") {
  const TemporaryFolder folder;
  const auto tokenizer = make_tokenizer(llama_vocab(0), "test");
  const auto cache_of =
      [&](const std::vector<size_t>& lengths) {  // in characters; as many tokens, and ▁ and EOS
        std::string lines;
        for (const size_t length : lengths)
          lines += fmt::format("{{\"text\":\"{}\"}}\n", std::string(length, 'a'));
        write(folder / "t.jsonl", lines);
        return prepare(folder / "t.jsonl", *tokenizer, folder / "cache").cache;
      };
  const auto many = cache_of(std::vector<size_t>(100, 8));  // 100 documents of 10 tokens
  REQUIRE(many->tokens() == 1000);
  for (const auto& [fraction, begin] :
       {std::pair{0.1, 900u}, {0.104, 900u}, {0.106, 890u}, {0.01, 990u}, {0.5, 500u}}) {
    const TokenSplits splits = split_tokens(many, fraction);
    CHECK(splits.training.begin == 0);
    CHECK(splits.training.end == begin);
    CHECK(splits.validation.begin == begin);
    CHECK(splits.validation.end == 1000);
    CHECK(contains(splits.description, "of 100 documents"));
    CHECK(contains(splits.description, std::to_string(1000 - begin) + " of 1000 tokens"));
  }
  CHECK(split_tokens(many, 0.004).validation.begin ==
        996);  // the nearest document would be 2.5 times as much
  CHECK(contains(split_tokens(many, 0.004).description, "within a document"));
  CHECK(split_tokens(many, 0).validation.size() == 0);
  CHECK(split_tokens(many, 0).training.size() == 1000);

  const auto one = cache_of({998});
  CHECK(split_tokens(one, 0.1).validation.begin == 900);
  CHECK(contains(split_tokens(one, 0.1).description, "the last 100 of 1000 tokens"));
  CHECK(split_tokens(one, 1e-9).validation.size() == 1);  // something is held out when asked for
  const auto two = cache_of({498, 498});
  CHECK(split_tokens(two, 0.4).validation.begin == 500);  // the document's start is near enough
  CHECK(split_tokens(two, 0.1).validation.begin == 900);
  const auto uneven = cache_of({98, 898});
  CHECK(split_tokens(uneven, 0.1).validation.begin == 900);

  for (const double fraction : {-0.1, 1.0, 2.0, std::nan("")})
    CHECK_THROWS_AS(split_tokens(many, fraction), Error);
}
