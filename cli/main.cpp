// The `gladius` command: arguments in, calls out.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "export/loaded_model.h"
#include "kernels/parallel.h"

namespace {

constexpr int kFailed = 1, kWrongArguments = 2;

// The command that the arguments chose, for error messages: "gladius tokenizer train".
std::string chosen_command(const CLI::App& app) {
  std::string name = app.get_name();
  for (const CLI::App* command : app.get_subcommands()) name += " " + chosen_command(*command);
  return name;
}

// What stands where a command's subcommand should; empty when the arguments have another fault.
std::string unknown_command(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) return unknown_command(*command);
  const bool needs_one = !app.get_subcommands({}).empty();
  const std::vector<std::string> rest = app.remaining();
  return needs_one && !rest.empty() ? rest.front() : std::string();
}

void add_commands(CLI::App& app) {
  using namespace gladius::cli;
  add_tokenizer(app);
  add_train(app);
  add_generate(app);
  add_chat(app);
  add_export(app);
  add_imatrix(app);
  add_quantize(app);
  add_inspect(app);
  add_plan(app);
  add_doctor(app);
  add_evaluate(app);
  add_perplexity(app);
  add_validate(app);
  add_logits(app);
  add_bench(app);
}

int run(int argc, char** argv) {
  CLI::App app("Trains, quantises, exports and runs Llama-architecture language models on CPUs.", "gladius");
  app.set_version_flag("--version", fmt::format("gladius {}", gladius::version()));
  app.require_subcommand(1);
  app.footer("Start with `gladius doctor`, or run scripts/demo. Every command has --help with an example.");
  add_commands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help, --version
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    const std::string command = chosen_command(app);
    if (const std::string unknown = unknown_command(app); !unknown.empty()) {
      gladius::cli::note("{}: there is no command {}; see {} --help\n", command, unknown, command);
      return kWrongArguments;
    }
    gladius::cli::note("{}: {}; see {} --help\n", command, error.what(), command);
    return kWrongArguments;
  }
  return 0;
}

// By default OpenMP's threads spin for milliseconds while they wait. Beside other work on the same processors
// they then wait for threads that their spinning keeps from running, and everything takes many times as long;
// on a quiet machine some tens of microseconds of spinning are as good. The runtimes (GNU, LLVM) read their
// settings before main(): so the program replaces itself by itself, once, with settings that let threads
// sleep soon.
void let_waiting_threads_sleep(char** argv) {
  for (const char* setting : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}) {
    if (std::getenv(setting)) return;
  }
  ::setenv("GOMP_SPINCOUNT", "10000", 1);
  ::setenv("KMP_BLOCKTIME", "0", 1);
  char path[4096];  // the program's own name, by which the system lists it
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return;
  path[length] = '\0';
  gladius::unbind_thread();
  ::execv(path, argv);  // where that fails, it goes on with the default
}

// What was printed must have arrived: a full disk is an error, too.
int finish(int code) {
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return code;
  gladius::cli::note("gladius: cannot write to standard output: {}\n", std::strerror(errno));
  return code == 0 ? kFailed : code;
}

}  // namespace

int main(int argc, char** argv) {
  let_waiting_threads_sleep(argv);
  try {
    return finish(run(argc, argv));
  } catch (const gladius::cli::Exit& exit) {
    return finish(exit.code);
  } catch (const std::exception& error) {
    gladius::cli::note("gladius: {}\n", error.what());
    return kFailed;
  }
}
