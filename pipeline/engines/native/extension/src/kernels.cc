// Matrix products, compiled for each instruction set, and the table of all kernels.
#include "kernels.h"
#include "kernels_avx2.h"
#include "kernels_isa.h"
#include "vector.h"

namespace densecast {
namespace DENSECAST_ISA {
namespace {

// To the second-level cache: the first one has room for the weights that are multiplied now, and some rows.
#ifndef AHEAD
#define AHEAD 2
#endif
constexpr int kAheadLevel = AHEAD;

// Where a product's results go, and what is fetched ahead meanwhile.
struct Place {
  int row;
  int panel;
  const char* ahead;
  std::int64_t ahead_step;  // bytes for four terms
};

// How many panels are multiplied at once by so many rows: as many as registers can accumulate, since few rows would else
// wait for their own sums.
constexpr int panels_at_once(int rows) {
#if defined(DENSECAST_avx512)
  return rows <= 6 ? 4 : 2;
#elif defined(DENSECAST_avx2)
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#elif defined(DENSECAST_neon)
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#else
  return rows == 1 ? 2 : 1;
#endif
}

DENSECAST_INLINE float* result(const Multiply& m, int row) {
  return m.c_rows ? m.c_rows[row] : m.c + row * m.c_stride;
}

// The last panel of a layer whose outputs are not whole panels.
__attribute__((noinline)) void finish_partial(const Multiply& m, float* c, int output, int count, const Floats* sums) {
  const float* values = reinterpret_cast<const float*>(sums);
  for (int i = 0; i < count; ++i) {
    float x = m.first ? values[i] : c[output + i] + values[i];
    if (m.last) {
      if (m.finish.bias) x += m.finish.bias[output + i];
      if (m.finish.rectify && x < 0.0f) x = m.finish.slope == 0.0f ? 0.0f : x * m.finish.slope;
    }
    c[output + i] = x;
  }
}

// sums[r][n] is the sum over the block's terms of row r and vector n of the panels.
template <int R, int P>
DENSECAST_INLINE void sum_block(const Multiply& m, const Place& place, Floats (&sums)[R][P * kVectors]) {
  constexpr int N = P * kVectors;
  // Each row and panel has a pointer of its own. The compiler must not see that one follows from the other, or it computes
  // addresses in the loop.
  const float *a[R], *b[P];
  for (int r = 0; r < R; ++r) {
    a[r] = m.a + (place.row + r) * m.a_stride;
    asm("" : "+r"(a[r]));
  }
  for (int p = 0; p < P; ++p) {
    b[p] = m.b + (place.panel + p) * m.panel_stride;
    asm("" : "+r"(b[p]));
  }
  const char* ahead = place.ahead;
  const std::int64_t ahead_step = place.ahead_step;
  const int depth = m.depth;
#if defined(DENSECAST_SIX_ROWS)
  if constexpr (R == 6 && P == 1) return sum_six_rows(a, b[0], depth, ahead, ahead_step, &sums[0][0]);
#endif
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sums[r][n] = Floats{};
  // Either the weights of a term stay in registers or, of few rows, the inputs.
  auto term = [&](int k) DENSECAST_LAMBDA {
    if constexpr (R > 3) {
      Floats weights[N];
      for (int n = 0; n < N; ++n) weights[n] = load(b[n / kVectors] + k * kPanel + n % kVectors * kLanes);
      for (int r = 0; r < R; ++r) {
        const Floats x = spread(a[r][k]);
        for (int n = 0; n < N; ++n) sums[r][n] = kept(fma(x, weights[n], sums[r][n]));
      }
    } else {
      Floats x[R];
      for (int r = 0; r < R; ++r) x[r] = spread(a[r][k]);
      for (int n = 0; n < N; ++n) {
        const Floats weight = load(b[n / kVectors] + k * kPanel + n % kVectors * kLanes);
        for (int r = 0; r < R; ++r) sums[r][n] = kept(fma(x[r], weight, sums[r][n]));
      }
    }
  };
  int k = 0;
  for (; k + 4 <= depth; k += 4) {
    __builtin_prefetch(ahead, 0, kAheadLevel);
    ahead += ahead_step;
    term(0);
    term(1);
    term(2);
    term(3);
    for (int r = 0; r < R; ++r) a[r] += 4;
    for (int p = 0; p < P; ++p) b[p] += 4 * kPanel;
  }
  for (int left = depth - k, i = 0; i < left; ++i) term(i);
}

template <int R, int P>
void block(const Multiply& m, const Place& place) {
  // The results' lines arrive while the sums are made.
  for (int r = 0; r < R; ++r) {
    const float* c = result(m, place.row + r) + place.panel * kPanel;
    for (int p = 0; p < P; ++p) __builtin_prefetch(c + p * kPanel, 1);
  }
  Floats sums[R][P * kVectors];
  sum_block<R, P>(m, place, sums);
  for (int r = 0; r < R; ++r) {
    float* c = result(m, place.row + r);
    for (int p = 0; p < P; ++p) {
      const int output = (place.panel + p) * kPanel;
      if (m.outputs - output < kPanel) {
        Floats values[kVectors];
        for (int v = 0; v < kVectors; ++v) values[v] = sums[r][p * kVectors + v];
        finish_partial(m, c, output, m.outputs - output, values);
        continue;
      }
      for (int v = 0; v < kVectors; ++v) {
        const int at = output + v * kLanes;
        Floats x = sums[r][p * kVectors + v];
        if (!m.first) x = load(c + at) + x;
        if (m.last) {
          if (m.finish.bias) x = x + load(m.finish.bias + at);
          if (m.finish.rectify) x = rectified(x, m.finish.slope);
        }
        store(c + at, x);
      }
    }
  }
}

using Block = void (*)(const Multiply&, const Place&);

template <int R>
constexpr Block block_of(bool several) {
  return several ? block<R, panels_at_once(R)> : block<R, 1>;
}

const Block kBlocks[2][kTileRows] = {
#if defined(DENSECAST_avx512)
    {block_of<1>(false), block_of<2>(false), block_of<3>(false), block_of<4>(false), block_of<5>(false), block_of<6>(false),
     block_of<7>(false), block_of<8>(false), block_of<9>(false), block_of<10>(false), block_of<11>(false), block_of<12>(false)},
    {block_of<1>(true), block_of<2>(true), block_of<3>(true), block_of<4>(true), block_of<5>(true), block_of<6>(true),
     block_of<7>(true), block_of<8>(true), block_of<9>(true), block_of<10>(true), block_of<11>(true), block_of<12>(true)},
#elif defined(DENSECAST_scalar)
    {block_of<1>(false), block_of<2>(false)},
    {block_of<1>(true), block_of<2>(true)},
#else
    {block_of<1>(false), block_of<2>(false), block_of<3>(false), block_of<4>(false), block_of<5>(false), block_of<6>(false)},
    {block_of<1>(true), block_of<2>(true), block_of<3>(true), block_of<4>(true), block_of<5>(true), block_of<6>(true)},
#endif
};

// How rows are split into tiles, which differ by one row at most.
struct Split {
  int tiles, rows, more;
};

// One point and block of depth.
void multiply_block(const Multiply& m, const Split& split) {
  const int panels = (m.outputs + kPanel - 1) / kPanel;
  const int at_once = panels_at_once(split.more ? split.rows + 1 : split.rows);
  for (int panel = 0; panel < panels;) {
    const int count = panels - panel >= at_once ? at_once : 1;
    const bool end = panel + count >= panels;
    const float* next = end ? m.ahead : m.b + (panel + count) * m.panel_stride;
    // Lines of weights that are read next are fetched evenly over the rows.
    std::int64_t step = std::int64_t{64} * 4 * count / split.tiles;
    if (!next) {
      next = m.b;
      step = 0;
    }
    const char* ahead = reinterpret_cast<const char*>(next);
    for (int tile = 0, row = 0; tile < split.tiles; ++tile) {
      const int height = split.rows + (tile < split.more);
      const Place place{row, panel, ahead, step};
      if (count > 1 && panels_at_once(height) != count) {
        // The shorter tile would take more panels at once.
        for (int p = 0; p < count; ++p) kBlocks[0][height - 1](m, Place{row, panel + p, ahead, step});
      } else {
        kBlocks[count > 1][height - 1](m, place);
      }
      ahead += step * (m.depth / 4);
      row += height;
    }
    panel += count;
  }
}

void multiply(const Multiply& all) {
  Split split;
  split.tiles = (all.rows + kTileRows - 1) / kTileRows;
  split.rows = all.rows / split.tiles;
  split.more = all.rows % split.tiles;
  Multiply m = all;
  for (int i = 0; i < all.down; ++i)
    for (int j = 0; j < all.across; ++j) {
      const std::int64_t point = static_cast<std::int64_t>(i) * all.points_across + j;
      m.c = all.c + point * all.c_point;
      for (int from = 0; from < all.depth; from += kDepthBlock) {
        const bool end = from + kDepthBlock >= all.depth;
        m.depth = end ? all.depth - from : kDepthBlock;
        m.a = all.a + point * all.a_point + from;
        m.b = all.b + point * all.b_point + static_cast<std::int64_t>(from) * kPanel;
        m.first = all.first && from == 0;
        m.last = all.last && end;
        const bool last_point = i + 1 == all.down && j + 1 == all.across;
        m.ahead = last_point && end ? all.ahead : m.b + static_cast<std::int64_t>(m.depth) * kPanel;
        multiply_block(m, split);
      }
    }
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {DENSECAST_NAME,   kTileRows, kTilePanels, multiply,  transform_input, transform_output,
                          transform_filter, maximum,   average,     depthwise, normalize,       affine,
                          function,         combine,   softmax};

}  // namespace DENSECAST_ISA
}  // namespace densecast
