#include "filters.h"

#include <algorithm>
#include <cstring>

namespace densecast {
namespace {

constexpr int kChannels = 8;  // whose filters are transformed by one task

}  // namespace

Filters pack_direct(ThreadPool& pool, const FilterShape& shape, const float* weights) {
  Filters filters;
  filters.shape = shape;
  filters.data = Buffer(static_cast<std::size_t>(filters.floats() + kSlack));
  const int depth = filters.depth(), panels = filters.panels();
  const int blocks = (depth + kDepthBlock - 1) / kDepthBlock;
  pool.run(shape.groups * blocks, [&](int task, int) {
    const int group = task / blocks, block = task % blocks;
    const int from = block * kDepthBlock, terms = std::min(kDepthBlock, depth - from);
    float* to = const_cast<float*>(filters.direct_panel(group, block, 0));
    for (int k = 0; k < terms; ++k) {
      const float* row = weights + (static_cast<std::int64_t>(group) * depth + from + k) * shape.outside;
      for (int panel = 0; panel < panels; ++panel) {
        const int count = std::min(kPanelOutputs, shape.outside - panel * kPanelOutputs);
        float* out = to + (static_cast<std::int64_t>(panel) * terms + k) * kPanelOutputs;
        std::memcpy(out, row + panel * kPanelOutputs, count * sizeof(float));
        std::fill(out + count, out + kPanelOutputs, 0.0f);
      }
    }
  });
  return filters;
}

Filters pack_tiled(ThreadPool& pool, const Kernels& kernels, const FilterShape& shape, const float* weights,
                   const std::vector<double>& vertical, const std::vector<double>& horizontal) {
  Filters filters;
  filters.shape = shape;
  filters.vertical = static_cast<int>(vertical.size()) / shape.height;
  filters.horizontal = static_cast<int>(horizontal.size()) / shape.width;
  filters.data = Buffer(static_cast<std::size_t>(filters.floats() + kSlack));
  const int panels = filters.panels(), blocks = (shape.inside + kChannels - 1) / kChannels;
  const std::int64_t tap_stride = static_cast<std::int64_t>(shape.inside) * shape.outside;
  // A task reads some channels' weights from the first output to the last, as they lie.
  pool.run(shape.groups * blocks, [&](int task, int) {
    const int group = task / blocks, first = task % blocks * kChannels, end = std::min(shape.inside, first + kChannels);
    FilterTile tile;
    tile.tap_stride = tap_stride;
    tile.kernel_height = shape.height;
    tile.kernel_width = shape.width;
    tile.vertical = vertical.data();
    tile.horizontal = horizontal.data();
    tile.height = filters.vertical;
    tile.width = filters.horizontal;
    tile.point_stride = static_cast<std::int64_t>(shape.inside) * kPanelOutputs;
    const float* of_group = weights + group * shape.height * shape.width * tap_stride;
    for (int panel = 0; panel < panels; ++panel) {
      float* to = const_cast<float*>(filters.tiled_panel(group, panel));
      tile.outputs = std::min(kPanelOutputs, shape.outside - panel * kPanelOutputs);
      for (int c = first; c < end; ++c) {
        tile.weights = of_group + static_cast<std::int64_t>(c) * shape.outside + panel * kPanelOutputs;
        tile.out = to + static_cast<std::int64_t>(c) * kPanelOutputs;
        kernels.transform_filter(tile);
      }
    }
  });
  return filters;
}

}  // namespace densecast
