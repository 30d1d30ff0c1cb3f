#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <map>

#include "cli/arguments.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/terminal.h"
#include "kernels/peak.h"
#include "train/plan.h"

namespace gladius::cli {
namespace {

struct Options {
  std::string model, output = "md";
  std::vector<int64_t> prompts = {512}, generated = {128}, depths = {0};
  std::vector<int64_t> both;  // prompt, generated, prompt, generated, …
  std::vector<int64_t> sequences = {1};
  std::vector<int> threads = {0};
  bool prompts_given = false, generated_given = false;
  bool measure = true;  // the roofs
  BenchOptions bench;
  ComputeOptions compute;
};

// As llama-bench orders them.
std::vector<InferenceTest> tests_of(const Options& o) {
  if (o.both.size() % 2 != 0)
    wrong_argument("--pg", "needs a prompt's tokens and those to generate behind it, as in 512,128");
  for (const int64_t n : o.sequences)
    if (n == 0) wrong_argument("--sequences", "needs numbers above 0");
  std::vector<InferenceTest> tests;
  const auto add = [&](int64_t prompt, int64_t generated, int64_t depth) {
    if (prompt + generated == 0) return;
    for (const int64_t n : o.sequences) tests.push_back({prompt, generated, depth, n});
  };
  for (const int64_t depth : o.depths) {
    for (const int64_t n : o.prompts) add(n, 0, depth);
    for (const int64_t n : o.generated) add(0, n, depth);
    for (size_t i = 0; i < o.both.size(); i += 2) add(o.both[i], o.both[i + 1], depth);
  }
  if (tests.empty()) wrong_argument("--n-prompt", "there is nothing to measure; give -p, -n or --pg above 0");
  return tests;
}

void check_context(const std::vector<InferenceTest>& tests, const Config& config) {
  for (const InferenceTest& test : tests) {
    if (test.tokens() <= config.context) continue;
    const char* option = test.prompt == 0 ? "--n-gen" : test.generated == 0 ? "--n-prompt" : "--pg";
    const std::string also = test.depth > 0 ? fmt::format(" with the {} tokens of -d", test.depth) : "";
    wrong_argument(option, fmt::format("{} tokens{} are more than the model's context of {}; take fewer",
                                       test.counted(), also, config.context));
  }
}

// The file type where a GGUF file names it, else the type that most weights have.
std::string weights_type(const std::string& path, const Model& model) {
  if (path.ends_with(".gguf")) {
    const GgufMetadata metadata = GgufFile::open(path).metadata();
    if (const auto* id = metadata.find<uint32_t>("general.file_type", path))
      if (const auto type = file_type_from_id(*id)) return std::string(file_type_name(*type));
  }
  std::map<DType, int64_t> elements;
  for (const Tensor& weight : model.weights) elements[weight.dtype()] += weight.shape().elements();
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return std::string(dtype_info(most->first).name);
}

BenchedModel describe(const std::string& path, const Model& model, double load_seconds) {
  BenchedModel described{.path = path,
                         .type = "llama " + weights_type(path, model),
                         .parameters = model.config.parameters(),
                         .load_seconds = load_seconds};
  for (const Tensor& weight : model.weights) described.bytes += weight.bytes();
  return described;
}

int64_t work_of(const Options& o) {
  int64_t work = 0;
  for (const InferenceTest& test : tests_of(o)) work += test_work(test, o.bench);
  return work * static_cast<int64_t>(o.threads.size());
}

// Measures one test after the other and reports them; what is done is reported when Ctrl-C ends it.
class Bench {
 public:
  Bench(const Options& o, const Model& model, BufferPool& pool, BenchReport& report)
      : o_(o), model_(model), pool_(pool), report_(report) {}

  void run(Backend& backend, const std::vector<InferenceTest>& tests) {
    for (const InferenceTest& test : tests) {
      if (!interrupted().load()) run(backend, test);
    }
  }

 private:
  void run(Backend& backend, const InferenceTest& test) {
    Context ctx{backend, pool_};
    const std::time_t now = std::time(nullptr);
    BenchOptions options = o_.bench;
    options.cancel = &interrupted();
    const std::string label =
        fmt::format("{}, {} thread{}", test_name(test), backend.threads(), backend.threads() == 1 ? "" : "s");
    options.progress = [&](int64_t done) {
      progress_.update(static_cast<uint64_t>(done_ + done), static_cast<uint64_t>(total_work_), label);
    };
    std::vector<double> roofs;
    if (o_.measure && (test.prompt == 0 || test.generated == 0)) {
      options.between = [&] {
        const double roof = test.generated == 0 ? measure_peak_flops(backend.threads(), Precision::fp32)
                                                : memory_bandwidth(backend.threads());
        roofs.push_back(roof);
      };
    }
    const InferenceTimes times = time_inference(ctx, model_, test, options);
    done_ += test_work(test, options);
    progress_.done();
    // The pool still holds what the test needed. The process's own peak would include the memory whose
    // bandwidth was measured.
    peak_resident_ = std::max<uint64_t>(peak_resident_, resident_bytes());
    pool_.release_free();
    if (times.nanoseconds.empty()) return;
    report_.add({.test = test,
                 .backend = backend.name(),
                 .start = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now)),
                 .kv_type = o_.bench.kv_type,
                 .threads = backend.threads(),
                 .nanoseconds = times.nanoseconds,
                 .flops = test_flops(model_.config, test),
                 .bytes = generation_bytes(model_, test, times.cache_bytes_per_token),
                 .roofs = std::move(roofs),
                 .peak_resident = peak_resident_});
  }

  const Options& o_;
  const Model& model_;
  BufferPool& pool_;
  BenchReport& report_;
  Progress progress_{"measuring"};
  const int64_t total_work_ = work_of(o_);
  int64_t done_ = 0;
  uint64_t peak_resident_ = peak_resident_bytes();  // of reading the model
};

void run(Options o) {
  tests_of(o);  // refuses what is wrong before anything is read
  const Processors found = processors();
  const auto backend_with = [&](int threads) {
    ComputeOptions compute = o.compute;
    compute.threads = threads;
    return make_backend(compute, found);
  };
  auto backend = backend_with(o.threads.front());
  const auto pool = BufferPool::make();
  const auto start = std::chrono::steady_clock::now();
  const SourceModel loaded = load_model(o.model, *backend, *pool, weight_use(o.compute));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!o.prompts_given) o.prompts = {std::min(o.prompts[0], loaded.model.config.context)};
  if (!o.generated_given) o.generated = {std::min(o.generated[0], loaded.model.config.context)};
  const std::vector<InferenceTest> tests = tests_of(o);
  check_context(tests, loaded.model.config);

  catch_interrupts();
  const auto report = make_bench_report(o.output, describe(o.model, loaded.model, seconds));
  Bench bench(o, loaded.model, *pool, *report);
  for (size_t i = 0; i < o.threads.size() && !interrupted().load(); ++i) {
    if (i > 0) backend = backend_with(o.threads[i]);
    bench.run(*backend, tests);
  }
  report->finish();
  stop_if_interrupted();
}

template <class T>
CLI::Option* add_list(CLI::App& command, const std::string& names, std::vector<T>& values,
                      const std::string& what, int64_t most) {
  return command.add_option(names, values, what)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->take_all()
      ->check(whole(0, most))
      ->capture_default_str();
}

}  // namespace

void add_bench(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "bench", "How fast a model reads prompts and generates, in the terms of llama.cpp's llama-bench");
  command->add_option("model", o->model, "GGUF file, Hugging Face folder, checkpoint or training folder")
      ->required();
  add_list(*command, "-p,--n-prompt", o->prompts, "Tokens of a prompt; several as in 128,512; 0: none",
           kMostContext);
  add_list(*command, "-n,--n-gen", o->generated, "Tokens to generate; several as in 32,128; 0: none",
           kMostContext);
  add_list(*command, "--pg", o->both, "Tokens of a prompt, and to generate behind it, timed together",
           kMostContext);
  add_list(*command, "-d,--n-depth", o->depths, "Tokens that are read before and do not count", kMostContext);
  add_list(*command, "-s,--sequences", o->sequences, "Sequences at once; several as in 1,8", kMostSequences);
  add_list(*command, "-t,--threads", o->threads,
           "Threads; several as in 1,2; 0: one for each core that this process may use", kMostThreads);
  command->add_option("-r,--repetitions", o->bench.repetitions, "How often each test is timed")
      ->check(whole(1, 1 << 20))
      ->capture_default_str();
  command->add_option("-o,--output", o->output, "md, csv, or json, which also has each repetition")
      ->check(CLI::IsMember({"md", "csv", "json"}))
      ->capture_default_str();
  command->add_flag("--warmup,!--no-warmup", o->bench.warmup,
                    "Run each test once before it is timed (default)");
  command->add_flag("!--no-measure", o->measure,
                    "Do not measure the CPU's peak and the memory's bandwidth to compare with");
  add_kv_type_option(*command, o->bench.kv_type);
  add_device_options(*command, o->compute);
  add_repack_option(*command, o->compute);
  command->footer("Example:\n  gladius bench model-Q4_K_M.gguf -p 512 -n 128 -t 1,2 -o json");
  command->callback([o, command] {
    o->prompts_given = command->count("--n-prompt") > 0;
    o->generated_given = command->count("--n-gen") > 0;
    run(*o);
  });
}

}  // namespace gladius::cli
