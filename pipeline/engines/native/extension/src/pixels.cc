// Functions of each pixel.
#include <cstring>
#include <stdexcept>

#include "simple.h"

namespace densecast {

OperationPointer make(Affine a) {
  check_sizes(a.bottom, a.top);
  for (const auto* numbers : {&a.scale, &a.shift})
    if (!numbers->empty() && static_cast<int>(numbers->size()) != a.top.channels)
      throw std::invalid_argument("A scale or shift does not fit its blob.");
  return simple([a = std::move(a)](const Context& context) {
    for_pixels(context, a.bottom, a.top, false, [&](const float* from, float* to, int channels) {
      context.kernels.affine(from, to, channels, a.scale.empty() ? nullptr : a.scale.data(),
                             a.shift.empty() ? nullptr : a.shift.data(), a.rectify, a.slope);
    });
  });
}

OperationPointer make(Activation a) {
  check_sizes(a.bottom, a.top);
  if (a.function == Function::kPrelu && static_cast<int>(a.slopes.size()) != a.top.channels)
    throw std::invalid_argument("The slopes of a PReLU do not fit its blob.");
  a.parameters.resize(3, 0.0f);
  return simple([a = std::move(a)](const Context& context) {
    for_pixels(context, a.bottom, a.top, a.function != Function::kPrelu,
               [&](const float* from, float* to, int channels) {
                 context.kernels.function(a.function, a.parameters.data(), a.slopes.data(), from, to, channels);
               });
  });
}

OperationPointer make(Eltwise e) {
  if (e.bottoms.empty() || e.bottoms.size() > 16)
    throw std::invalid_argument("An elementwise operation has 1 to 16 bottoms.");
  for (const Blob& bottom : e.bottoms) check_sizes(bottom, e.top);
  e.coefficients.resize(e.bottoms.size(), 1.0f);
  return simple([e = std::move(e)](const Context& context) {
    for_rows(context, e.top, [&](int i, int y, int) {
      for (int x = 0; x < e.top.widths[i]; ++x) {
        const float* from[16];
        for (std::size_t b = 0; b < e.bottoms.size(); ++b) from[b] = context.arena + e.bottoms[b].at(i, y, x);
        float* to = context.arena + e.top.at(i, y, x);
        context.kernels.combine(e.combine, e.coefficients.data(), from, static_cast<int>(e.bottoms.size()), to,
                                e.top.channels);
        if (e.rectify) context.kernels.affine(to, to, e.top.channels, nullptr, nullptr, true, e.slope);
      }
    });
  });
}

OperationPointer make(Copy c) {
  check_images(c.bottom, c.top);
  for (int i = 0; i < c.top.images(); ++i)
    if (c.start.y < 0 || c.start.x < 0 || c.start.y + c.top.heights[i] > c.bottom.heights[i] ||
        c.start.x + c.top.widths[i] > c.bottom.widths[i] || c.bottom.channels != c.top.channels)
      throw std::invalid_argument("A copy's top does not lie in its bottom.");
  return simple([c = std::move(c)](const Context& context) {
    for_rows(context, c.top, [&](int i, int y, int) {
      for (int x = 0; x < c.top.widths[i]; ++x)
        std::memmove(context.arena + c.top.at(i, y, x), context.arena + c.bottom.at(i, y + c.start.y, x + c.start.x),
                     c.top.channels * sizeof(float));
    });
  });
}

OperationPointer make(Softmax s) {
  check_sizes(s.bottom, s.top);
  return simple([s = std::move(s)](const Context& context) {
    for_pixels(context, s.bottom, s.top, false,
               [&](const float* from, float* to, int channels) { context.kernels.softmax(from, to, channels); });
  });
}

}  // namespace densecast
