#include "engine/tensor.h"

#include <limits>

namespace gladius {

Shape::Shape(std::initializer_list<int64_t> dims) {
  if (dims.size() > dims_.size()) fail("a tensor has at most 4 dimensions, not {}", dims.size());
  for (const int64_t dim : dims) {
    if (dim < 0) fail("a tensor's dimension must not be negative, but one is {}", dim);
    dims_[static_cast<size_t>(rank_++)] = dim;
  }
}

void Shape::no_dimension(int i) const {
  if (rank_ == 0) fail("a tensor is missing: it has no dimension {}", i);
  fail("a tensor {} has no dimension {}", text(), i);
}

int64_t Shape::elements() const {
  if (rank_ == 0) return 0;
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

std::string Shape::text() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i ? ", " : "", (*this)[i]);
  return text + "]";
}

size_t tensor_bytes(DType dtype, const Shape& shape) {
  if (shape.elements() == 0) return 0;
  const DTypeInfo& info = dtype_info(dtype);
  if (shape[-1] % info.block_size != 0) {
    fail("a tensor {} cannot be stored as {}: its rows are not a multiple of {} elements", shape.text(),
         info.name, info.block_size);
  }
  return static_cast<size_t>(shape.rows()) * static_cast<size_t>(row_bytes(dtype, shape[-1]));
}

Tensor::Tensor(BufferPool& pool, DType dtype, Shape shape)
    : dtype_(dtype), shape_(shape), buffer_(pool.allocate(tensor_bytes(dtype, shape))) {}

Tensor Tensor::view(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> keeper) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.buffer_ = BufferPool::wrap(data, tensor_bytes(dtype, shape), std::move(keeper));
  return tensor;
}

size_t Tensor::panels_bytes(const Backend& backend) const {
  const int64_t N = shape_.rows();
  const int64_t bytes = panels_ || N == 0 ? 0 : backend.panels_bytes(dtype_, N, shape_[-1]);
  return (static_cast<size_t>(bytes) + 63) / 64 * 64;
}

Tensor Tensor::in_panels(Backend& backend, std::byte* memory, std::shared_ptr<const void> keeper) const {
  Tensor tensor;
  tensor.dtype_ = dtype_;
  tensor.shape_ = shape_;
  tensor.panels_ = true;
  tensor.buffer_ = BufferPool::wrap(memory, panels_bytes(backend), std::move(keeper));
  backend.make_panels(dtype_, shape_.rows(), shape_[-1], data(), memory);
  return tensor;
}

Tensor Tensor::reshaped(Shape shape) const {
  if (panels_) no_rows();
  if (shape.elements() != shape_.elements())
    fail("a tensor {} cannot be seen as {}", shape_.text(), shape.text());
  Tensor tensor = *this;
  tensor.shape_ = shape;
  return tensor;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  if (panels_) no_rows();
  if (begin < 0 || end < begin || end > shape_[0]) {
    fail("rows {} to {} are not within a tensor {}", begin, end, shape_.text());
  }
  Tensor tensor = *this;
  std::array<int64_t, 4> d{1, 1, 1, 1};
  for (int i = 0; i < shape_.rank(); ++i) d[static_cast<size_t>(i)] = shape_[i];
  d[0] = end - begin;
  switch (shape_.rank()) {
    case 1:
      tensor.shape_ = {d[0]};
      break;
    case 2:
      tensor.shape_ = {d[0], d[1]};
      break;
    case 3:
      tensor.shape_ = {d[0], d[1], d[2]};
      break;
    default:
      tensor.shape_ = {d[0], d[1], d[2], d[3]};
      break;
  }
  if (begin > 0) tensor.offset_ += static_cast<size_t>(begin) * (bytes() / static_cast<size_t>(shape_[0]));
  tensor.grad_ = {};
  return tensor;
}

void Tensor::no_data() const {
  if (!buffer_) fail("a tensor is missing: it has no data");
  fail("the values of a tensor {} are given up until the backward pass computes them anew", shape_.text());
}
void Tensor::no_rows() const {
  fail("a weight {} is held in the form that products use; its rows cannot be read", shape_.text());
}

void Tensor::set_requires_grad(BufferPool& pool) {
  if (dtype_ != DType::F32) fail("only F32 tensors have gradients, not {}", dtype_info(dtype_).name);
  if (!grad_) grad_ = pool.allocate_gradient();
}

GradTarget Tensor::grad_target(BufferPool& pool) const {
  if (!grad_)
    fail("a tensor {} has no gradient: it was made without a tape or is not trainable", shape_.text());
  if (!grad_->buffer) grad_->buffer = pool.allocate(bytes());
  const bool accumulate = grad_->written;
  grad_->written = true;
  return {reinterpret_cast<float*>(grad_->buffer->data), accumulate};
}

float* Tensor::sole_grad_target(BufferPool& pool) const {
  const GradTarget target = grad_target(pool);
  if (target.accumulate)
    fail("a tensor {} has a second user, but its gradient can only be written once", shape_.text());
  return target.data;
}

float* Tensor::grad() const {
  if (!has_grad()) fail("a tensor {} has no gradient yet", shape_.text());
  return reinterpret_cast<float*>(grad_->buffer->data);
}

bool Tensor::adopt_grad(const Tensor& from) const {
  if (grad_->written) return false;
  grad_->buffer = std::exchange(from.grad_->buffer, {});
  grad_->written = std::exchange(from.grad_->written, false);
  return true;
}

void Tensor::reset_grad() const {
  if (grad_) grad_->written = false;
}

}  // namespace gladius
