// From the third step on, training takes no memory: neither from the pool's system nor from the C++ heap.
#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/batch_support.h"
#include "tests/engine_support.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace {
std::atomic<size_t> heap_allocations = 0;

void* counted(size_t bytes, size_t alignment) {
  heap_allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = alignment <= alignof(std::max_align_t)
                     ? std::malloc(bytes ? bytes : 1)
                     : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}
}  // namespace

// Every form of new and delete that is not replaced here calls one of these.
void* operator new(size_t bytes) { return counted(bytes, 1); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

using namespace gladius;
using namespace gladius::test;

TEST_CASE("the counter counts") {
  const size_t before = heap_allocations;
  ::operator delete(::operator new(1));  // a new-expression without use would be left out by the compiler
  CHECK(heap_allocations.load() == before + 1);
  const std::vector<int> vector(1000, static_cast<int>(before));
  CHECK(heap_allocations.load() == before + 2);
  CHECK(vector.back() == static_cast<int>(before));
}

TEST_CASE("training steps from the third on allocate nothing") {
  const auto train = [](Backend& backend) {
    CAPTURE(backend.threads());
    for (const bool tied : {false, true}) {
      const auto pool = BufferPool::make();
      const Config config = small_config(tied);
      Model model = random_model(config, 1, *pool);
      Random random(2);
      const std::vector<Batch> batches = random_batches(random, 2, 3, 13, config.vocab);
      Context ctx{backend, *pool};
      AdamW optimiser({}, model, ctx);
      GradientStep gradients(backend, *pool, model,
                             {.B = 3, .T = 13, .recompute = {.elementwise = true, .layers = 1}});
      double loss = 0;
      for (int step = 1; step <= 6; ++step) {
        const size_t heap = heap_allocations, system = pool->allocations();
        loss = gradients.run(batches);
        optimiser.step(ctx, model, 1e-3, optimiser.gradient_norm(ctx, model));
        const size_t heap_taken = heap_allocations - heap, system_taken = pool->allocations() - system;
        CAPTURE(step);
        if (step == 1) CHECK(system_taken > 20);  // the first step fills the pool
        if (step >= 3) {
          CHECK(heap_taken == 0);
          CHECK(system_taken == 0);
        }
      }
      CHECK(std::isfinite(loss));
    }
  };
  for (const int threads : {1, 2}) for_each_isa(train, threads);
}
