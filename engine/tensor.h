// Tensor: a typed, shaped, row-major view of reference-counted memory, with an optional gradient.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "engine/error.h"
#include "engine/memory.h"
#include "kernels/backend.h"

namespace gladius {

// Up to four dimensions, outermost first. A shape without dimensions is empty and stands for "no tensor".
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);  // throws Error beyond 4 dimensions or for a negative one
  int rank() const { return rank_; }
  int64_t operator[](int i) const {  // -1: the last; throws Error beyond rank()
    const int at = i < 0 ? i + rank_ : i;
    if (at < 0 || at >= rank_) no_dimension(i);
    return dims_[static_cast<size_t>(at)];
  }
  int64_t elements() const;  // product of the dimensions; 0 for an empty shape
  int64_t rows() const { return elements() == 0 ? 0 : elements() / (*this)[-1]; }  // of the view [rows, last]
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "[2, 3]"

 private:
  [[noreturn]] void no_dimension(int i) const;

  std::array<int64_t, 4> dims_{};
  int rank_ = 0;
};

// Bytes of a contiguous tensor; throws Error when the last dimension is not a whole number of blocks.
size_t tensor_bytes(DType dtype, const Shape& shape);

class Tensor {
 public:
  Tensor() = default;
  // A new tensor with undefined contents.
  Tensor(BufferPool& pool, DType dtype, Shape shape);
  // A tensor over memory that `keeper` keeps alive (a mapped file); its contents must not be written.
  static Tensor view(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> keeper);

  bool defined() const { return static_cast<bool>(buffer_); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  size_t bytes() const { return panels_ ? buffer_->bytes : tensor_bytes(dtype_, shape_); }

  std::byte* data() const {  // throws Error for no tensor, and for one in panels
    if (panels_) no_rows();
    return memory();
  }
  float* f32() const { return typed<float>(DType::F32); }
  int32_t* i32() const { return typed<int32_t>(DType::I32); }

  // A copy of this weight in the form that the backend multiplies by fastest (Backend::make_panels), which
  // only linear() reads. It lies in memory that `keeper` keeps alive, 64-byte aligned, of panels_bytes: a
  // multiple of 64, 0 where there is no such form.
  bool panels() const { return panels_; }
  size_t panels_bytes(const Backend& backend) const;
  Tensor in_panels(Backend& backend, std::byte* memory, std::shared_ptr<const void> keeper) const;
  // Of a weight matrix, for Backend::matmul_weight.
  WeightView weight_view() const { return {dtype_, memory(), panels_}; }

  // The same memory with another shape of as many elements.
  Tensor reshaped(Shape shape) const;
  // Rows [begin, end) of the first dimension, sharing memory; without gradient.
  Tensor slice(int64_t begin, int64_t end) const;

  // Gives the memory back to the pool while every tensor that shares it stays; their data() throws Error
  // until it is restored: from a tensor of as many bytes that has the values again, and is left without data.
  void drop_data(BufferPool& pool) const { pool.take_memory(*buffer_.get()); }
  void restore_data(BufferPool& pool, const Tensor& from) const {
    pool.restore_memory(*buffer_.get(), *from.buffer_.get());
  }

  // ---- gradient ----

  bool requires_grad() const { return static_cast<bool>(grad_); }
  void set_requires_grad(BufferPool& pool);  // F32 tensors only
  // Where a backward pass writes its contribution: memory of the tensor's shape, and whether to add to what
  // is there.
  GradTarget grad_target(BufferPool& pool) const;
  // The same for an operation that is its input's only user: memory to overwrite. Throws Error if another
  // contributed.
  float* sole_grad_target(BufferPool& pool) const;
  // The finished gradient, [shape]; throws Error when nothing was contributed.
  float* grad() const;
  bool has_grad() const { return grad_ && grad_->written; }
  // Makes `from`'s finished gradient this tensor's, without a copy when nothing was contributed yet.
  // Only for the last use of `from`'s gradient. Returns false when the caller has to add it itself.
  bool adopt_grad(const Tensor& from) const;
  void reset_grad() const;  // the next contribution overwrites; memory is kept

 private:
  [[noreturn]] void no_data() const;
  [[noreturn]] void no_rows() const;
  std::byte* memory() const {
    if (!buffer_ || !buffer_->data) no_data();
    return buffer_->data + offset_;
  }
  template <class T>
  T* typed(DType expected) const {
    if (dtype_ != expected || !buffer_) {
      fail("tensor {} holds {}, not {}", shape_.text(), buffer_ ? dtype_info(dtype_).name : "nothing",
           dtype_info(expected).name);
    }
    return reinterpret_cast<T*>(data());
  }

  DType dtype_ = DType::F32;
  Shape shape_;
  Ref<Buffer> buffer_;
  size_t offset_ = 0;  // bytes
  bool panels_ = false;
  Ref<Gradient> grad_;
};

// Where a backward step that computes the gradients of all its inputs at once writes the one of `input`:
// Tensor::sole_grad_target, or memory that is dropped afterwards when `input` is not trained.
class SoleGradient {
 public:
  SoleGradient(const Tensor& input, BufferPool& pool)
      : unwanted_(input.requires_grad() ? Tensor() : Tensor(pool, DType::F32, input.shape())),
        data_(input.requires_grad() ? input.sole_grad_target(pool) : unwanted_.f32()) {}
  float* data() const { return data_; }

 private:
  Tensor unwanted_;
  float* data_;
};

}  // namespace gladius
