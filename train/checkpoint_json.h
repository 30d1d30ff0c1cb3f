// The parts of a checkpoint's metadata as JSON text, and back.
#pragma once

#include <string>

#include "train/checkpoint.h"

namespace gladius {

std::string config_to_json(const Config& config);
std::string vocab_to_json(const Vocab& vocab);
std::string state_to_json(const TrainState& state);

// Throw Error naming `source` and the first field that is missing, of another type or out of range. Config
// and Vocab are validated.
Config config_from_json(const std::string& text, const std::string& source);
Vocab vocab_from_json(const std::string& text, const std::string& source);
TrainState state_from_json(const std::string& text, const std::string& source);

}  // namespace gladius
