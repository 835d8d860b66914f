// Weights, packed for the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace densecast {

struct FilterShape {
  int groups = 1, height = 1, width = 1, inside = 1, outside = 1;
};

// Panels of 16 outputs, the last one filled up with zeros.
//
// Direct: [group][block of depth][panel][depth][16], depth being taps and inputs. Blocks are in the order in which a
// product reads them. Tiled: [group][panel][point][inside][16].
struct Filters {
  FilterShape shape;
  int vertical = 0, horizontal = 0;  // points; 0 for the direct form
  Buffer data;

  bool tiled() const { return vertical > 0; }
  int panels() const { return (shape.outside + kPanelOutputs - 1) / kPanelOutputs; }
  int depth() const { return shape.height * shape.width * shape.inside; }
  std::int64_t points() const { return static_cast<std::int64_t>(vertical) * horizontal; }
  std::int64_t floats() const {
    const std::int64_t terms = tiled() ? points() * shape.inside : depth();
    return terms * shape.groups * panels() * kPanelOutputs;
  }

  const float* direct_panel(int group, int block, int panel) const {
    const int from = block * kDepthBlock;
    const int terms = depth() - from < kDepthBlock ? depth() - from : kDepthBlock;
    return data.data() + (static_cast<std::int64_t>(group) * depth() + from) * panels() * kPanelOutputs +
           static_cast<std::int64_t>(panel) * terms * kPanelOutputs;
  }
  const float* tiled_panel(int group, int panel) const {
    return data.data() +
           (static_cast<std::int64_t>(group) * panels() + panel) * points() * shape.inside * kPanelOutputs;
  }
};

// weights: [groups][height][width][inside][outside].
Filters pack_direct(ThreadPool& pool, const FilterShape& shape, const float* weights);

// The matrices are [points][taps] of each axis.
Filters pack_tiled(ThreadPool& pool, const Kernels& kernels, const FilterShape& shape, const float* weights,
                   const std::vector<double>& vertical, const std::vector<double>& horizontal);

}  // namespace densecast
