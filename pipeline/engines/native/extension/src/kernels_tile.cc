// The transforms of minimal filtering (S. Winograd, Arithmetic Complexity of Computations, 1980), nested in two
// dimensions: products are sums of inputs, and outputs are sums of products. Points come in pairs p, -p, whose rows
// share their sums.
#include "kernels_isa.h"
#include "vector.h"

namespace densecast {
namespace DENSECAST_ISA {
namespace {

constexpr int kMost = kLargestTransform;

// sum of matrix[j] * x[j] over every second j from `from` to `to`.
template <int From, int To>
DENSECAST_INLINE Floats every_second(const float* matrix, const Floats* x) {
  Floats sum = spread(matrix[From]) * x[From];
#pragma GCC unroll 16
  for (int j = From + 2; j <= To; j += 2) sum = fma(spread(matrix[j]), x[j], sum);
  return sum;
}

// Transforms read x by `in(index)` and write y by `out(index, vector)`.

// y = matrix @ x for the inputs' matrix, [T][T].
template <bool Zero, int Pairs, bool Infinity, bool EvenSame>
struct PairedInputs {
  static constexpr int T = Zero + 2 * Pairs + Infinity;

  template <typename In, typename Out>
  static DENSECAST_INLINE void apply(const Transform& t, In in, Out out) {
    constexpr int last = T - 1 - Infinity;
    const float* matrix = t.matrix;
    Floats x[T];
#pragma GCC unroll 16
    for (int i = 0; i < T; ++i) x[i] = in(i);
    if (Zero) out(0, every_second<0, last>(matrix, x));
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      const int row = Zero + 2 * p;
      const Floats first = every_second<Zero, last>(matrix + row * T, x);
      const Floats second = every_second<Zero + 1, last>(matrix + row * T, x);
      constexpr bool first_same = EvenSame == (Zero == 0);
      const Floats same = first_same ? first : second, opposite = first_same ? second : first;
      out(row, same + opposite);
      out(row + 1, same - opposite);
    }
    if (Infinity) out(T - 1, every_second<Zero, T - 1>(matrix + (T - 1) * T, x));
  }
};

// y = matrix @ x for the outputs' matrix, [rows][T].
template <bool Zero, int Pairs, bool Infinity>
struct PairedOutputs {
  static constexpr int T = Zero + 2 * Pairs + Infinity;

  static DENSECAST_INLINE Floats row(const float* coefficients, const Floats* sums) {
    Floats sum = spread(coefficients[Zero]) * sums[0];
#pragma GCC unroll 8
    for (int p = 1; p < Pairs; ++p) sum = fma(spread(coefficients[Zero + 2 * p]), sums[p], sum);
    return sum;
  }

  template <typename In, typename Out>
  static DENSECAST_INLINE void apply(const Transform& t, In in, Out out) {
    const float* matrix = t.matrix;
    Floats same[Pairs], opposite[Pairs];
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      const Floats a = in(Zero + 2 * p), b = in(Zero + 2 * p + 1);
      same[p] = a + b;
      opposite[p] = a - b;
    }
    Floats first = row(matrix, same);
    if (Zero) first = fma(spread(matrix[0]), in(0), first);
    const int end = t.rows - 1;
    if (end == 0) {
      if (Infinity) first = fma(spread(matrix[T - 1]), in(T - 1), first);
      return out(0, first);
    }
    out(0, first);
    int r = 1;
    for (; r + 1 < end; r += 2) {
      out(r, row(matrix + r * T, opposite));
      out(r + 1, row(matrix + (r + 1) * T, same));
    }
    if (r < end) out(r, row(matrix + r * T, opposite));
    Floats last = end % 2 ? row(matrix + end * T, opposite) : row(matrix + end * T, same);
    if (Infinity) last = fma(spread(matrix[end * T + T - 1]), in(T - 1), last);
    out(end, last);
  }
};

struct Dense {
  template <typename In, typename Out>
  static void apply(const Transform& t, In in, Out out) {
    for (int r = 0; r < t.rows; ++r) {
      Floats sum = {};
      for (int j = 0; j < t.columns; ++j) {
        const float coefficient = t.matrix[r * t.columns + j];
        if (coefficient != 0.0f) sum = fma(spread(coefficient), in(j), sum);
      }
      out(r, sum);
    }
  }
};

// Calls pass(kind) with the struct that computes the transform: once for all its vectors, so that the choice costs
// nothing.
template <bool Inputs, bool Zero, int Pairs, bool Infinity, typename Pass>
DENSECAST_INLINE void with_paired(const Transform& t, const Pass& pass) {
  if constexpr (!Inputs) {
    pass(PairedOutputs<Zero, Pairs, Infinity>{});
  } else if (t.even_same) {
    pass(PairedInputs<Zero, Pairs, Infinity, true>{});
  } else {
    pass(PairedInputs<Zero, Pairs, Infinity, false>{});
  }
}

template <bool Inputs, typename Pass>
void with_transform(const Transform& t, const Pass& pass) {
  if (!t.paired) return pass(Dense{});
  switch (t.pairs * 4 + t.zero * 2 + t.infinity) {
#define DENSECAST_CASE(P, Z, I) \
  case P * 4 + Z * 2 + I:       \
    return with_paired<Inputs, Z, P, I>(t, pass);
#define DENSECAST_CASES(P) \
  DENSECAST_CASE(P, 0, 0) DENSECAST_CASE(P, 0, 1) DENSECAST_CASE(P, 1, 0) DENSECAST_CASE(P, 1, 1)
    DENSECAST_CASES(1)
    DENSECAST_CASES(2)
    DENSECAST_CASES(3)
    DENSECAST_CASES(4)
    default:
      return pass(Dense{});
  }
}

}  // namespace

void transform_input(const InputTile& tile) {
  const Transform &vertical = *tile.vertical, &horizontal = *tile.horizontal;
  const int columns = horizontal.columns, rows = vertical.rows;
  const std::int64_t point_stride = tile.point_stride;
  Floats middle[kMost * kMost];
  for (int c = 0; c < tile.channels; c += kLanes) {
    with_transform<true>(vertical, [&](auto kind) DENSECAST_LAMBDA {
      for (int j = 0; j < columns; ++j) {
        const float* const* pixels = tile.pixels + j;
        Floats* to = middle + j;
        kind.apply(
            vertical, [&](int i) DENSECAST_LAMBDA { return load(pixels[i * columns] + c); },
            [&](int i, Floats y) DENSECAST_LAMBDA { to[i * columns] = y; });
      }
    });
    with_transform<true>(horizontal, [&](auto kind) DENSECAST_LAMBDA {
      float* out = tile.out + c;
      for (int i = 0; i < rows; ++i, out += horizontal.rows * point_stride) {
        const Floats* from = middle + i * columns;
        kind.apply(
            horizontal, [&](int j) DENSECAST_LAMBDA { return from[j]; },
            [&](int j, Floats y) DENSECAST_LAMBDA { store(out + j * point_stride, y); });
      }
    });
  }
}

void transform_output(const OutputTile& tile) {
  const Transform &vertical = *tile.vertical, &horizontal = *tile.horizontal;
  const int columns = horizontal.columns, rows = vertical.rows, outputs = horizontal.rows;
  const std::int64_t point_stride = tile.point_stride;
  const Floats slope = spread(tile.finish.rectify ? tile.finish.slope : 1.0f);
  const bool zero = tile.finish.rectify && tile.finish.slope == 0.0f;
  Floats middle[kMost * kMost];
  for (int o = 0; o < tile.outputs; o += kLanes) {
    with_transform<false>(vertical, [&](auto kind) DENSECAST_LAMBDA {
      for (int j = 0; j < columns; ++j) {
        const float* products = tile.products + j * point_stride + o;
        Floats* to = middle + j;
        kind.apply(
            vertical, [&](int i) DENSECAST_LAMBDA { return load(products + i * columns * point_stride); },
            [&](int i, Floats y) DENSECAST_LAMBDA { to[i * columns] = y; });
      }
    });
    const int count = tile.outputs - o;
    const Floats bias = tile.finish.bias ? load(tile.finish.bias + o) : Floats{};
    with_transform<false>(horizontal, [&](auto kind) DENSECAST_LAMBDA {
      for (int i = 0; i < rows; ++i) {
        float* const* pixels = tile.pixels + i * outputs;
        if (!pixels[0]) break;
        const Floats* from = middle + i * columns;
        kind.apply(
            horizontal, [&](int j) DENSECAST_LAMBDA { return from[j]; },
            [&](int j, Floats y) DENSECAST_LAMBDA {
              if (!pixels[j]) return;
              y = y + bias;
              y = y < Floats{} ? (zero ? Floats{} : y * slope) : y;
              if (count >= kLanes) {
                store(pixels[j] + o, y);
              } else {
                store_some(pixels[j] + o, y, count);
              }
            });
      }
    });
  }
}

void transform_filter(const FilterTile& tile) {
  double middle[kMost * kMost][kPanel];
  for (int i = 0; i < tile.height; ++i)
    for (int x = 0; x < tile.kernel_width; ++x) {
      double sum[kPanel] = {};
      for (int y = 0; y < tile.kernel_height; ++y) {
        const double coefficient = tile.vertical[i * tile.kernel_height + y];
        const float* taps = tile.weights + (y * tile.kernel_width + x) * tile.tap_stride;
        if (tile.outputs == kPanel) {
          for (int o = 0; o < kPanel; ++o) sum[o] += coefficient * taps[o];
        } else {
          for (int o = 0; o < tile.outputs; ++o) sum[o] += coefficient * taps[o];
        }
      }
      for (int o = 0; o < kPanel; ++o) middle[i * tile.kernel_width + x][o] = sum[o];
    }
  for (int i = 0; i < tile.height; ++i)
    for (int j = 0; j < tile.width; ++j) {
      double sum[kPanel] = {};
      for (int x = 0; x < tile.kernel_width; ++x) {
        const double coefficient = tile.horizontal[j * tile.kernel_width + x];
        for (int o = 0; o < kPanel; ++o) sum[o] += coefficient * middle[i * tile.kernel_width + x][o];
      }
      float* out = tile.out + (i * tile.width + j) * tile.point_stride;
      for (int o = 0; o < kPanel; ++o) out[o] = static_cast<float>(sum[o]);
    }
}

}  // namespace DENSECAST_ISA
}  // namespace densecast
