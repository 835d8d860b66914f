// Pooling, depthwise convolution and normalization.
#include <cstring>
#include <stdexcept>

#include "simple.h"

namespace densecast {
namespace {

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
    w.divisor =
        static_cast<float>(counted(output.y, p.stride.y, p.pad.y, p.kernel.y, p.dilation.y, height + p.after.y)) *
        static_cast<float>(counted(output.x, p.stride.x, p.pad.x, p.kernel.x, p.dilation.x, width + p.after.x));
  }
  return w;
}

}  // namespace

namespace {

void pool(const Context& context, const Pooling& pooling) {
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
}

// Averages over large windows that overlap: the sums of their rows are made once, then the windows sum these. The order
// of every sum is that of the kernel, which sums each row by itself.
void average_by_rows(const Context& context, const Pooling& p) {
  const int channels = p.bottom.channels;
  Blob rows;  // in the shared scratch
  rows.channels = channels;
  rows.stride = channels;
  std::int64_t floats = 0;
  for (int i = 0; i < p.bottom.images(); ++i) {
    rows.offsets.push_back(floats);
    rows.heights.push_back(p.bottom.heights[i]);
    rows.widths.push_back(p.top.widths[i]);
    floats += static_cast<std::int64_t>(p.bottom.heights[i]) * p.top.widths[i] * channels;
  }
  context.pool.shared.grow(static_cast<std::size_t>(floats + kSlack));
  float* sums = context.pool.shared.data();
  for_rows(context, rows, [&](int i, int y, int) {
    for (int x = 0; x < rows.widths[i]; ++x) {
      const Taps across = taps_inside(x, p.stride.x, p.pad.x, p.kernel.x, p.dilation.x, p.bottom.widths[i]);
      Window w{};
      w.bottom = context.arena + p.bottom.at(i, y, across.position);
      w.column_stride = p.dilation.x * p.bottom.stride;
      w.height = 1;
      w.width = across.count;
      w.channels = channels;
      w.divisor = 1.0f;
      w.top = sums + rows.at(i, y, x);
      context.kernels.average(w);
    }
  });
  for_rows(context, p.top, [&](int i, int y, int) {
    const int height = p.bottom.heights[i], width = p.bottom.widths[i];
    for (int x = 0; x < p.top.widths[i]; ++x) {
      // The window's rows and divisor, with the sums instead of its columns.
      Window w = window_of(p, sums, channels, height, width, {y, x});
      const Taps down = taps_inside(y, p.stride.y, p.pad.y, p.kernel.y, p.dilation.y, height);
      w.bottom = sums + rows.at(i, down.position, x);
      w.row_stride = static_cast<std::int64_t>(p.dilation.y) * rows.widths[i] * channels;
      w.width = w.width > 0 ? 1 : 0;
      w.top = context.arena + p.top.at(i, y, x);
      context.kernels.average(w);
    }
  });
}

}  // namespace

OperationPointer make(Pooling pooling) {
  check_images(pooling.bottom, pooling.top);
  if (pooling.bottom.channels != pooling.top.channels)
    throw std::invalid_argument("A pooling's bottom and top have different channels.");
  const Pair kernel = pooling.kernel, stride = pooling.stride;
  const bool share = !pooling.maximum && kernel.y >= 4 && kernel.x >= 4 && stride.y * 2 <= kernel.y;
  return simple([pooling = std::move(pooling), share](const Context& context) {
    if (share) {
      average_by_rows(context, pooling);
    } else {
      pool(context, pooling);
    }
  });
}

OperationPointer make(Depthwise d) {
  check_images(d.bottom, d.top);
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
  check_sizes(lrn.bottom, lrn.top);
  if (lrn.normalize.size < 1 || lrn.normalize.size > 255 || lrn.normalize.size % 2 == 0)
    throw std::invalid_argument("The size of a local response normalization is odd and at most 255.");
  return simple([lrn = std::move(lrn)](const Context& context) {
    for_pixels(context, lrn.bottom, lrn.top, false, [&](const float* from, float* to, int channels) {
      context.kernels.normalize(lrn.normalize, from, to, channels);
    });
  });
}

OperationPointer make(LrnPool l) {
  check_images(l.lrn.bottom, l.pooling.top);
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
                                    rows + (row - first) * row_floats + static_cast<std::int64_t>(x) * channels,
                                    channels);
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

}  // namespace densecast
