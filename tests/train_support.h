// What the tests of training data and checkpoints share: a folder of their own, random numbers and small
// vocabularies.
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "model/vocab.h"

namespace gladius::test {

namespace fs = std::filesystem;

// A new folder, removed with all it holds at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "gladius-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  fs::path operator/(std::string_view name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline void write(const fs::path& path, std::string_view contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

inline std::string read(const fs::path& path) {
  std::ostringstream contents;
  contents << std::ifstream(path, std::ios::binary).rdbuf();
  return contents.str();
}

// The names in a folder, in order.
inline std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Every file that this process or its children write is cut at `bytes`, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    previous_handler_ = ::signal(SIGXFSZ, SIG_IGN);  // writing fails in place of a signal
    ::getrlimit(RLIMIT_FSIZE, &previous_);
    struct rlimit limit = previous_;
    limit.rlim_cur = bytes;
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) throw std::runtime_error("setrlimit failed");
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &previous_);
    ::signal(SIGXFSZ, previous_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  struct rlimit previous_{};
  void (*previous_handler_)(int) = nullptr;
};

// The message of the exception that f throws; empty when it throws none.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

// A llama vocabulary: <unk>, <s>, </s>, the 256 bytes, characters, and `pieces` random joins of what is
// there, so that merges reach over any border. With user-defined tokens, two of them.
inline Vocab llama_vocab(int pieces = 200, uint32_t seed = 1, bool user_defined = false) {
  Vocab vocab;
  vocab.pre = "default";
  vocab.tokens = {
      {"<unk>", 0, TokenType::unknown}, {"<s>", 0, TokenType::control}, {"</s>", 0, TokenType::control}};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    vocab.tokens.push_back({text, 0, TokenType::byte});
  }
  std::vector<std::string> known = {"\xE2\x96\x81", "a", "b", "c", "e", "\n", ".", "\xC3\xA9"};
  for (const std::string& text : known) vocab.tokens.push_back({text, -1000, TokenType::normal});
  std::mt19937 random(seed);
  std::set<std::string> seen(known.begin(), known.end());
  for (int i = 0; i < pieces;) {
    const std::string joined = known[random() % known.size()] + known[random() % known.size()];
    if (joined.size() > 12 || !seen.insert(joined).second) continue;
    known.push_back(joined);
    vocab.tokens.push_back({joined, static_cast<float>(-++i), TokenType::normal});
  }
  if (user_defined) {
    vocab.tokens.push_back({"<c>", 0, TokenType::user_defined});
    vocab.tokens.push_back({"b.\n", 0, TokenType::user_defined});
    // normal pieces may not spell a user-defined token
    std::erase_if(vocab.tokens,
                  [](const Token& t) { return t.type == TokenType::normal && t.text == "b.\n"; });
  }
  vocab.bos = 1;
  vocab.eos = 2;
  vocab.unknown = 0;
  vocab.end_of_generation = {2};
  return vocab;
}

// A byte-level vocabulary with `merges` random merges, a control token as BOS and EOS, and a user-defined
// token.
inline Vocab gpt2_vocab(const std::string& pre, int merges = 200, uint32_t seed = 1) {
  const auto utf8 = [](uint32_t c) {
    return c < 128 ? std::string{static_cast<char>(c)}
                   : std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  };
  Vocab vocab;
  vocab.kind = TokenizerKind::gpt2;
  vocab.pre = pre;
  std::array<std::string, 256> alphabet;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    alphabet[byte] = utf8(printable ? byte : next++);
    vocab.tokens.push_back({alphabet[byte], 0, TokenType::normal});
  }
  std::vector<std::string> known;
  for (const char c : std::string("abce \n.1'\xC3\xA9"))
    known.push_back(alphabet[static_cast<unsigned char>(c)]);
  std::mt19937 random(seed);
  std::set<std::string> seen(known.begin(), known.end());
  for (int i = 0; i < merges;) {
    const std::string &left = known[random() % known.size()], &right = known[random() % known.size()];
    const std::string joined = left + right;
    if (joined.size() > 12 || !seen.insert(joined).second) continue;
    ++i;
    vocab.merges.push_back(left + " " + right);
    vocab.tokens.push_back({joined, 0, TokenType::normal});
    known.push_back(joined);
  }
  vocab.tokens.push_back({"<end>", 0, TokenType::control});
  vocab.bos = vocab.eos = vocab.size() - 1;
  vocab.end_of_generation = {*vocab.eos};
  vocab.tokens.push_back({"<c>", 0, TokenType::user_defined});
  vocab.add_bos = vocab.add_space_prefix = false;
  return vocab;
}

// A text of random characters, words that merge and now and then broken UTF-8.
inline std::string random_text(std::mt19937& random, size_t length) {
  static const std::array<std::string, 18> parts = {
      "a",  "b",   "c",    "e",        " ", "\n", ".",    "\xC3\xA9", "ab",
      "\n", "<c>", "b.\n", "\xE6\x97", "1", "'s", "\xE9", "  ",       "\xF0\x9F\x98\x80"};
  std::string text;
  while (text.size() < length) text += parts[random() % parts.size()];
  return text;
}

}  // namespace gladius::test
