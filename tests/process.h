// Runs the gladius command as people do: as a process of its own.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/train_support.h"

namespace gladius::test {

struct Outcome {
  int code = -1;  // exit code; -1 when a signal ended it
  int signal = 0;
  std::string out, err;
};

// Whether a moment has come, given the file that holds the standard output so far.
using Moment = std::function<bool(const fs::path& out)>;

inline Moment after(std::chrono::milliseconds time) {
  return [end = std::chrono::steady_clock::now() + time](const fs::path&) {
    return std::chrono::steady_clock::now() >= end;
  };
}

inline Moment once_exists(fs::path path) {
  return [path = std::move(path)](const fs::path&) { return fs::exists(path); };
}

// So long after `happened(path)` first holds.
inline Moment after_first(std::function<bool(const fs::path&)> happened, fs::path path,
                          std::chrono::milliseconds time) {
  std::optional<Moment> end;
  return [=](const fs::path& out) mutable {
    if (!end && happened(path)) end = after(time);
    return end && (*end)(out);
  };
}

inline bool once_printed(const fs::path& out) { return fs::exists(out) && fs::file_size(out) > 0; }

inline std::vector<std::string> with(std::vector<std::string> arguments,
                                     const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// `gladius train` on a folder's text.txt, config.json and tokenizer.gguf, into the folder's `out`.
inline std::vector<std::string> training_arguments(const fs::path& folder, const std::string& out) {
  const auto path = [&](const std::string& name) { return (folder / name).string(); };
  return {"train",       path("text.txt"),       "--model", path("config.json"),
          "--tokenizer", path("tokenizer.gguf"), "--out",   path(out)};
}

// Starts GLADIUS_BINARY with these arguments and waits for its end. It gets `signal` when the moment `when`
// comes before. It reads `in`.
inline Outcome run(const std::vector<std::string>& arguments, const Moment& when = {}, int signal = SIGKILL,
                   const fs::path& in = "/dev/null") {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "out", err = folder.path() / "err";
  std::vector<char*> argv;
  std::string binary = GLADIUS_BINARY;
  std::vector<std::string> copies = arguments;
  argv.push_back(binary.data());
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(in.c_str(), O_RDONLY), STDIN_FILENO);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  if (when) {
    while (::waitpid(child, &status, WNOHANG) == 0) {
      if (when(out)) {
        ::kill(child, signal);
        ::waitpid(child, &status, 0);
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  } else {
    ::waitpid(child, &status, 0);
  }
  Outcome outcome;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  outcome.out = read(out);
  outcome.err = read(err);
  return outcome;
}

}  // namespace gladius::test
