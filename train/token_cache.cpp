#include "train/token_cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>

#include "export/atomic_file.h"
#include "export/checksum.h"
#include "kernels/parallel.h"

namespace gladius {

namespace fs = std::filesystem;

namespace {

static_assert(std::endian::native == std::endian::little, "the cache is read in place");

constexpr uint32_t kVersion = 1;
constexpr size_t kKeyLength = 32;
constexpr char kMagic[16] = {'g', 'l', 'a', 'd', 'i', 'u', 's', '-', 't', 'o', 'k', 'e', 'n', 's'};

struct Header {
  char magic[16];
  uint32_t version, id_bytes;
  uint64_t vocab;
  char key[kKeyLength];
};
static_assert(sizeof(Header) == 64);

struct Footer {
  uint64_t tokens, documents;
  char checksum[kKeyLength];
};
static_assert(sizeof(Footer) == 48);
static_assert(sizeof(DocumentStart) == 16);

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

uint64_t padding(uint64_t bytes) { return (8 - bytes % 8) % 8; }

// Adds values and length-prefixed texts, so that different sequences never hash the same bytes.
class Fingerprint {
 public:
  template <class T>
  void add(T value) {
    checksum_.update(bytes_of(value));
  }
  void add(const std::string& text) {
    add(uint64_t{text.size()});
    checksum_.update(text);
  }
  void add(const std::optional<int32_t>& id) { add(id ? int64_t{*id} : int64_t{-1}); }
  Checksum& checksum() { return checksum_; }

 private:
  Checksum checksum_;
};

void stop_if(const std::atomic<bool>* cancel) {
  if (cancel && cancel->load(std::memory_order_relaxed)) throw Cancelled();
}

std::string cache_key(const Corpus& corpus, const Vocab& vocab, const CacheOptions& options) {
  constexpr size_t kChunk = size_t{16} << 20;
  Fingerprint key;
  key.add(kVersion);
  key.add(fingerprint(vocab));
  uint64_t done = 0;
  for (const fs::path& path : corpus.files()) {
    const auto file = MappedFile::open(path);
    key.add(path.extension().string());
    key.add(uint64_t{file->bytes().size()});
    for (auto rest = file->bytes(); !rest.empty();) {
      stop_if(options.cancel);
      const auto chunk = rest.first(std::min(rest.size(), kChunk));
      key.checksum().update(chunk);
      rest = rest.subspan(chunk.size());
      done += chunk.size();
      if (options.progress) options.progress(CacheOptions::Stage::reading, done, corpus.bytes());
    }
  }
  return key.checksum().hex();
}

// ---- encoding ----

// A document or, of a long .txt file, a part of one between two safe cuts.
struct Piece {
  Document document;
  size_t begin = 0, end = 0;  // in document.raw
  bool last = true;           // closes its document
};

// What one task encodes: enough to be worth a thread's while, few enough bytes to keep all threads busy.
struct Unit {
  std::vector<Piece> pieces;
  struct Encoded {
    uint64_t tokens, bytes;
    bool last;
  };
  std::vector<int32_t> ids;
  std::vector<Encoded> encoded;  // of each piece
  std::exception_ptr error;
};

class Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, const CacheOptions& options, AtomicFile& file)
      : tokenizer_(tokenizer),
        options_(options),
        file_(file),
        cuts_(tokenizer.vocab()),
        narrow_(tokenizer.vocab().size() <= 65536) {}

  void run(const Corpus& corpus, const std::string& key) {
    Header header{};
    std::copy(std::begin(kMagic), std::end(kMagic), header.magic);
    header.version = kVersion;
    header.id_bytes = narrow_ ? 2 : 4;
    header.vocab = static_cast<uint64_t>(tokenizer_.vocab().size());
    key.copy(header.key, kKeyLength);
    write(bytes_of(header));

    corpus.for_each([&](const Document& document, uint64_t bytes_read) {
      add(document, bytes_read, corpus.bytes());
      return true;
    });
    encode_queue(corpus.bytes(), corpus.bytes());
    if (starts_.empty()) {
      fail("no text to train on: all documents in {} and its {} file(s) are empty",
           corpus.files().front().string(), corpus.files().size());
    }
    finish();
  }

 private:
  static constexpr size_t kUnitBytes = size_t{128} << 10;
  static constexpr size_t kUnitsPerThread = 8;
  static constexpr size_t kMaxPieces = 16384;  // each may hold a mapping, of which a process has some 65000

  // bytes_read: of the corpus up to the document's end.
  void add(const Document& document, uint64_t bytes_read, uint64_t bytes_total) {
    const size_t size = document.raw.size();
    size_t begin = 0;
    do {
      const bool whole = document.json || size - begin <= kUnitBytes;
      const size_t end = whole ? size : cuts_.find(document.raw, begin + kUnitBytes);
      add_piece({document, begin, end, end == size});
      begin = end;
      if (queue_.size() > kUnitsPerThread * static_cast<size_t>(options_.threads) || pieces_ > kMaxPieces) {
        encode_queue(bytes_read - (size - end), bytes_total);
      }
    } while (begin < size);
  }

  void add_piece(Piece piece) {
    if (queue_.empty() || unit_bytes_ >= kUnitBytes) {
      queue_.emplace_back();
      unit_bytes_ = 0;
    }
    unit_bytes_ += piece.end - piece.begin;
    queue_.back().pieces.push_back(std::move(piece));
    ++pieces_;
  }

  void encode_queue(uint64_t bytes_done, uint64_t bytes_total) {
    parallel_tasks(options_.threads, static_cast<int64_t>(queue_.size()), [&](int64_t task, int) {
      Unit& unit = queue_[static_cast<size_t>(task)];
      try {
        for (const Piece& piece : unit.pieces) encode(piece, unit);
      } catch (...) {
        unit.error = std::current_exception();  // may not leave a parallel region
      }
    });
    for (const Unit& unit : queue_) {
      if (unit.error) std::rethrow_exception(unit.error);
      record(unit);
    }
    queue_.clear();
    pieces_ = 0;
    if (options_.progress) options_.progress(CacheOptions::Stage::encoding, bytes_done, bytes_total);
  }

  void encode(const Piece& piece, Unit& unit) const {
    stop_if(options_.cancel);
    std::string decoded;
    std::string_view text = document_text(piece.document, decoded);
    if (!piece.document.json) text = text.substr(piece.begin, piece.end - piece.begin);
    size_t dropped = 0;
    const uint64_t bytes = text.size();
    if (piece.begin > 0) {  // the character before the cut goes along, so that the piece is no start of a
                            // text: see SafeCuts
      dropped = tokenizer_.encode(piece.document.raw.substr(piece.begin - 1, 1), false).size();
      text = piece.document.raw.substr(piece.begin - 1, piece.end - piece.begin + 1);
    }
    const std::vector<int32_t> ids = tokenizer_.encode(text, false);
    unit.ids.insert(unit.ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(dropped), ids.end());
    uint64_t tokens = ids.size() - dropped;
    if (piece.last && bytes > 0 && tokenizer_.vocab().eos) {
      unit.ids.push_back(*tokenizer_.vocab().eos);
      ++tokens;
    }
    unit.encoded.push_back({tokens, bytes, piece.last});
  }

  // Appends a unit's tokens to the file, and its documents to the table.
  void record(const Unit& unit) {
    if (narrow_) {
      narrow_ids_.assign(unit.ids.begin(), unit.ids.end());
      write(std::as_bytes(std::span(narrow_ids_)));
    } else {
      write(std::as_bytes(std::span(unit.ids)));
    }
    for (const Unit::Encoded& piece : unit.encoded) {
      if (at_start_ && piece.bytes > 0) starts_.push_back(end_);
      if (piece.bytes > 0) at_start_ = false;
      if (piece.last) at_start_ = true;
      end_.token += piece.tokens;
      end_.byte += piece.bytes;
    }
  }

  void finish() {
    const uint64_t id_bytes = end_.token * (narrow_ ? 2 : 4);
    constexpr uint64_t kZero = 0;
    write(bytes_of(kZero).first(padding(id_bytes)));
    const uint64_t documents = starts_.size();
    starts_.push_back(end_);
    write(std::as_bytes(std::span(starts_)));
    Footer footer{end_.token, documents, {}};
    write(bytes_of(footer).first(offsetof(Footer, checksum)));
    file_.write(checksum_.hex());
  }

  void write(std::span<const std::byte> bytes) {
    checksum_.update(bytes);
    file_.write(bytes);
  }

  const Tokenizer& tokenizer_;
  const CacheOptions& options_;
  AtomicFile& file_;
  SafeCuts cuts_;
  bool narrow_;
  std::vector<Unit> queue_;
  size_t unit_bytes_ = 0, pieces_ = 0;
  Checksum checksum_;
  std::vector<uint16_t> narrow_ids_;
  std::vector<DocumentStart> starts_;
  DocumentStart end_;
  bool at_start_ = true;  // the next byte starts a document
};

}  // namespace

std::string fingerprint(const Vocab& vocab) {
  Fingerprint print;
  print.add(static_cast<int32_t>(vocab.kind));
  print.add(vocab.pre);
  print.add(uint64_t{vocab.tokens.size()});
  for (const Token& token : vocab.tokens) {
    print.add(token.text);
    print.add(std::bit_cast<uint32_t>(token.score));
    print.add(static_cast<int32_t>(token.type));
  }
  print.add(uint64_t{vocab.merges.size()});
  for (const std::string& merge : vocab.merges) print.add(merge);
  for (const auto& id : {vocab.bos, vocab.eos, vocab.unknown, vocab.padding}) print.add(id);
  print.add(uint64_t{vocab.end_of_generation.size()});
  for (const int32_t id : vocab.end_of_generation) print.add(id);
  for (const bool flag : {vocab.add_bos, vocab.add_eos, vocab.add_space_prefix}) print.add(uint8_t{flag});
  return print.checksum().hex();
}

// ---- reading ----

std::shared_ptr<const TokenCache> TokenCache::open(const fs::path& path, const std::string& key) {
  auto cache = std::shared_ptr<TokenCache>(new TokenCache);
  cache->file_ = MappedFile::open(path);
  cache->check(key);
  return cache;
}

void TokenCache::check(const std::string& key) {
  const auto bytes = file_->bytes();
  const auto damaged = [&](std::string_view what) {
    fail("the token cache {} is damaged: {}", file_->path().string(), what);
  };
  if (bytes.size() < sizeof(Header) + sizeof(DocumentStart) + sizeof(Footer)) damaged("it is too short");
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (!std::equal(std::begin(kMagic), std::end(kMagic), header.magic)) damaged("it does not start as one");
  if (header.version != kVersion) damaged(fmt::format("version {} instead of {}", header.version, kVersion));
  if (std::string_view(header.key, kKeyLength) != key)
    damaged("it belongs to other texts or another tokenizer");
  if (header.id_bytes != (header.vocab <= 65536 ? 2 : 4)) {
    damaged(fmt::format("{} bytes per token for a vocabulary of {}", header.id_bytes, header.vocab));
  }
  Footer footer;
  std::memcpy(&footer, bytes.data() + bytes.size() - sizeof footer, sizeof footer);
  const uint64_t room = bytes.size();  // bounds both counts before they are multiplied
  if (footer.tokens > room || footer.documents > room) damaged("its counts exceed its length");
  const uint64_t id_bytes = footer.tokens * header.id_bytes;
  const uint64_t table = sizeof(Header) + id_bytes + padding(id_bytes);
  const uint64_t length = table + (footer.documents + 1) * sizeof(DocumentStart) + sizeof footer;
  if (length != room) damaged(fmt::format("it has {} bytes instead of {}", room, length));
  if (checksum_hex(bytes.first(bytes.size() - kKeyLength)) != std::string_view(footer.checksum, kKeyLength)) {
    damaged("its checksum does not match");
  }

  key_ = key;
  tokens_ = footer.tokens;
  documents_ = footer.documents;
  const std::byte* ids = bytes.data() + sizeof(Header);
  if (header.id_bytes == 2) narrow_ = reinterpret_cast<const uint16_t*>(ids);
  if (header.id_bytes == 4) wide_ = reinterpret_cast<const uint32_t*>(ids);
  table_ = reinterpret_cast<const DocumentStart*>(bytes.data() + table);
  bool ordered = table_[0].token == 0 && table_[0].byte == 0 && table_[documents_].token == tokens_;
  for (uint64_t d = 0; d < documents_; ++d) {
    ordered &= table_[d].token <= table_[d + 1].token && table_[d].byte < table_[d + 1].byte;
  }
  if (!ordered || documents_ == 0) damaged("its table of documents is not in order");
  for (uint64_t i = 0; i < tokens_; ++i) {
    if (static_cast<uint64_t>((*this)[i]) >= header.vocab)
      damaged(fmt::format("token {} is out of range", i));
  }
}

uint64_t TokenCache::piece_bytes(uint64_t d, uint64_t begin, uint64_t end, const Tokenizer& tokenizer) const {
  const Vocab& vocab = tokenizer.vocab();
  const bool llama = vocab.kind == TokenizerKind::llama;
  const auto type = [&](uint64_t i) { return vocab.tokens[static_cast<size_t>((*this)[i])].type; };
  const uint64_t first = table_[d].token;
  const uint64_t text_end = table_[d + 1].token - (vocab.eos ? 1 : 0);
  uint64_t bytes = 0;
  std::string run;  // what byte tokens spell
  for (uint64_t i = begin; i < std::min(end, text_end); ++i) {
    const std::string_view piece = tokenizer.piece((*this)[i]);
    bytes += piece.size();
    // The encoder put a space before this token, which is in its piece but not in the source.
    const bool starts_text = i == first || type(i - 1) == TokenType::user_defined;
    if (llama && vocab.add_space_prefix && starts_text && type(i) != TokenType::user_defined) --bytes;
    // A space comes as the bytes of U+2581 where the encoder could not see that character after broken UTF-8.
    run = type(i) == TokenType::byte ? run.append(piece) : "";
    if (llama && run.ends_with("\xE2\x96\x81")) bytes -= 2;
  }
  return bytes;
}

uint64_t TokenCache::bytes(uint64_t begin, uint64_t end, const Tokenizer& tokenizer) const {
  const auto holds = [](uint64_t token, const DocumentStart& start) { return token < start.token; };
  uint64_t total = 0;
  auto d = static_cast<uint64_t>(std::upper_bound(table_, table_ + documents_, begin, holds) - table_ - 1);
  while (begin < end) {
    const uint64_t stop = std::min(end, table_[d + 1].token);
    if (begin == table_[d].token && stop == table_[d + 1].token) {
      total += table_[d + 1].byte - table_[d].byte;
    } else {
      total += piece_bytes(d, begin, stop, tokenizer);
    }
    begin = stop;
    ++d;
  }
  return total;
}

PreparedTokens prepare_tokens(const Corpus& corpus, const Tokenizer& tokenizer, const CacheOptions& options) {
  if (options.threads < 1) fail("encoding needs at least one thread, not {}", options.threads);
  std::error_code error;
  fs::create_directories(options.folder, error);
  if (error) fail("cannot create the folder {}: {}", options.folder.string(), error.message());
  PreparedTokens prepared;
  const std::string key = cache_key(corpus, tokenizer.vocab(), options);
  const fs::path path = options.folder / ("tokens-" + key + ".bin");
  if (fs::exists(path)) {
    try {
      prepared.cache = TokenCache::open(path, key);
      return prepared;
    } catch (const Error& damage) {
      prepared.damage = damage.what();
    }
  }
  AtomicFile file(path);
  Encoder(tokenizer, options, file).run(corpus, key);
  file.commit();
  prepared.built = true;
  prepared.cache = TokenCache::open(path, key);
  return prepared;
}

TokenSplits split_tokens(std::shared_ptr<const TokenCache> cache, double fraction) {
  if (!(fraction >= 0 && fraction < 1)) fail("the held-out fraction is {}; it must be in [0, 1)", fraction);
  const uint64_t total = cache->tokens(), documents = cache->documents();
  TokenSplits splits{{cache, 0, total}, {cache, total, total}, "nothing is held out"};
  if (fraction == 0) return splits;
  if (total < 2) fail("a text of {} token(s) cannot be split for validation", total);

  const double held_out = fraction * static_cast<double>(total);
  const auto target = std::clamp<uint64_t>(
      static_cast<uint64_t>(std::llround(static_cast<double>(total) - held_out)), 1, total - 1);
  // Of the documents' starts the one nearest to `target`, the very first excluded.
  uint64_t d = 1;
  while (d < documents && cache->document(d).token < target) ++d;
  const auto distance = [&](uint64_t i) {
    const auto at = static_cast<double>(cache->document(i).token);
    return std::abs(at - static_cast<double>(target));
  };
  if (d > 1 && (d >= documents || distance(d - 1) <= distance(d))) --d;
  const bool at_document = d < documents && distance(d) <= held_out / 2;
  const uint64_t cut = at_document ? cache->document(d).token : target;
  if (at_document) {
    splits.description = fmt::format("held out: the last {} of {} documents, {} of {} tokens", documents - d,
                                     documents, total - cut, total);
  } else {
    splits.description =
        fmt::format("held out: the last {} of {} tokens, from within a document", total - cut, total);
  }
  splits.training.end = splits.validation.begin = cut;
  return splits;
}

}  // namespace gladius
