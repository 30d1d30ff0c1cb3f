// Arguments that several commands take, and checks of their values.
#pragma once

#include <CLI/CLI.hpp>
#include <limits>
#include <memory>
#include <string>

#include "cli/machine.h"
#include "export/quantize.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/generate.h"

namespace gladius::cli {

// --device, --backend, --threads, --pin: where, with which kernels and how wide to compute.
struct ComputeOptions {
  std::string device = "auto";
  std::string backend = "cpu";
  int threads = 0;  // 0: as many as the process may use
  bool pin = false;
  bool repack = true;
};
void add_compute_options(CLI::App& command, ComputeOptions& options);
void add_device_options(CLI::App& command, ComputeOptions& options);     // all of them but --threads
void add_repack_option(CLI::App& command, ComputeOptions& options);      // --no-repack
void add_inference_options(CLI::App& command, ComputeOptions& options);  // compute options and that
// found: what there was before any thread was pinned.
std::unique_ptr<Backend> make_backend(const ComputeOptions& options, const Processors& found = processors());

// --kv-type. F16 halves what is remembered; its rounding is far below that of quantised weights.
void add_kv_type_option(CLI::App& command, DType& type);

// How tokens are drawn, and --stop.
void add_sampling_options(CLI::App& command, GenerateOptions& options);

inline constexpr double kBelowOne =
    1 - std::numeric_limits<float>::epsilon() / 2.0;  // the largest float below 1

// Accepts finite numbers in [low, high]; `range` says so to people, as in "0 or above".
CLI::Validator number(double low, double high, const std::string& range);
CLI::Validator not_negative();
CLI::Validator whole(int64_t low, int64_t high);  // whole numbers

// Bounds that commands share.
inline constexpr int kMostThreads = 1024;
inline constexpr int64_t kMostSequences = 1 << 16, kMostContext = 1 << 20, kMostMicroBatches = 1 << 16,
                         kMostSteps = int64_t{1} << 40;

// Accepts the names of file types, in any case.
CLI::Validator file_type();

// Wrong arguments that no single option's check can find: one line, exit code 2. argument: its name.
[[noreturn]] void wrong_argument(const std::string& argument, const std::string& what);

// Tokens in a training sequence: `given`, or 256 (the model's, when that is less) where it is 0. More than
// the model's are a wrong argument.
int64_t training_context(int64_t given, const Config& config);

// Says so when an inference is given more tokens of context than the model was made for.
void note_long_context(int64_t context, const Config& config);

// Creates a folder and those above it where they are missing. Throws Error naming it.
void make_folder(const std::string& path);

// All of a file, or of standard input when the path is "-". Throws Error naming the path.
std::string read_text(const std::string& path);

}  // namespace gladius::cli
