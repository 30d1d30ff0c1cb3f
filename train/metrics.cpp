#include "train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/error.h"
#include "export/atomic_file.h"

namespace gladius {

namespace {

// The lines to keep: whole, with a step of at most `last_step`.
std::string kept_lines(const std::filesystem::path& path, int64_t last_step) {
  std::string kept;
  std::ifstream file(path, std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    if (file.eof()) break;  // no line end: cut off
    const auto value = nlohmann::json::parse(line, nullptr, false);
    if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer()) continue;
    if (value["step"].get<int64_t>() <= last_step) kept += line + '\n';
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path path, int64_t last_step) : path_(std::move(path)) {
  write_file(path_, kept_lines(path_, last_step));
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) fail("cannot open {}: {}", path_.string(), std::strerror(errno));
}

MetricsLog::~MetricsLog() {
  if (fd_ >= 0) ::close(fd_);
}

void MetricsLog::append(const StepMetrics& metrics) {
  nlohmann::ordered_json line = {{"step", metrics.step}, {"tokens", metrics.tokens}};
  const auto add = [&](const char* name, const std::optional<double>& value) {
    if (value) line[name] = *value;
  };
  add("loss", metrics.loss);
  add("learning_rate", metrics.learning_rate);
  add("gradient_norm", metrics.gradient_norm);
  add("tokens_per_second", metrics.tokens_per_second);
  add("validation_loss", metrics.validation_loss);
  add("validation_loss_per_byte", metrics.validation_loss_per_byte);
  const std::string text = line.dump() + '\n';
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(fd_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("cannot write {}: {}", path_.string(), std::strerror(errno));
    done += static_cast<size_t>(written);
  }
}

}  // namespace gladius
