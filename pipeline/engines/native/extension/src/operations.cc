// Operations that compute pixels, or windows of pixels, by themselves.
#include <cstring>
#include <stdexcept>

#include "program.h"

namespace densecast {
namespace {

// An operation that is a function of the context.
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

// The taps of a window that lie inside one axis of the bottom.
struct Taps {
  int first;  // tap
  int count;
  int position;  // of the first in the bottom
};

Taps taps_inside(int output, int stride, int pad, int kernel, int dilation, int size) {
  const int start = output * stride - pad;
  const int first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int end = std::min(kernel, start < size ? (size - start + dilation - 1) / dilation : 0);
  return {first, std::max(0, end - first), start + first * dilation};
}

void check_images(const Blob& bottom, const Blob& top, bool sizes) {
  if (bottom.images() != top.images()) throw std::invalid_argument("An operation's bottom and top have different batches.");
  if (sizes && (bottom.heights != top.heights || bottom.widths != top.widths || bottom.channels != top.channels))
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

void check_bytes(const Image& image, const Prepare& p, int number) {
  const int colours = image.bytes ? 3 : static_cast<int>(p.order.size());
  if (image.channels != colours)
    throw std::invalid_argument("Image " + std::to_string(number) + " has " + std::to_string(image.channels) +
                                " channels; the network takes " + std::to_string(colours) + ".");
}

}  // namespace

OperationPointer make(Prepare p) {
  if (p.order.size() != p.mean.size() || p.top.channels != p.block * p.block * static_cast<int>(p.order.size()))
    throw std::invalid_argument("The preparation's order, mean and block do not fit its top.");
  // The value of every byte in every channel.
  std::vector<float> values(p.order.size() * 256);
  for (std::size_t c = 0; c < p.order.size(); ++c)
    for (int v = 0; v < 256; ++v) values[c * 256 + v] = (static_cast<float>(v) - p.mean[c]) * p.scale;
  return simple([p = std::move(p), values = std::move(values)](const Context& context) {
    for (int i = 0; i < p.top.images(); ++i) check_bytes(context.images[i], p, i);
    const int channels = static_cast<int>(p.order.size());
    for_rows(context, p.top, [&](int i, int y, int) {
      const Image& image = context.images[i];
      for (int x = 0; x < p.top.widths[i]; ++x) {
        float* out = context.arena + p.top.at(i, y, x);
        for (int dy = 0; dy < p.block; ++dy)
          for (int dx = 0; dx < p.block; ++dx, out += channels) {
            const int from_y = y * p.block + dy - p.pad.y, from_x = x * p.block + dx - p.pad.x;
            if (from_y < 0 || from_y >= image.height || from_x < 0 || from_x >= image.width) {
              std::fill(out, out + channels, 0.0f);
              continue;
            }
            const std::int64_t pixel = static_cast<std::int64_t>(from_y) * image.width + from_x;
            if (image.floats) {
              std::copy_n(image.floats + pixel * channels, channels, out);
              continue;
            }
            const std::uint8_t* rgb = image.bytes + pixel * 3;
            if (!p.luma.empty()) {
              const int grey = (p.luma[0] * rgb[0] + p.luma[1] * rgb[1] + p.luma[2] * rgb[2] + p.luma[3] / 2) / p.luma[3];
              out[0] = values[grey];
            } else {
              for (int c = 0; c < channels; ++c) out[c] = values[c * 256 + rgb[p.order[c]]];
            }
          }
      }
    });
  });
}

OperationPointer make(SpaceToDepth s) {
  check_images(s.bottom, s.top, false);
  if (s.top.channels != s.block * s.block * s.bottom.channels)
    throw std::invalid_argument("Space to depth: the channels of bottom and top do not fit the block.");
  return simple([s = std::move(s)](const Context& context) {
    const int channels = s.bottom.channels;
    for_rows(context, s.top, [&](int i, int y, int) {
      for (int x = 0; x < s.top.widths[i]; ++x) {
        float* out = context.arena + s.top.at(i, y, x);
        for (int dy = 0; dy < s.block; ++dy)
          for (int dx = 0; dx < s.block; ++dx, out += channels) {
            const int from_y = y * s.block + dy - s.pad.y, from_x = x * s.block + dx - s.pad.x;
            if (from_y < 0 || from_y >= s.bottom.heights[i] || from_x < 0 || from_x >= s.bottom.widths[i]) {
              std::fill(out, out + channels, 0.0f);
            } else {
              std::copy_n(context.arena + s.bottom.at(i, from_y, from_x), channels, out);
            }
          }
      }
    });
  });
}

namespace {

// The window of one output in a bottom whose pixel (0, 0) is `image`; the top is left open.
Window window_of(const Pooling& p, const float* image, std::int64_t stride, int height, int width, Pair output) {
  const Taps down = taps_inside(output.y, p.stride.y, p.pad.y, p.kernel.y, p.dilation.y, height);
  const Taps across = taps_inside(output.x, p.stride.x, p.pad.x, p.kernel.x, p.dilation.x, width);
  Window w{};
  w.bottom = image + (static_cast<std::int64_t>(down.position) * width + across.position) * stride;
  w.row_stride = static_cast<std::int64_t>(p.dilation.y) * width * stride;
  w.column_stride = p.dilation.x * stride;
  w.height = down.count;
  w.width = across.count;
  w.channels = p.bottom.channels;
  if (p.inside) {
    w.divisor = static_cast<float>(w.height) * static_cast<float>(w.width);
  } else {
    // Taps before the end of the padding count, from the window's first on.
    auto counted = [](int at, int step, int pad, int kernel, int dilation, int end) {
      const int start = at * step - pad;
      return std::max(0, std::min(kernel, (end - start + dilation - 1) / dilation));
    };
    w.divisor = static_cast<float>(counted(output.y, p.stride.y, p.pad.y, p.kernel.y, p.dilation.y, height + p.after.y)) *
                static_cast<float>(counted(output.x, p.stride.x, p.pad.x, p.kernel.x, p.dilation.x, width + p.after.x));
  }
  return w;
}

}  // namespace

OperationPointer make(Pooling pooling) {
  check_images(pooling.bottom, pooling.top, false);
  if (pooling.bottom.channels != pooling.top.channels)
    throw std::invalid_argument("A pooling's bottom and top have different channels.");
  return simple([pooling = std::move(pooling)](const Context& context) {
    const auto kernel = pooling.maximum ? context.kernels.maximum : context.kernels.average;
    for_rows(context, pooling.top, [&](int i, int y, int) {
      const int height = pooling.bottom.heights[i], width = pooling.bottom.widths[i];
      Pooling p = pooling;
      if (p.kernel.y == 0) p.kernel = {height, width};
      for (int x = 0; x < pooling.top.widths[i]; ++x) {
        Window w = window_of(p, context.arena + p.bottom.offsets[i], p.bottom.stride, height, width, {y, x});
        w.top = context.arena + p.top.at(i, y, x);
        kernel(w);
      }
    });
  });
}

OperationPointer make(Depthwise d) {
  check_images(d.bottom, d.top, false);
  const int outputs = d.top.channels;
  if (!d.bottom.channels || outputs % d.bottom.channels ||
      d.weights.size() != static_cast<std::size_t>(d.kernel.y) * d.kernel.x * outputs ||
      (!d.bias.empty() && static_cast<int>(d.bias.size()) != outputs))
    throw std::invalid_argument("A depthwise convolution's weights or bias do not fit its bottom and top.");
  return simple([d = std::move(d)](const Context& context) {
    for_rows(context, d.top, [&](int i, int y, int) {
      const int height = d.bottom.heights[i], width = d.bottom.widths[i], outputs = d.top.channels;
      const Taps down = taps_inside(y, d.stride.y, d.pad.y, d.kernel.y, d.dilation.y, height);
      for (int x = 0; x < d.top.widths[i]; ++x) {
        const Taps across = taps_inside(x, d.stride.x, d.pad.x, d.kernel.x, d.dilation.x, width);
        DepthwiseWindow w{};
        w.window.bottom = context.arena + d.bottom.at(i, down.position, across.position);
        w.window.row_stride = static_cast<std::int64_t>(d.dilation.y) * width * d.bottom.stride;
        w.window.column_stride = d.dilation.x * d.bottom.stride;
        w.window.height = down.count;
        w.window.width = across.count;
        w.window.channels = d.bottom.channels;
        w.window.top = context.arena + d.top.at(i, y, x);
        w.weights = d.weights.data() + (static_cast<std::int64_t>(down.first) * d.kernel.x + across.first) * outputs;
        w.weights_row = static_cast<std::int64_t>(d.kernel.x) * outputs;
        w.weights_column = outputs;
        w.factor = outputs / d.bottom.channels;
        w.finish.bias = d.bias.empty() ? nullptr : d.bias.data();
        w.finish.rectify = d.rectify;
        w.finish.slope = d.slope;
        context.kernels.depthwise(w);
      }
    });
  });
}

OperationPointer make(Lrn lrn) {
  check_images(lrn.bottom, lrn.top, true);
  if (lrn.normalize.size < 1 || lrn.normalize.size > 255 || lrn.normalize.size % 2 == 0)
    throw std::invalid_argument("The size of a local response normalization is odd and at most 255.");
  return simple([lrn = std::move(lrn)](const Context& context) {
    for_pixels(context, lrn.bottom, lrn.top, false, [&](const float* from, float* to, int channels) {
      context.kernels.normalize(lrn.normalize, from, to, channels);
    });
  });
}

OperationPointer make(LrnPool l) {
  check_images(l.lrn.bottom, l.pooling.top, false);
  make(Lrn{l.lrn.bottom, l.lrn.bottom, l.lrn.normalize});  // checks
  return simple([l = std::move(l)](const Context& context) {
    const Blob &bottom = l.lrn.bottom, &top = l.pooling.top;
    const int channels = bottom.channels, kernel = l.pooling.kernel.y;
    int widest = 0;
    for (int width : bottom.widths) widest = std::max(widest, width);
    const std::int64_t row_floats = static_cast<std::int64_t>(widest) * channels;
    for (auto& scratch : context.pool.scratch) scratch.grow(static_cast<std::size_t>(row_floats * kernel + kSlack));
    // Each thread keeps the normalized rows of its last window, side by side: the next window shares some.
    struct Kept {
      int image = -1, first = 0, end = 0;
    };
    std::vector<Kept> kept(context.pool.scratch.size());
    for_rows(context, top, [&](int i, int y, int thread) {
      const int height = bottom.heights[i], width = bottom.widths[i];
      float* rows = context.pool.scratch[thread].data();
      const Taps down = taps_inside(y, l.pooling.stride.y, l.pooling.pad.y, kernel, 1, height);
      const int first = down.position, end = first + down.count;
      Kept& last = kept[thread];
      int row = first;
      if (last.image == i && first >= last.first && first < last.end) {
        row = last.end;
        std::memmove(rows, rows + (first - last.first) * row_floats, (last.end - first) * row_floats * sizeof(float));
      }
      for (; row < end; ++row)
        for (int x = 0; x < width; ++x)
          context.kernels.normalize(l.lrn.normalize, context.arena + bottom.at(i, row, x),
                                    rows + (row - first) * row_floats + static_cast<std::int64_t>(x) * channels, channels);
      last = {i, first, end};
      for (int x = 0; x < top.widths[i]; ++x) {
        const Taps across = taps_inside(x, l.pooling.stride.x, l.pooling.pad.x, l.pooling.kernel.x, 1, width);
        Window w{};
        w.bottom = rows + static_cast<std::int64_t>(across.position) * channels;
        w.row_stride = row_floats;
        w.column_stride = channels;
        w.height = down.count;
        w.width = across.count;
        w.channels = channels;
        w.top = context.arena + top.at(i, y, x);
        context.kernels.maximum(w);
      }
    });
  });
}

OperationPointer make(Affine a) {
  check_images(a.bottom, a.top, true);
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
  check_images(a.bottom, a.top, true);
  if (a.function == Function::kPrelu && static_cast<int>(a.slopes.size()) != a.top.channels)
    throw std::invalid_argument("The slopes of a PReLU do not fit its blob.");
  a.parameters.resize(3, 0.0f);
  return simple([a = std::move(a)](const Context& context) {
    for_pixels(context, a.bottom, a.top, a.function != Function::kPrelu, [&](const float* from, float* to, int channels) {
      context.kernels.function(a.function, a.parameters.data(), a.slopes.data(), from, to, channels);
    });
  });
}

OperationPointer make(Eltwise e) {
  if (e.bottoms.empty() || e.bottoms.size() > 16) throw std::invalid_argument("An elementwise operation has 1 to 16 bottoms.");
  for (const Blob& bottom : e.bottoms) check_images(bottom, e.top, true);
  e.coefficients.resize(e.bottoms.size(), 1.0f);
  return simple([e = std::move(e)](const Context& context) {
    for_rows(context, e.top, [&](int i, int y, int) {
      for (int x = 0; x < e.top.widths[i]; ++x) {
        const float* from[16];
        for (std::size_t b = 0; b < e.bottoms.size(); ++b) from[b] = context.arena + e.bottoms[b].at(i, y, x);
        float* to = context.arena + e.top.at(i, y, x);
        context.kernels.combine(e.combine, e.coefficients.data(), from, static_cast<int>(e.bottoms.size()), to, e.top.channels);
        if (e.rectify) context.kernels.affine(to, to, e.top.channels, nullptr, nullptr, true, e.slope);
      }
    });
  });
}

OperationPointer make(Copy c) {
  check_images(c.bottom, c.top, false);
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
  check_images(s.bottom, s.top, true);
  return simple([s = std::move(s)](const Context& context) {
    for_pixels(context, s.bottom, s.top, false, [&](const float* from, float* to, int channels) {
      context.kernels.softmax(from, to, channels);
    });
  });
}

OperationPointer make(TopK t) {
  if (t.k < 1 || t.k > t.bottom.channels) throw std::invalid_argument("The best k are 1 to all channels.");
  return simple([t = std::move(t)](const Context& context) {
    for_rows(context, t.bottom, [&](int i, int y, int) {
      const int width = t.bottom.widths[i], images = t.bottom.images();
      auto* classes = static_cast<std::int64_t*>(context.results[t.result + i]) + static_cast<std::int64_t>(y) * width * t.k;
      auto* scores = static_cast<float*>(context.results[t.result + images + i]) + static_cast<std::int64_t>(y) * width * t.k;
      for (int x = 0; x < width; ++x, classes += t.k, scores += t.k) {
        const float* pixel = context.arena + t.bottom.at(i, y, x);
        // Insertion into the best so far: most channels fail the first comparison.
        int found = 0;
        for (int c = 0; c < t.bottom.channels; ++c) {
          if (found == t.k && !(pixel[c] > scores[found - 1])) continue;
          int at = found < t.k ? found++ : found - 1;
          for (; at > 0 && pixel[c] > scores[at - 1]; --at) {
            scores[at] = scores[at - 1];
            classes[at] = classes[at - 1];
          }
          scores[at] = pixel[c];
          classes[at] = c;
        }
      }
    });
  });
}

OperationPointer make(Whole w) {
  return simple([w = std::move(w)](const Context& context) {
    for_rows(context, w.bottom, [&](int i, int y, int) {
      float* to = static_cast<float*>(context.results[w.result + i]) +
                  static_cast<std::int64_t>(y) * w.bottom.widths[i] * w.bottom.channels;
      for (int x = 0; x < w.bottom.widths[i]; ++x, to += w.bottom.channels)
        std::copy_n(context.arena + w.bottom.at(i, y, x), w.bottom.channels, to);
    });
  });
}

}  // namespace densecast
