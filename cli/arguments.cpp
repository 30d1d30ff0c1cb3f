#include "cli/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>

#include "cli/terminal.h"
#include "engine/error.h"
#include "kernels/parallel.h"

namespace gladius::cli {

void add_device_options(CLI::App& command, ComputeOptions& options) {
  command.add_option("--device", options.device, "Where to compute: auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--backend", options.backend, "Matrix products on the CPU: cpu, or onednn to compare")
      ->check(CLI::IsMember({"cpu", "onednn"}))
      ->capture_default_str();
  command.add_flag("--pin", options.pin, "Keep each thread on a core of its own");
}

void add_compute_options(CLI::App& command, ComputeOptions& options) {
  add_device_options(command, options);
  command.add_option("--threads", options.threads, "Threads; 0: one for each core that this process may use")
      ->check(whole(0, kMostThreads))
      ->capture_default_str();
}

void add_repack_option(CLI::App& command, ComputeOptions& options) {
  command.add_flag("!--no-repack", options.repack,
                   "Compute with weights as they lie in the file: slower, but starts at once and shares "
                   "the file's memory");
}

void add_inference_options(CLI::App& command, ComputeOptions& options) {
  add_compute_options(command, options);
  add_repack_option(command, options);
}

void add_kv_type_option(CLI::App& command, DType& type) {
  const std::map<std::string, DType> types = {
      {"f32", DType::F32}, {"f16", DType::F16}, {"bf16", DType::BF16}, {"q8_0", DType::Q8_0}};
  type = DType::F16;
  command
      .add_option("--kv-type", type,
                  "What keys and values of read tokens are held as: f32, f16, bf16 or q8_0")
      ->transform(CLI::CheckedTransformer(types, CLI::ignore_case).description(""))
      ->default_str("f16");
}

void add_sampling_options(CLI::App& command, GenerateOptions& options) {
  SamplingOptions& s = options.sampling;
  command.add_option("--temperature", s.temperature, "0: always the likeliest token")
      ->check(not_negative())
      ->capture_default_str();
  command.add_option("--top-k", s.top_k, "Draw from the k likeliest tokens; 0: all")
      ->check(whole(0, 1 << 30))
      ->capture_default_str();
  command.add_option("--top-p", s.top_p, "Draw from the likeliest tokens that together reach p; 1: all")
      ->check(number(0, 1, "between 0 and 1"))
      ->capture_default_str();
  command.add_option("--min-p", s.min_p, "Leave out tokens below this part of the likeliest one; 0: none")
      ->check(number(0, 1, "between 0 and 1"))
      ->capture_default_str();
  command.add_option("--repeat-penalty", s.repeat_penalty, "Makes recent tokens less likely; 1: off")
      ->check(number(std::numeric_limits<float>::min(), std::numeric_limits<float>::max(), "above 0"))
      ->capture_default_str();
  command.add_option("--repeat-last", s.repeat_last_n, "Tokens that the penalty looks back on; -1: all")
      ->check(whole(-1, 1 << 24))
      ->capture_default_str();
  command.add_option("--seed", s.seed, "The same seed draws the same tokens")
      ->check(whole(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command
      .add_option("--stop", options.stops, "Ends the text before this string; may be given more than once")
      ->take_all()
      ->allow_extra_args(false);
}

std::unique_ptr<Backend> make_backend(const ComputeOptions& options, const Processors& found) {
  if (options.device == "cuda") fail("this build has no CUDA backend; use --device cpu or auto");
  if (options.threads > found.threads())
    note("{} threads on {} of processor time: more than there are cores is slower, not faster\n",
         options.threads, found.threads() == 1 ? "one core" : fmt::format("{} cores", found.threads()));
  const int threads = options.threads > 0 ? options.threads : found.threads();
  if (options.pin && !pin_threads(threads, found.of_cores))
    note("the system does not let threads be kept on cores: --pin has no effect\n");
  return options.backend == "onednn" ? make_onednn_backend(threads) : make_cpu_backend(threads);
}

CLI::Validator number(double low, double high, const std::string& range) {
  const auto check = [=](const std::string& text) {
    double value = 0;
    const bool good = CLI::detail::lexical_cast(text, value) && value >= low && value <= high;
    return good ? std::string() : fmt::format("{} is not a number {}", text, range);
  };
  return CLI::Validator(check, "");
}

CLI::Validator not_negative() { return number(0, std::numeric_limits<double>::max(), "that is 0 or above"); }

CLI::Validator whole(int64_t low, int64_t high) {
  const auto check = [=](const std::string& text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool good =
        error == std::errc() && end == text.data() + text.size() && value >= low && value <= high;
    return good ? std::string() : fmt::format("{} is not a whole number from {} to {}", text, low, high);
  };
  return CLI::Validator(check, "");
}

CLI::Validator file_type() {
  const auto check = [](const std::string& text) {
    try {
      file_type_from_name(text);
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  return CLI::Validator(check, "");
}

void wrong_argument(const std::string& argument, const std::string& what) {
  throw CLI::ValidationError(argument, what);
}

int64_t training_context(int64_t given, const Config& config) {
  if (given > config.context)
    wrong_argument("--context", fmt::format("{} is more than the model's {}", given, config.context));
  return given > 0 ? given : std::min<int64_t>(config.context, 256);
}

void note_long_context(int64_t context, const Config& config) {
  if (context > config.context)
    note("--context {} is beyond the {} tokens that the model was made for\n", context, config.context);
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail("cannot create the folder {}: {}", path, error.message());
}

std::string read_text(const std::string& path) {
  if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  if (std::filesystem::is_directory(path)) fail("{} is a folder, not a text file", path);
  std::ifstream in(path, std::ios::binary);
  if (!in) fail("cannot open {}: {}", path, std::strerror(errno));
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (in.bad()) fail("cannot read {}: {}", path, std::strerror(errno));
  return text;
}

}  // namespace gladius::cli
