#include "train/corpus.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.h"

namespace gladius {

namespace fs = std::filesystem;

namespace {

bool is_text(const fs::path& path) { return path.extension() == ".txt"; }
bool is_jsonl(const fs::path& path) { return path.extension() == ".jsonl"; }

std::vector<fs::path> files_under(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code broken;  // a link to nothing is no file
    if ((is_text(entry->path()) || is_jsonl(entry->path())) && entry->is_regular_file(broken)) {
      found.push_back(entry->path());
    }
  }
  if (error) fail("cannot list the folder {}: {}", folder.string(), error.message());
  std::sort(found.begin(), found.end());
  return found;
}

std::string joined(std::span<const fs::path> paths) {
  std::string text;
  for (const fs::path& path : paths) text += (text.empty() ? "" : ", ") + path.string();
  return text;
}

// Calls visit(line, number, bytes of the text up to its end) until it returns false; then returns false
// itself.
template <class Visit>
bool for_each_line(std::string_view text, Visit&& visit) {
  uint64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = std::min(end + 1, text.size());
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos && !visit(line, number, begin))
      return false;
  }
  return true;
}

}  // namespace

std::string_view document_text(const Document& document, std::string& decoded) {
  if (!document.json) return document.raw;
  const auto complain = [&](std::string_view reason) {
    fail("{}, line {}: {}", document.file->path().string(), document.line, reason);
  };
  try {
    auto value = nlohmann::json::parse(document.raw);
    if (!value.is_object()) complain("expected a JSON object with the field \"text\"");
    const auto field = value.find("text");
    if (field == value.end()) complain("the field \"text\" is missing");
    if (!field->is_string()) complain("the field \"text\" is not a string");
    decoded = std::move(field->get_ref<std::string&>());
  } catch (const nlohmann::json::exception& error) {
    complain(std::string_view(error.what()).substr(0, 300));  // it may quote the whole text
  }
  return decoded;
}

Corpus Corpus::open(std::span<const fs::path> inputs) {
  Corpus corpus;
  for (const fs::path& input : inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status)) fail("cannot find {}", input.string());
    if (fs::is_directory(status)) {
      const std::vector<fs::path> found = files_under(input);
      corpus.files_.insert(corpus.files_.end(), found.begin(), found.end());
    } else if (is_text(input) || is_jsonl(input)) {
      corpus.files_.push_back(input);
    } else {
      fail("{} is neither a .txt nor a .jsonl file nor a folder of them", input.string());
    }
  }
  if (corpus.files_.empty()) {
    fail("no texts: looked for .txt and .jsonl files in {}", inputs.empty() ? "no input" : joined(inputs));
  }
  for (const fs::path& file : corpus.files_) corpus.bytes_ += MappedFile::open(file)->bytes().size();
  if (corpus.bytes_ == 0) fail("no text: {} holds no byte", joined(corpus.files_));
  return corpus;
}

void Corpus::for_each(const Visitor& visit) const {
  uint64_t read = 0;
  for (const fs::path& path : files_) {
    const auto file = MappedFile::open(path);
    const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    const bool more = is_text(path)
                          ? visit({file, text, false, 0}, read + text.size())
                          : for_each_line(text, [&](std::string_view line, uint64_t number, size_t end) {
                              return visit({file, line, true, number}, read + end);
                            });
    if (!more) return;
    read += text.size();
  }
}

SafeCuts::SafeCuts(const Vocab& vocab) {
  for (unsigned a = 0; a < 128; ++a) {
    for (unsigned b = 0; b < 128; ++b) {
      const bool letter = (a | 32u) >= 'a' && (a | 32u) <= 'z';
      safe_[a * 128 + b] = vocab.kind == TokenizerKind::llama || (letter && b == '\n');
    }
  }
  for (const Token& token : vocab.tokens) {
    // A user-defined token is matched in the raw text; other texts are spelled in the tokenizer's alphabet,
    // in which llama's ASCII characters but the space stand for themselves.
    const bool raw = token.type == TokenType::user_defined;
    if (vocab.kind == TokenizerKind::gpt2 && !raw) continue;
    const std::string_view text = token.text;
    for (size_t i = 0; i + 1 < text.size(); ++i) {
      const auto a = static_cast<unsigned char>(text[i]), b = static_cast<unsigned char>(text[i + 1]);
      if (a < 128 && b < 128) safe_.reset(a * 128u + b);
    }
    if (raw && !text.empty() && static_cast<unsigned char>(text.back()) < 128) {
      for (unsigned b = 0; b < 128; ++b) safe_.reset(static_cast<unsigned char>(text.back()) * 128u + b);
    }
  }
  // llama writes a space as U+2581, so pairs with a space would need a look at its bytes; there are enough
  // others.
  for (unsigned c = 0; c < 128; ++c) {
    safe_.reset(c * 128 + ' ');
    safe_.reset(' ' * 128 + c);
  }
}

size_t SafeCuts::find(std::string_view text, size_t minimum) const {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t cut = std::max<size_t>(minimum, 4); cut < text.size(); ++cut) {
    const bool ascii = (byte(cut - 4) | byte(cut - 3) | byte(cut - 2) | byte(cut - 1) | byte(cut)) < 128;
    if (ascii && safe(byte(cut - 1), byte(cut))) return cut;
  }
  return text.size();
}

}  // namespace gladius
