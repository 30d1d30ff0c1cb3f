// Shapes, tensors, memory, and the errors of every operation.
#include <sys/stat.h>

#include <functional>
#include <set>
#include <thread>

#include "engine/mapped_file.h"
#include "engine/ops.h"
#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

TEST_CASE("a shape counts its elements and rows, and prints itself") {
  const Shape shape{2, 3, 4};
  CHECK(shape.rank() == 3);
  CHECK(shape.elements() == 24);
  CHECK(shape.rows() == 6);
  CHECK(shape[0] == 2);
  CHECK(shape[-1] == 4);
  CHECK(shape.text() == "[2, 3, 4]");
  CHECK(shape == Shape{2, 3, 4});
  CHECK(shape != Shape{2, 12});
  CHECK(shape != Shape{2, 3, 4, 1});
  CHECK(Shape().elements() == 0);
  CHECK(Shape().rows() == 0);
  CHECK(Shape{5, 0}.elements() == 0);
  CHECK(Shape{5, 0}.rows() == 0);
  CHECK(Shape{7}.rows() == 1);
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1}), Error);
  for (const int i : {3, 4, 100, -4, -100}) CHECK(contains(message_of([&] { shape[i]; }), "[2, 3, 4]"));
  for (const int i : {0, -1}) CHECK(contains(message_of([&] { Tensor().shape()[i]; }), "missing"));
  CHECK(contains(message_of([] { Shape{2, -1}; }), "-1"));
}

TEST_CASE("a tensor's bytes are whole blocks of its type") {
  CHECK(tensor_bytes(DType::F32, {3, 5}) == 60);
  CHECK(tensor_bytes(DType::BF16, {3, 5}) == 30);
  CHECK(tensor_bytes(DType::Q4_K, {2, 512}) == 2 * 2 * 144);
  CHECK(tensor_bytes(DType::Q8_0, {4, 64}) == 4 * 2 * 34);
  CHECK(tensor_bytes(DType::F32, {0, 5}) == 0);
  const std::string message = message_of([] { tensor_bytes(DType::Q4_K, {2, 300}); });
  for (const char* part : {"[2, 300]", "Q4_K", "256"}) CHECK(contains(message, part));
}

TEST_CASE("views share memory, with a shape and rows of their own") {
  const auto pool = BufferPool::make();
  const Tensor x = tensor_of(*pool, {4, 3}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const Tensor flat = x.reshaped({12}), middle = x.slice(1, 3);
  CHECK(flat.f32() == x.f32());
  CHECK(middle.shape() == Shape{2, 3});
  CHECK(middle.f32()[0] == 3);
  middle.f32()[5] = 80;
  CHECK(x.f32()[8] == 80);
  CHECK(middle.slice(1, 2).f32()[0] == 6);  // of a slice
  CHECK(x.reshaped({2, 2, 3}).slice(1, 2).f32()[0] == 6);
  CHECK(x.slice(2, 2).shape().elements() == 0);

  const Tensor blocks(*pool, DType::Q8_0, {4, 64});
  CHECK(blocks.slice(2, 4).data() - blocks.data() == 2 * 2 * 34);

  for (const auto& f :
       std::vector<std::function<void()>>{[&] { x.reshaped({5, 2}); }, [&] { x.slice(-1, 2); },
                                          [&] { x.slice(3, 2); }, [&] { x.slice(0, 5); }}) {
    CHECK(contains(message_of(f), "[4, 3]"));
  }
}

TEST_CASE("an empty tensor can be sliced") {
  const auto pool = BufferPool::make();
  CHECK(Tensor(*pool, DType::F32, {0, 3}).slice(0, 0).shape().elements() == 0);
}

TEST_CASE("a view keeps the owner of its memory alive") {
  const auto values = std::make_shared<std::vector<float>>(6, 2.5f);
  {
    const Tensor x = Tensor::view(DType::F32, {2, 3}, values->data(), values);
    const Tensor row = x.slice(1, 2);
    CHECK(values.use_count() == 2);  // one for the buffer that x and row share
    CHECK(row.f32()[2] == 2.5f);
  }
  CHECK(values.use_count() == 1);
}

TEST_CASE("values are read as the type that they have") {
  const auto pool = BufferPool::make();
  const Tensor integers(*pool, DType::I32, {3});
  const std::string message = message_of([&] { integers.f32(); });
  CHECK(contains(message, "I32"));
  CHECK(contains(message, "F32"));
  CHECK(contains(message_of([] { Tensor().f32(); }), "nothing"));
  CHECK(contains(message_of([] { Tensor().data(); }), "missing"));
  Tensor trainable = integers;
  CHECK(contains(message_of([&] { trainable.set_requires_grad(*pool); }), "I32"));
  CHECK(contains(message_of([&] { integers.grad_target(*pool); }), "no gradient"));
}

TEST_CASE("the pool reuses buffers of a size and aligns them to 64 bytes") {
  const auto pool = BufferPool::make();
  const std::byte* first = nullptr;
  {
    const Tensor x(*pool, DType::F32, {100});
    first = x.data();
    CHECK(pool->bytes_in_use() == 400);
    CHECK(pool->allocations() == 1);
  }
  CHECK(pool->bytes_in_use() == 0);
  CHECK(pool->bytes_held() == 400);
  const Tensor again(*pool, DType::F32, {10, 10}), other(*pool, DType::F32, {100});
  CHECK(again.data() == first);
  CHECK(other.data() != first);
  CHECK(pool->allocations() == 2);
  for (const int64_t n : {1, 15, 17, 1000, 70000, 2000000}) {  // small ones, mapped ones, huge pages
    CHECK(reinterpret_cast<uintptr_t>(Tensor(*pool, DType::F32, {n}).data()) % 64 == 0);
  }
  pool->release_free();
  CHECK(pool->bytes_held() == 800);
  CHECK(Tensor(*pool, DType::F32, {0}).defined());
}

TEST_CASE("tensors outlive their pool's handle") {
  auto pool = BufferPool::make();
  Tensor x(*pool, DType::F32, {1000});
  x.set_requires_grad(*pool);
  *x.grad_target(*pool).data = 1;
  pool.reset();
  x.f32()[999] = 3;
  CHECK(x.f32()[999] == 3);
  CHECK(x.grad()[0] == 1);
}

TEST_CASE("live buffers never overlap, whatever order they come and go in, from several threads") {
  const auto pool = BufferPool::make();
  const auto work = [&](uint64_t seed) {
    Random random(seed);
    std::vector<Tensor> live;
    for (int i = 0; i < 2000; ++i) {
      if (live.size() < 20 && random.below(2) == 0) {
        const Tensor x(*pool, DType::I32, {1 + random.below(8)});
        std::fill_n(x.i32(), x.shape().elements(), static_cast<int32_t>(seed * 100000 + i));
        live.push_back(x);
      } else if (!live.empty()) {
        const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(live.size())));
        const Tensor x = live[at];
        live.erase(live.begin() + static_cast<int64_t>(at));
        if (std::set<int32_t>(x.i32(), x.i32() + x.shape().elements()).size() != 1) return false;
      }
    }
    return true;
  };
  std::array<bool, 4> fine{};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < fine.size(); ++t) threads.emplace_back([&, t] { fine[t] = work(t); });
  for (std::thread& thread : threads) thread.join();
  CHECK(fine == std::array{true, true, true, true});
  CHECK(pool->bytes_in_use() == 0);
}

TEST_CASE("memory that the system does not have is an error that names the size") {
  const auto pool = BufferPool::make();
  const std::string message = message_of([&] { Tensor(*pool, DType::F32, {int64_t{1} << 55}); });
  CHECK(contains(message, "out of memory"));
  CHECK(contains(message, "144115188075855872 bytes"));
  CHECK(pool->bytes_in_use() == 0);
}

TEST_CASE("wrong operands are errors that name the operation and the shapes") {
  const auto pool = BufferPool::make();
  const auto backend = make_null_backend();
  Context ctx{*backend, *pool};
  const auto zeros = [&](Shape shape) {
    Tensor x(*pool, DType::F32, shape);
    std::fill_n(x.f32(), shape.elements(), 0.0f);
    return x;
  };
  const auto ints = [&](std::vector<int32_t> values) { return integers_of(*pool, values); };
  const RopeTable table{zeros({8, 2}), zeros({8, 2})};
  const auto weight = [&](DType dtype, Shape shape) { return Tensor(*pool, dtype, shape); };
  const Shape blocks{2, 2, kv_block_tokens, 3};
  LayerKvCache cache{zeros(blocks), zeros(blocks)};
  const LayerKvCache narrow{zeros({2, 2, kv_block_tokens, 2}), zeros({2, 2, kv_block_tokens, 2})};
  const LayerKvCache mixed{zeros(blocks), weight(DType::F16, blocks)}, none;
  const LayerKvCache flat{zeros({4, 6}), zeros({4, 6})},
      integers{weight(DType::I32, blocks), weight(DType::I32, blocks)};
  const std::array<int32_t, 3> blocks_of = {1, 0, 2}, negative = {-1, 0, 0};
  const auto attend = [&](LayerKvCache past, std::vector<SequenceRows> sequences) {
    cached_attention(ctx, zeros({3, 12}), zeros({3, 6}), zeros({3, 6}), {1, 4, 2, 3}, past, sequences);
  };
  const std::vector<SequenceRows> three = {{0, 3, 5, blocks_of.data()}};

  struct Case {
    std::function<void()> run;
    std::vector<std::string> parts;  // of the message
  };
  const std::vector<Case> cases = {
      {[&] { embedding(ctx, zeros({5, 2}), ints({0, 5})); },
       {"embedding", "token 5", "position 1", "vocabulary of 5"}},
      {[&] { embedding(ctx, zeros({5, 2}), ints({-1})); }, {"embedding", "token -1"}},
      {[&] { embedding(ctx, zeros({5}), ints({0})); }, {"embedding", "[5]"}},
      {[&] { embedding(ctx, zeros({5, 2, 2}), ints({0})); }, {"embedding", "[5, 2, 2]"}},
      {[&] { embedding(ctx, weight(DType::I32, {5, 2}), ints({0})); }, {"embedding", "I32"}},
      {[&] { rms_norm(ctx, zeros({2, 3}), zeros({4}), 1e-5f); }, {"rms_norm", "[2, 3]", "[4]"}},
      {[&] { rms_norm(ctx, zeros({2, 3}), zeros({1, 3}), 1e-5f); }, {"rms_norm", "[1, 3]"}},
      {[&] { linear(ctx, zeros({2, 3}), zeros({5, 4})); }, {"linear", "[2, 3]", "[5, 4]"}},
      {[&] { linear(ctx, zeros({2, 3}), zeros({5, 3}), zeros({2, 4})); }, {"linear", "[2, 4]", "[2, 5]"}},
      {[&] { linear(ctx, zeros({2, 32}), weight(DType::I32, {5, 32})); }, {"linear", "[5, 32]", "I32"}},
      {[&] { linear(ctx, zeros({2, 32}), weight(DType::Q8_1, {5, 32})); }, {"linear", "Q8_1"}},
      {[&] { linear(ctx, zeros({2, 256}), weight(DType::Q8_K, {5, 256})); }, {"linear", "Q8_K"}},
      {[&] { take_rows(ctx, zeros({2, 3}), std::array<int64_t, 1>{2}); }, {"take_rows", "[2, 3]", "row 2"}},
      {[&] { take_rows(ctx, zeros({2, 3}), std::array<int64_t, 1>{-1}); }, {"take_rows", "row -1"}},
      {[&] {
         const int64_t K = max_weight_columns + 1;  // a row that a backend has no room to convert
         linear(ctx, zeros({1, K}), weight(DType::F16, {1, K}));
       },
       {"linear", "F16", "[1, 1048577]"}},
      {[&] { rope(ctx, zeros({2, 12}), ints({0, 0}), table, 0); }, {"rope", "0 heads"}},
      {[&] { rope(ctx, zeros({2, 12}), ints({0, 0}), table, -3); }, {"rope", "-3 heads"}},
      {[&] { rope(ctx, zeros({2, 12}), ints({0}), table, 3); }, {"rope", "[2, 12]", "[1]"}},
      {[&] { rope(ctx, zeros({1, 12}), ints({0}), table, 2); }, {"rope", "2 heads"}},
      {[&] { rope(ctx, zeros({1, 12}), ints({8}), table, 3); }, {"rope", "position 8", "context of 8"}},
      {[&] { rope(ctx, zeros({1, 12}), ints({-1}), table, 3); }, {"rope", "position -1"}},
      {[&] { attention(ctx, zeros({3, 12}), zeros({3, 6}), zeros({3, 6}), {2, 4, 2, 3}); },
       {"attention", "[3, 12]"}},
      {[&] { attention(ctx, zeros({4, 12}), zeros({4, 6}), zeros({4, 3}), {2, 4, 2, 3}); },
       {"attention", "[4, 3]"}},
      {[&] { attention(ctx, zeros({4, 12}), zeros({4, 9}), zeros({4, 9}), {2, 4, 3, 3}); },
       {"attention", "[4, 9]"}},
      {[&] { attention(ctx, zeros({2, 12}), zeros({2, 6}), zeros({2, 6}), {0, 4, 2, 3}); },
       {"attention", "0 sequences"}},
      {[&] { attention(ctx, zeros({2, 12}), zeros({2, 0}), zeros({2, 0}), {1, 4, 0, 3}); },
       {"attention", "0 key/value heads"}},
      {[&] { attend(narrow, three); }, {"cached_attention", "[2, 2, 144, 2]", "2 key/value heads of 3"}},
      {[&] { attend(mixed, three); }, {"cached_attention", "F16 [2, 2, 144, 3]"}},
      {[&] { attend(flat, three); }, {"cached_attention", "[4, 6]"}},
      {[&] { attend(none, three); }, {"cached_attention", "[]"}},
      {[&] { attend(integers, three); }, {"cached_attention", "I32"}},
      {[&] { attend(cache, {{0, 2, 5, blocks_of.data()}}); }, {"cached_attention", "2 rows", "[3, 12]"}},
      {[&] { attend(cache, {{0, 3, 2, blocks_of.data()}}); }, {"cached_attention", "3 rows", "2 tokens"}},
      {[&] { attend(cache, {{1, 3, 5, blocks_of.data()}}); }, {"cached_attention", "from 1 on"}},
      {[&] { attend(cache, {{0, 3, 400, blocks_of.data()}}); },
       {"cached_attention", "block 2", "cache of 2"}},
      {[&] { attend(cache, {{0, 3, 5, negative.data()}}); }, {"cached_attention", "block -1"}},
      {[&] {
         cached_attention(ctx, zeros({1, 12}), zeros({1, 6}), zeros({1, 9}), {1, 4, 2, 3}, cache, three);
       },
       {"cached_attention", "[1, 9]"}},
      {[&] { swiglu(ctx, zeros({2, 3}), zeros({3, 2})); }, {"swiglu", "[2, 3]", "[3, 2]"}},
      {[&] { add(ctx, zeros({2, 3}), zeros({6})); }, {"add", "[2, 3]", "[6]"}},
      {[&] { cross_entropy(ctx, zeros({2, 3}), zeros({5, 4}), ints({0, 0}), 1); },
       {"cross_entropy", "[2, 3]", "[5, 4]"}},
      {[&] { cross_entropy(ctx, zeros({2, 3}), zeros({5, 3}), ints({0}), 1); }, {"cross_entropy", "[1]"}},
      {[&] { cross_entropy(ctx, zeros({2, 3}), zeros({5, 3}), ints({0, 5}), 1); },
       {"cross_entropy", "target 5", "row 1", "vocabulary of 5"}},
      {[&] { cross_entropy(ctx, zeros({2, 3}), zeros({5, 3}), ints({0, 1}), 1, zeros({1})); },
       {"cross_entropy", "[1]", "[2]"}},
      {[&] { cross_entropy(ctx, zeros({1, 3}), zeros({0, 3}), ints({-1}), 1); }, {"cross_entropy", "[0, 3]"}},
  };
  for (const Case& c : cases) {
    const std::string message = message_of(c.run);
    CAPTURE(message);
    for (const std::string& part : c.parts) {
      CAPTURE(part);
      CHECK(contains(message, part));
    }
  }
}

TEST_CASE("the loss of no rows is 0") {
  const auto pool = BufferPool::make();
  const auto backend = make_reference_backend();
  Context ctx{*backend, *pool};
  const Tensor h(*pool, DType::F32, {0, 3}), weight = tensor_of(*pool, {1, 3}, {1, 2, 3});
  CHECK(cross_entropy(ctx, h, weight, Tensor(*pool, DType::I32, {0}), 1).f32()[0] == 0);
}

TEST_CASE("a file is mapped whole, and what cannot be mapped is named") {
  const TemporaryFolder folder;
  write(folder / "text", "gladius");
  const auto file = MappedFile::open(folder / "text");
  CHECK(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()) == "gladius");
  write(folder / "empty", "");
  CHECK(MappedFile::open(folder / "empty")->bytes().empty());
  CHECK(contains(message_of([&] { MappedFile::open(folder / "absent"); }), (folder / "absent").string()));
  CHECK(contains(message_of([&] { MappedFile::open(folder.path()); }), "not a regular file"));
  const std::string pipe = (folder / "pipe").string();
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);  // nobody writes to it
  CHECK(contains(message_of([&] { MappedFile::open(pipe); }), "not a regular file"));
}
