// The commands: each file adds one to the program, with its arguments and a callback that makes the calls.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace gladius::cli {

void add_tokenizer(CLI::App& app);
void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_export(CLI::App& app);
void add_quantize(CLI::App& app);
void add_inspect(CLI::App& app);
void add_plan(CLI::App& app);
void add_doctor(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_logits(CLI::App& app);

// Ends a command with this exit code after it printed what there was to say.
struct Exit {
  int code;
};

// --device, --threads: where and how wide to compute.
struct ComputeOptions {
  std::string device = "auto";
  int threads = 0;  // 0: as many as the process may use
};
void add_compute_options(CLI::App& command, ComputeOptions& options);
std::unique_ptr<Backend> make_backend(const ComputeOptions& options);

// Processors that this process may run on (its affinity mask).
int available_threads();

}  // namespace gladius::cli
