#include "export/sentencepiece_model.h"

#include <cstring>
#include <optional>

#include "engine/error.h"
#include "engine/mapped_file.h"
#include "export/vocab_gguf.h"
#include "model/utf8.h"

namespace gladius {
namespace {

// ---- the protobuf wire format (protobuf.dev/programming-guides/encoding) ----

enum class Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

class ProtoWriter {
 public:
  void integer(int field, uint64_t value) {
    tag(field, Wire::varint);
    varint(value);
  }
  void boolean(int field, bool value) { integer(field, value ? 1 : 0); }
  void real(int field, float value) {
    tag(field, Wire::fixed32);
    out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(int field, std::string_view value) {
    tag(field, Wire::bytes);
    varint(value.size());
    out_ += value;
  }
  const std::string& bytes() const { return out_; }

 private:
  void tag(int field, Wire wire) { varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire)); }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
  }
  std::string out_;
};

// Walks over the fields of one message; every length is checked.
class ProtoReader {
 public:
  ProtoReader(std::string_view message, const std::string& source) : rest_(message), source_(source) {}

  // Moves to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    field_ = tag >> 3;
    wire_ = static_cast<Wire>(tag & 7);
    switch (wire_) {
      case Wire::varint:
        number_ = varint();
        break;
      case Wire::fixed64:
        bytes_ = take(8);
        break;
      case Wire::fixed32:
        bytes_ = take(4);
        break;
      case Wire::bytes:
        bytes_ = take(varint());
        break;
      default:
        fail("{}: this is not a SentencePiece model, or it is damaged (wire type {})", source_, tag & 7);
    }
    return true;
  }
  uint64_t field() const { return field_; }
  uint64_t integer() const {
    require(Wire::varint);
    return number_;
  }
  float real() const {
    require(Wire::fixed32);
    float value;
    std::memcpy(&value, bytes_.data(), sizeof(value));
    return value;
  }
  std::string_view bytes() const {
    require(Wire::bytes);
    return bytes_;
  }

 private:
  void require(Wire wanted) const {
    if (wire_ != wanted)
      fail("{}: field {} of the SentencePiece model has another type; it is damaged", source_, field_);
  }
  std::string_view take(uint64_t count) {
    if (count > rest_.size()) fail("{}: the SentencePiece model is truncated or damaged", source_);
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("{}: the SentencePiece model holds a number of more than 64 bits; it is damaged", source_);
  }

  std::string_view rest_;
  const std::string& source_;
  uint64_t field_ = 0, number_ = 0;
  Wire wire_ = Wire::varint;
  std::string_view bytes_;
};

// ---- sentencepiece_model.proto ----

namespace model_field {
constexpr int pieces = 1, trainer = 2, normalizer = 3;
}
namespace piece_field {
constexpr int text = 1, score = 2, type = 3;
}
namespace trainer_field {
constexpr int model_type = 3, vocab_size = 4, byte_fallback = 35, unk_id = 40, bos_id = 41, eos_id = 42,
              pad_id = 43, unk_piece = 45, bos_piece = 46, eos_piece = 47;
}
namespace normalizer_field {
constexpr int name = 1, charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4,
              escape_whitespaces = 5;
}
constexpr uint64_t kUnigram = 1, kBpe = 2;

Token read_piece(std::string_view message, const std::string& source) {
  Token token;
  ProtoReader reader(message, source);
  while (reader.next()) {
    if (reader.field() == piece_field::text) token.text = reader.bytes();
    if (reader.field() == piece_field::score) token.score = reader.real();
    if (reader.field() == piece_field::type) {
      const uint64_t type = reader.integer();
      if (type < 1 || type > 6) fail("{}: a piece has the unknown type {}", source, type);
      token.type = static_cast<TokenType>(type);
    }
  }
  for (std::string_view text = token.text; !text.empty();) {
    const size_t length = utf8_valid_length(text);
    if (length == 0) fail("{}: a piece is not valid UTF-8", source);
    text.remove_prefix(length);
  }
  return token;
}

struct SpecialIds {
  int32_t unk = 0, bos = 1, eos = 2, pad = -1;  // the format's defaults
};

SpecialIds read_trainer(std::string_view message, const std::string& source) {
  SpecialIds ids;
  uint64_t model_type = kUnigram;
  ProtoReader reader(message, source);
  while (reader.next()) {
    const auto id = [&] { return static_cast<int32_t>(static_cast<int64_t>(reader.integer())); };
    switch (reader.field()) {
      case trainer_field::model_type:
        model_type = reader.integer();
        break;
      case trainer_field::unk_id:
        ids.unk = id();
        break;
      case trainer_field::bos_id:
        ids.bos = id();
        break;
      case trainer_field::eos_id:
        ids.eos = id();
        break;
      case trainer_field::pad_id:
        ids.pad = id();
        break;
      default:
        break;
    }
  }
  if (model_type != kBpe)
    fail("{}: only SentencePiece models of type BPE are supported (type {})", source, model_type);
  return ids;
}

// Returns add_dummy_prefix.
bool read_normalizer(std::string_view message, const std::string& source) {
  bool dummy_prefix = true, collapse = true, escape = true;
  ProtoReader reader(message, source);
  while (reader.next()) {
    switch (reader.field()) {
      case normalizer_field::charsmap:
        if (!reader.bytes().empty()) {
          fail("{}: it normalises texts before it splits them, which is not supported (only 'identity')",
               source);
        }
        break;
      case normalizer_field::add_dummy_prefix:
        dummy_prefix = reader.integer() != 0;
        break;
      case normalizer_field::remove_extra_whitespaces:
        collapse = reader.integer() != 0;
        break;
      case normalizer_field::escape_whitespaces:
        escape = reader.integer() != 0;
        break;
      default:
        break;
    }
  }
  if (collapse) fail("{}: it removes extra white space, which is not supported", source);
  if (!escape) fail("{}: it does not escape white space, which is not supported", source);
  return dummy_prefix;
}

std::optional<int32_t> optional_id(int32_t id, const Vocab& vocab) {
  return id >= 0 && id < vocab.size() ? std::optional(id) : std::nullopt;
}

std::string trainer_message(const Vocab& vocab) {
  ProtoWriter trainer;
  const auto id = [](std::optional<int32_t> token) {
    return static_cast<uint64_t>(int64_t{token.value_or(-1)});
  };
  const auto text = [&](std::optional<int32_t> token) {
    return vocab.tokens[static_cast<size_t>(*token)].text;
  };
  trainer.integer(trainer_field::model_type, kBpe);
  trainer.integer(trainer_field::vocab_size, vocab.tokens.size());
  trainer.boolean(trainer_field::byte_fallback, true);
  trainer.integer(trainer_field::unk_id, id(vocab.unknown));
  trainer.integer(trainer_field::bos_id, id(vocab.bos));
  trainer.integer(trainer_field::eos_id, id(vocab.eos));
  trainer.integer(trainer_field::pad_id, id(vocab.padding));
  trainer.text(trainer_field::unk_piece, text(vocab.unknown));
  if (vocab.bos) trainer.text(trainer_field::bos_piece, text(vocab.bos));
  if (vocab.eos) trainer.text(trainer_field::eos_piece, text(vocab.eos));
  return trainer.bytes();
}

}  // namespace

Vocab read_sentencepiece_model(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::string source = path.string();
  Vocab vocab;
  vocab.pre = "default";
  std::optional<SpecialIds> ids;
  std::optional<bool> dummy_prefix;
  ProtoReader reader({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, source);
  while (reader.next()) {
    if (reader.field() == model_field::pieces) vocab.tokens.push_back(read_piece(reader.bytes(), source));
    if (reader.field() == model_field::trainer) ids = read_trainer(reader.bytes(), source);
    if (reader.field() == model_field::normalizer) dummy_prefix = read_normalizer(reader.bytes(), source);
  }
  if (vocab.tokens.empty() || !ids || !dummy_prefix) {
    fail("{}: pieces, trainer or normaliser settings are missing; this is not a SentencePiece model", source);
  }
  vocab.add_space_prefix = *dummy_prefix;
  vocab.unknown = optional_id(ids->unk, vocab);
  vocab.bos = optional_id(ids->bos, vocab);
  vocab.eos = optional_id(ids->eos, vocab);
  vocab.padding = optional_id(ids->pad, vocab);
  vocab.add_bos = vocab.bos.has_value();
  vocab.end_of_generation = end_of_generation_tokens(vocab, {});
  validate(vocab, source);
  return vocab;
}

std::string sentencepiece_model_bytes(const Vocab& vocab) {
  if (vocab.kind != TokenizerKind::llama || !vocab.unknown) {
    fail("only a llama vocabulary with an unknown token can be a SentencePiece model");
  }
  ProtoWriter model;
  for (const Token& token : vocab.tokens) {
    ProtoWriter piece;
    piece.text(piece_field::text, token.text);
    piece.real(piece_field::score, token.score);
    if (token.type != TokenType::normal) piece.integer(piece_field::type, static_cast<uint64_t>(token.type));
    model.text(model_field::pieces, piece.bytes());
  }
  model.text(model_field::trainer, trainer_message(vocab));
  ProtoWriter normalizer;
  normalizer.text(normalizer_field::name, "identity");
  normalizer.boolean(normalizer_field::add_dummy_prefix, vocab.add_space_prefix);
  normalizer.boolean(normalizer_field::remove_extra_whitespaces, false);
  normalizer.boolean(normalizer_field::escape_whitespaces, true);
  model.text(model_field::normalizer, normalizer.bytes());
  return model.bytes();
}

}  // namespace gladius
