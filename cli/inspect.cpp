#include "export/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "cli/verify_export.h"
#include "model/chat_template.h"
#include "model/utf8.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string path;
  bool tensors = true, metadata = true;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t dim : shape) text += (text.empty() ? "" : " × ") + std::to_string(dim);
  return text.empty() ? "scalar" : text;
}

// A training folder stands for its newest checkpoint.
std::filesystem::path resolve(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path) || std::filesystem::exists(path / "config.json")) return path;
  return newest_checkpoint(path).path;
}

void run(const Options& o) {
  const std::filesystem::path path = resolve(o.path);
  const FileDescription d = inspect(path);
  fmt::print("{}: {}, {}\n", path.string(), d.format, human_bytes(d.file_bytes));
  if (o.metadata) {
    fmt::print("\nmetadata\n");
    for (const auto& [key, value] : d.metadata) fmt::print("  {:<42} {}\n", key, value);
  }
  std::map<std::string, std::pair<int64_t, uint64_t>> types;  // tensors and bytes
  size_t width = 0;
  for (const auto& tensor : d.tensors) {
    ++types[tensor.type].first;
    types[tensor.type].second += tensor.bytes;
    width = std::max(width, tensor.name.size());
  }
  if (o.tensors && !d.tensors.empty()) {
    fmt::print("\ntensors\n");
    for (const auto& tensor : d.tensors) {
      fmt::print("  {:<{}}  {:<5} {:>14}  {}\n", tensor.name, width, tensor.type, shape_text(tensor.shape),
                 human_bytes(tensor.bytes));
    }
  }
  fmt::print("\n{} tensors, {} values, {}", d.tensors.size(), grouped(d.parameters),
             human_bytes(d.tensor_bytes));
  if (d.bits_per_weight > 0) fmt::print(", {:.3f} bits per value", d.bits_per_weight);
  fmt::print("\n");
  for (const auto& [type, sum] : types)
    fmt::print("  {:<5} {:>5} tensors, {}\n", type, sum.first, human_bytes(sum.second));
  if (!d.chat_template.empty()) {
    const std::string_view name = recognise_chat_template(d.chat_template);
    fmt::print("chat template: {}\n", name.empty() ? "one that is not known" : name);
  }
  if (!d.certificate) return;
  fmt::print("certificate: gladius {} on {}: {}\n", printable(d.certificate->version),
             printable(d.certificate->engine), certificate_text(*d.certificate));
  switch (d.certificate_state) {
    case CertificateState::fits:
      fmt::print("certificate: fits the tensor data\n");
      break;
    case CertificateState::other_type:
      fmt::print("certificate: of the file that this one was quantised from, not of this one\n");
      break;
    case CertificateState::damaged:
      fail("{}: the certificate does not fit the tensor data", path.string());
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "Shows what is in a GGUF or safetensors file, a checkpoint or a folder");
  command->add_option("path", o->path, "File, Hugging Face folder or training folder")->required();
  command->add_flag("!--no-tensors", o->tensors, "Leave out the list of tensors");
  command->add_flag("!--no-metadata", o->metadata, "Leave out the metadata");
  command->footer("Example:\n  gladius inspect model-Q4_K_M.gguf");
  command->callback([o] { run(*o); });
}

}  // namespace gladius::cli
