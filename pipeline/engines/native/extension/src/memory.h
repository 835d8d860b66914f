// Large aligned buffers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace densecast {

// A stride of whole cache lines, an odd number of them: what is read together from several rows spreads over the
// cache's sets and banks.
constexpr std::int64_t odd_lines(std::int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

// Floats aligned to a cache line; large ones lie in huge pages where the system has them. Not set to any value.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t floats);  // throws std::bad_alloc
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  float* data() const { return data_; }
  std::size_t size() const { return size_; }
  // Makes room for so many floats; what was in it is lost.
  void grow(std::size_t floats);

 private:
  float* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace densecast
