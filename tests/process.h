// Runs the gladius command as people do: as a process of its own.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/train_support.h"

namespace gladius::test {

struct Outcome {
  int code = -1;    // exit code; -1 when a signal ended it
  int signal = 0;
  std::string out, err;
};

// Starts GLADIUS_BINARY with these arguments. kill_after: SIGKILL (or `signal`) after so long, unless it ended before.
inline Outcome run(const std::vector<std::string>& arguments, std::optional<std::chrono::milliseconds> kill_after = {},
                   int signal = SIGKILL) {
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
    ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  if (kill_after) {
    const auto end = std::chrono::steady_clock::now() + *kill_after;
    while (::waitpid(child, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() >= end) {
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
