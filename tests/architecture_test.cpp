// The rules that keep the source in order: a folder includes only itself and the folders to its left
// (docs/design.md), and every header can be read once.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace fs = std::filesystem;

namespace {

const fs::path root = fs::path(GLADIUS_TEST_DATA).parent_path().parent_path();

// Each folder with the ranks of the include rule: kernels → engine → model → export → (train, eval) → (cli,
// serve). Folders of one rank do not include each other; bench and tests include anything, and nothing
// includes them.
struct Folder {
  std::string name;
  int rank;
};
const std::vector<Folder> folders = {{"kernels", 0}, {"engine", 1}, {"model", 2}, {"export", 3},
                                     {"train", 4},   {"eval", 4},   {"cli", 5},   {"serve", 5},
                                     {"bench", 6},   {"tests", 6}};

const Folder* find_folder(const std::string& name) {
  const auto found =
      std::find_if(folders.begin(), folders.end(), [&](const Folder& folder) { return folder.name == name; });
  return found == folders.end() ? nullptr : &*found;
}

bool may_include(const Folder& from, const Folder& to) {
  if (from.name == to.name) return true;
  return to.rank < from.rank;
}

struct Source {
  fs::path path;  // from the root
  std::vector<std::string> lines;
};

const std::vector<Source>& sources() {
  static const std::vector<Source> all = [] {
    std::vector<Source> found;
    for (const Folder& folder : folders) {
      if (!fs::exists(root / folder.name)) continue;
      for (const auto& entry : fs::recursive_directory_iterator(root / folder.name)) {
        const std::string extension = entry.path().extension().string();
        if (extension != ".h" && extension != ".cpp") continue;
        Source source{fs::relative(entry.path(), root), {}};
        std::ifstream in(entry.path());
        for (std::string line; std::getline(in, line);) source.lines.push_back(line);
        found.push_back(std::move(source));
      }
    }
    return found;
  }();
  return all;
}

// The path of #include "path"; empty for any other line.
std::string included_path(const std::string& line) {
  const std::string start = "#include \"";
  if (line.compare(0, start.size(), start) != 0) return {};
  return line.substr(start.size(), line.find('"', start.size()) - start.size());
}

}  // namespace

TEST_CASE("the rule itself") {
  const auto allowed = [](const char* from, const char* to) {
    return may_include(*find_folder(from), *find_folder(to));
  };
  CHECK(allowed("engine", "kernels"));
  CHECK(allowed("cli", "train"));
  CHECK(allowed("tests", "cli"));
  CHECK(allowed("model", "model"));
  CHECK_FALSE(allowed("kernels", "engine"));
  CHECK_FALSE(allowed("train", "eval"));
  CHECK_FALSE(allowed("eval", "train"));
  CHECK_FALSE(allowed("serve", "cli"));
  CHECK_FALSE(allowed("tests", "bench"));
  CHECK_FALSE(allowed("cli", "tests"));
}

TEST_CASE("a folder includes only itself and the folders to its left, by the path from the root") {
  REQUIRE(sources().size() > 20);
  for (const Source& source : sources()) {
    const Folder& from = *find_folder(source.path.begin()->string());
    for (const std::string& line : source.lines) {
      const std::string path = included_path(line);
      if (path.empty()) continue;
      INFO(source.path.string(), " includes \"", path, "\"");
      const Folder* to = find_folder(fs::path(path).begin()->string());
      CHECK(fs::exists(root / path));
      REQUIRE(to != nullptr);
      CHECK(may_include(from, *to));
    }
  }
}

TEST_CASE("headers have #pragma once") {
  for (const Source& source : sources()) {
    if (source.path.extension() != ".h") continue;
    INFO(source.path.string());
    CHECK(std::find(source.lines.begin(), source.lines.end(), "#pragma once") != source.lines.end());
  }
}

TEST_CASE(
    "kernel bodies hold no standard containers or algorithms, and only instruction sets' files include "
    "them") {
  for (const Source& source : sources()) {
    const std::string file = source.path.filename().string();
    const bool body = file.ends_with("-inl.h");
    const bool isa = source.path.parent_path() == fs::path("kernels/cpu/isa");
    for (const std::string& line : source.lines) {
      INFO(source.path.string(), ": ", line);
      if (included_path(line).ends_with("-inl.h")) CHECK((body || isa));
      if (body) CHECK_FALSE((line == "#include <vector>" || line == "#include <algorithm>"));
    }
  }
}

TEST_CASE("files are short: about 500 lines, never beyond 600") {
  for (const Source& source : sources()) {
    INFO(source.path.string());
    CHECK(source.lines.size() <= 600);
  }
}
