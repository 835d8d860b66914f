#include "filters.h"

#include <algorithm>
#include <cstring>

namespace densecast {

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
  const int panels = filters.panels();
  pool.run(shape.groups * panels, [&](int task, int) {
    const int group = task / panels, panel = task % panels;
    float* to = const_cast<float*>(filters.tiled_panel(group, panel));
    const std::int64_t tap_stride = static_cast<std::int64_t>(shape.inside) * shape.outside;
    const float* first = weights + group * shape.height * shape.width * tap_stride + panel * kPanelOutputs;
    FilterTile tile;
    tile.tap_stride = tap_stride;
    tile.outputs = std::min(kPanelOutputs, shape.outside - panel * kPanelOutputs);
    tile.kernel_height = shape.height;
    tile.kernel_width = shape.width;
    tile.vertical = vertical.data();
    tile.horizontal = horizontal.data();
    tile.height = filters.vertical;
    tile.width = filters.horizontal;
    tile.point_stride = static_cast<std::int64_t>(shape.inside) * kPanelOutputs;
    for (int c = 0; c < shape.inside; ++c) {
      tile.weights = first + static_cast<std::int64_t>(c) * shape.outside;
      tile.out = to + static_cast<std::int64_t>(c) * kPanelOutputs;
      kernels.transform_filter(tile);
    }
  });
  return filters;
}

}  // namespace densecast
