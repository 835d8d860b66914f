// How images come into the arena, and how results leave it.
#include <stdexcept>
#include <string>

#include "simple.h"

namespace densecast {
namespace {

void check(const Image& image, const Prepare& p, int number) {
  const int channels = image.bytes ? 3 : static_cast<int>(p.order.size());
  if (image.channels != channels)
    throw std::invalid_argument("Image " + std::to_string(number) + " has " + std::to_string(image.channels) +
                                " channels; the network takes " + std::to_string(channels) + ".");
  if (image.bytes && std::any_of(p.order.begin(), p.order.end(), [](int colour) { return colour < 0 || colour > 2; }))
    throw std::invalid_argument("The network's input has no colours: its images are float32.");
  const bool plain = p.block == 1 && p.pad.y == 0 && p.pad.x == 0;
  if (plain && (image.height != p.top.heights[number] || image.width != p.top.widths[number]))
    throw std::invalid_argument("Image " + std::to_string(number) + " is " + std::to_string(image.height) + " x " +
                                std::to_string(image.width) + "; the program was made for another size.");
}

// Writes one row of an image: `block` pixels side by side for each of the pixels of the top, from `out` on.
void prepare_row(const Prepare& p, const float* values, const Image& image, int y, int width, float* out) {
  const int channels = static_cast<int>(p.order.size());
  const bool colours = image.bytes && p.luma.empty() && channels == 3;
  const int first = colours ? p.order[0] : 0, second = colours ? p.order[1] : 0, third = colours ? p.order[2] : 0;
  for (int x = 0; x < width; ++x, out += p.top.stride) {
    const int from = x * p.block - p.pad.x;
    for (int dx = 0; dx < p.block; ++dx) {
      float* to = out + dx * channels;
      if (y < 0 || y >= image.height || from + dx < 0 || from + dx >= image.width) {
        std::fill(to, to + channels, 0.0f);
        continue;
      }
      const std::int64_t pixel = static_cast<std::int64_t>(y) * image.width + from + dx;
      const std::uint8_t* rgb = image.bytes ? image.bytes + pixel * 3 : nullptr;
      if (colours) {
        to[0] = values[rgb[first]];
        to[1] = values[256 + rgb[second]];
        to[2] = values[512 + rgb[third]];
      } else if (image.floats) {
        std::copy_n(image.floats + pixel * channels, channels, to);
      } else if (p.luma.empty()) {
        for (int c = 0; c < channels; ++c) to[c] = values[c * 256 + rgb[p.order[c]]];
      } else {
        to[0] = values[(p.luma[0] * rgb[0] + p.luma[1] * rgb[1] + p.luma[2] * rgb[2] + p.luma[3] / 2) / p.luma[3]];
      }
    }
  }
}

}  // namespace

OperationPointer make(Prepare p) {
  if (p.block < 1 || (!p.luma.empty() && (p.luma.size() != 4 || p.luma[3] < 1 || p.order.size() != 1)))
    throw std::invalid_argument("The preparation's block or luma is none.");
  if (p.order.size() != p.mean.size() || p.top.channels != p.block * p.block * static_cast<int>(p.order.size()))
    throw std::invalid_argument("The preparation's order, mean and block do not fit its top.");
  // The value of every byte in every channel.
  std::vector<float> values(p.order.size() * 256);
  for (std::size_t c = 0; c < p.order.size(); ++c)
    for (int v = 0; v < 256; ++v) values[c * 256 + v] = (static_cast<float>(v) - p.mean[c]) * p.scale;
  return simple([p = std::move(p), values = std::move(values)](const Context& context) {
    for (int i = 0; i < p.top.images(); ++i) check(context.images[i], p, i);
    for_rows(context, p.top, [&](int i, int y, int) {
      const Image& image = context.images[i];
      float* out = context.arena + p.top.at(i, y, 0);
      const int row_floats = p.block * static_cast<int>(p.order.size());
      for (int dy = 0; dy < p.block; ++dy, out += row_floats)
        prepare_row(p, values.data(), image, y * p.block + dy - p.pad.y, p.top.widths[i], out);
    });
  });
}

OperationPointer make(SpaceToDepth s) {
  check_images(s.bottom, s.top);
  if (s.block < 1 || s.top.channels != s.block * s.block * s.bottom.channels)
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

OperationPointer make(TopK t) {
  if (t.k < 1 || t.k > t.bottom.channels) throw std::invalid_argument("The best k are 1 to all channels.");
  return simple([t = std::move(t)](const Context& context) {
    for_rows(context, t.bottom, [&](int i, int y, int) {
      const int width = t.bottom.widths[i], images = t.bottom.images();
      auto* classes =
          static_cast<std::int64_t*>(context.results[t.result + i]) + static_cast<std::int64_t>(y) * width * t.k;
      auto* scores =
          static_cast<float*>(context.results[t.result + images + i]) + static_cast<std::int64_t>(y) * width * t.k;
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
