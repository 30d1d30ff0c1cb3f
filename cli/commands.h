// The commands: each file adds one to the program, with its arguments and a callback that makes the calls.
#pragma once

#include <CLI/CLI.hpp>

namespace gladius::cli {

void add_tokenizer(CLI::App& app);
void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_export(CLI::App& app);
void add_quantize(CLI::App& app);
void add_inspect(CLI::App& app);
void add_plan(CLI::App& app);
void add_doctor(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_logits(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_validate(CLI::App& app);
void add_imatrix(CLI::App& app);
void add_bench(CLI::App& app);

// Ends a command with this exit code after it printed what there was to say.
struct Exit {
  int code;
};

}  // namespace gladius::cli
