#include "memory.h"

#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace densecast {
namespace {

constexpr std::size_t kLine = 64, kHugePage = std::size_t{2} << 20;

}  // namespace

Buffer::Buffer(std::size_t floats) : size_(floats) {
  if (floats > SIZE_MAX / 8) throw std::bad_alloc();
  const std::size_t wanted = floats * sizeof(float);
  const std::size_t alignment = wanted >= 2 * kHugePage ? kHugePage : kLine;
  const std::size_t bytes = (wanted + alignment - 1) / alignment * alignment;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes ? bytes : alignment)) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);  // advice: nothing is lost where it is refused
#endif
  data_ = static_cast<float*>(memory);
}

Buffer::~Buffer() { std::free(data_); }

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void Buffer::grow(std::size_t floats) {
  if (floats <= size_) return;
  *this = Buffer();  // first, so that both are never there at once
  *this = Buffer(floats);
}

}  // namespace densecast
