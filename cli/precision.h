// --precision: what the factors of training's matrix products are rounded to.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "kernels/backend.h"
#include "model/config.h"

namespace gladius::cli {

void add_precision_option(CLI::App& command, std::string& precision);

// fp32 or bf16 by name; for "auto" both are timed and the choice is told.
Precision choose_precision(const std::string& name, const Config& config, int64_t batch, int64_t context,
                           Backend& backend);

}  // namespace gladius::cli
