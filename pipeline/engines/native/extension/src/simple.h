// Operations that are functions of the context.
#pragma once

#include <memory>
#include <stdexcept>
#include <utility>

#include "program.h"

namespace densecast {

template <typename F>
class Simple final : public Operation {
 public:
  explicit Simple(F f) : f_(std::move(f)) {}
  void run(const Context& context) const override { f_(context); }

 private:
  F f_;
};

template <typename F>
OperationPointer simple(F f) {
  return std::make_unique<Simple<F>>(std::move(f));
}

inline void check_images(const Blob& bottom, const Blob& top) {
  if (bottom.images() != top.images())
    throw std::invalid_argument("An operation's bottom and top have different batches.");
}

inline void check_sizes(const Blob& bottom, const Blob& top) {
  check_images(bottom, top);
  if (bottom.heights != top.heights || bottom.widths != top.widths || bottom.channels != top.channels)
    throw std::invalid_argument("An operation's bottom and top have different sizes.");
}

// Calls f(bottom, top, channels) for every pixel; for all pixels of a row at once where both are dense and `joined`.
template <typename F>
void for_pixels(const Context& context, const Blob& bottom, const Blob& top, bool joined, const F& f) {
  const bool at_once = joined && bottom.stride == bottom.channels && top.stride == top.channels;
  for_rows(context, top, [&](int image, int y, int) {
    const float* from = context.arena + bottom.at(image, y, 0);
    float* to = context.arena + top.at(image, y, 0);
    const int width = top.widths[image];
    if (at_once) return f(from, to, width * top.channels);
    for (int x = 0; x < width; ++x) f(from + x * bottom.stride, to + x * top.stride, top.channels);
  });
}

}  // namespace densecast
