// Matrix products, compiled for each instruction set, and the table of all kernels.
#include "kernels.h"

#include "kernels_avx2.h"
#include "kernels_isa.h"
#include "vector.h"

namespace densecast {
namespace DENSECAST_ISA {
namespace {

// To the second-level cache: the first one has room for the weights that are multiplied now, and some rows.
constexpr int kAheadLevel = 2;
// For every four terms: all of the next panel, if no other tile takes its share. Several panels at once are read so evenly
// that the processor itself fetches them better.
constexpr int ahead_lines(int panels) { return panels == 1 ? 4 : 1; }

// Where a product's results go, and what is fetched ahead meanwhile.
struct Place {
  int row;
  int panel;
  const char* ahead;
  std::int64_t ahead_step;  // bytes for four terms
};

// How many panels are multiplied at once by so many rows: as many as registers can accumulate, since few rows would
// else wait for their own sums.
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

DENSECAST_INLINE float* result(const Multiply& m, int row) { return m.c_rows ? m.c_rows[row] : m.c + row * m.c_stride; }

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

// The rows and panels of one tile. Each has a pointer of its own: the compiler must not see that one follows from the
// other, or it computes addresses in the loop.
template <int R, int P>
struct Operands {
  const float *a[R], *b[P];

  DENSECAST_INLINE Operands(const Multiply& m, const Place& place) {
    for (int r = 0; r < R; ++r) {
      a[r] = m.a + (place.row + r) * m.a_stride;
      asm("" : "+r"(a[r]));
    }
    for (int p = 0; p < P; ++p) {
      b[p] = m.b + (place.panel + p) * m.panel_stride;
      asm("" : "+r"(b[p]));
    }
  }
};

// sums[r][n] is the sum over the block's terms of row r and vector n of the panels.
template <int R, int P>
DENSECAST_INLINE void sum_block(int depth, const Place& place, Operands<R, P>& operands,
                                Floats (&sums)[R][P * kVectors]) {
  constexpr int N = P * kVectors;
  auto& [a, b] = operands;
  const char* ahead = place.ahead;
  const std::int64_t ahead_step = place.ahead_step;
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
    for (int line = 0; line < ahead_lines(P); ++line) __builtin_prefetch(ahead + 64 * line, 0, kAheadLevel);
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
  const int first_output = place.panel * kPanel, depth = m.depth;
  const bool sums_alone = m.first && !m.last && m.outputs - first_output >= P * kPanel;
  Operands<R, P> operands(m, place);
#if defined(DENSECAST_SIX_ROWS)
  constexpr bool six_rows = R == 6 && P == 1;
  if constexpr (six_rows) {
    if (sums_alone && !m.c_rows)
      return sum_six_rows(operands.a, operands.b[0], depth, place.ahead, place.ahead_step,
                          m.c + place.row * m.c_stride + first_output, m.c_stride);
  }
#endif
  float* c[R];
  for (int r = 0; r < R; ++r) {
    c[r] = result(m, place.row + r) + first_output;
    // Results in an arena arrive in the cache while the sums are made.
    for (int p = 0; p < P && m.c_rows; ++p) __builtin_prefetch(c[r] + p * kPanel, 1);
  }
  Floats sums[R][P * kVectors];
#if defined(DENSECAST_SIX_ROWS)
  if constexpr (six_rows) {
    sum_six_rows(operands.a, operands.b[0], depth, place.ahead, place.ahead_step, reinterpret_cast<float*>(sums),
                 kPanel);
  } else {
    sum_block<R, P>(depth, place, operands, sums);
  }
#else
  sum_block<R, P>(depth, place, operands, sums);
#endif

  if (sums_alone) {
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < P * kVectors; ++n) store(c[r] + n * kLanes, sums[r][n]);
    return;
  }
  const bool first = m.first, rectify = m.last && m.finish.rectify;
  const float* bias = m.last ? m.finish.bias : nullptr;
  const float slope = m.finish.slope;
  for (int p = 0; p < P; ++p) {
    const int output = first_output + p * kPanel;
    if (m.outputs - output < kPanel) {
      for (int r = 0; r < R; ++r) {
        Floats values[kVectors];
        for (int v = 0; v < kVectors; ++v) values[v] = sums[r][p * kVectors + v];
        finish_partial(m, c[r] - first_output, output, m.outputs - output, values);
      }
      continue;
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kVectors; ++v) {
        float* to = c[r] + p * kPanel + v * kLanes;
        Floats x = sums[r][p * kVectors + v];
        if (!first) x = load(to) + x;
        if (bias) x = x + load(bias + output + v * kLanes);
        if (rectify) x = rectified(x, slope);
        store(to, x);
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
    {block_of<1>(false), block_of<2>(false), block_of<3>(false), block_of<4>(false), block_of<5>(false),
     block_of<6>(false), block_of<7>(false), block_of<8>(false), block_of<9>(false), block_of<10>(false),
     block_of<11>(false), block_of<12>(false)},
    {block_of<1>(true), block_of<2>(true), block_of<3>(true), block_of<4>(true), block_of<5>(true), block_of<6>(true),
     block_of<7>(true), block_of<8>(true), block_of<9>(true), block_of<10>(true), block_of<11>(true),
     block_of<12>(true)},
#elif defined(DENSECAST_scalar)
    {block_of<1>(false), block_of<2>(false)},
    {block_of<1>(true), block_of<2>(true)},
#else
    {block_of<1>(false), block_of<2>(false), block_of<3>(false), block_of<4>(false), block_of<5>(false),
     block_of<6>(false)},
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
      for (int from = 0; from < all.depth; from += all.block) {
        const bool end = from + all.block >= all.depth;
        m.depth = end ? all.depth - from : all.block;
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
const Kernels kKernels = {DENSECAST_NAME,   kTileRows,        kTilePanels, multiply, transform_input,
                          transform_output, transform_filter, maximum,     average,  depthwise,
                          normalize,        affine,           function,    combine,  softmax};

}  // namespace DENSECAST_ISA
}  // namespace densecast
