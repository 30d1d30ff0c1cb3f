// The rules that keep the source in order: a folder includes only itself and the folders to its left
// (docs/design.md), and every header can be read once.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace fs = std::filesystem;

namespace {

const fs::path root = fs::path(GLADIUS_TEST_DATA).parent_path().parent_path();

// Each folder with the ranks of the include rule: kernels → engine → model → export → (train, eval) → (cli,
// serve). Folders of one rank do not include each other; bench and tests include anything, and nothing
// includes them, but that benchmarks check results against the tests' oracles.
struct Folder {
  std::string name;
  int rank;
};
const std::vector<Folder> folders = {{"kernels", 0}, {"engine", 1}, {"model", 2}, {"export", 3},
                                     {"train", 4},   {"eval", 4},   {"cli", 5},   {"serve", 5},
                                     {"tests", 6},   {"bench", 7}};

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

  // Code that is compiled once for every instruction set.
  bool is_kernel_body() const {
    const std::string file = path.filename().string();
    return path.parent_path() == fs::path("kernels/cpu") &&
           (file.ends_with("-inl.h") || file.starts_with("quant_isa") || file == "simd.h");
  }
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

TEST_CASE("kernel bodies are included by instruction sets' files and by each other only") {
  for (const Source& source : sources()) {
    if (source.is_kernel_body() || source.path.parent_path() == fs::path("kernels/cpu/isa")) continue;
    for (const std::string& line : source.lines) {
      INFO(source.path.string(), ": ", line);
      CHECK_FALSE(included_path(line).ends_with("-inl.h"));
    }
  }
}

// Anything else of the standard library, a container or an algorithm above all, may leave a function out of
// line without an instruction set in its name, compiled for one CPU and run on another.
TEST_CASE("kernel bodies use nothing of the standard library but what is always inlined") {
  const std::set<std::string> names = {"std::bit_cast",
                                       "std::byte",
                                       "std::conditional_t",
                                       "std::exp",
                                       "std::index_sequence",
                                       "std::integer_sequence",
                                       "std::is_const_v",
                                       "std::log",
                                       "std::memcpy",
                                       "std::make_index_sequence",
                                       "std::memset",
                                       "std::make_integer_sequence",
                                       "std::sqrt"};
  const std::set<std::string> headers = {"<arm_neon.h>",  "<bit>",     "<cmath>",
                                         "<cstdint>",     "<cstring>", "<immintrin.h>",
                                         "<type_traits>", "<utility>", "<xsimd/xsimd.hpp>"};
  const std::regex name(R"(std::\w+)"), header(R"(#include (<[^>]*>))"),
      opened(R"(using namespace\s+std|\bnew\b|\bthrow\b)");
  int bodies = 0;
  for (const Source& source : sources()) {
    if (!source.is_kernel_body()) continue;
    ++bodies;
    for (const std::string& line : source.lines) {
      const std::string code = line.substr(0, line.find("//"));
      INFO(source.path.string(), ": ", line);
      CHECK_FALSE(std::regex_search(code, opened));
      for (std::sregex_iterator match(code.begin(), code.end(), name), end; match != end; ++match)
        CHECK(names.contains(match->str()));
      if (std::smatch match; std::regex_search(code, match, header)) CHECK(headers.contains(match[1]));
    }
  }
  CHECK(bodies >= 10);
}

TEST_CASE("files are short: about 500 lines, never beyond 600") {
  for (const Source& source : sources()) {
    INFO(source.path.string());
    CHECK(source.lines.size() <= 600);
  }
}
