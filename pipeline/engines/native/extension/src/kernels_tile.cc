// The transforms of minimal filtering (S. Winograd, Arithmetic Complexity of Computations, 1980), nested in two dimensions:
// products are sums of inputs, and outputs are sums of products. Points come in pairs p, -p, whose rows share their sums.
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

// y = matrix @ x for the inputs' matrix, [T][T].
template <bool Zero, int Pairs, bool Infinity, bool EvenSame>
struct PairedInputs {
  static constexpr int T = Zero + 2 * Pairs + Infinity;
  static DENSECAST_INLINE void apply(const float* matrix, const Floats* x, Floats* y) {
    constexpr int last = T - 1 - Infinity;
    if (Zero) y[0] = every_second<0, last>(matrix, x);
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      const int row = Zero + 2 * p;
      const Floats first = every_second<Zero, last>(matrix + row * T, x);
      const Floats second = every_second<Zero + 1, last>(matrix + row * T, x);
      constexpr bool first_same = EvenSame == (Zero == 0);
      const Floats same = first_same ? first : second, opposite = first_same ? second : first;
      y[row] = same + opposite;
      y[row + 1] = same - opposite;
    }
    if (Infinity) y[T - 1] = every_second<Zero, T - 1>(matrix + (T - 1) * T, x);
  }
};

// y = matrix @ x for the outputs' matrix, [rows][T].
template <bool Zero, int Pairs, bool Infinity>
struct PairedOutputs {
  static constexpr int T = Zero + 2 * Pairs + Infinity;
  static DENSECAST_INLINE void apply(const float* matrix, int rows, const Floats* x, Floats* y) {
    Floats sums[2][Pairs];
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      sums[0][p] = x[Zero + 2 * p] + x[Zero + 2 * p + 1];
      sums[1][p] = x[Zero + 2 * p] - x[Zero + 2 * p + 1];
    }
    auto row = [&](int r, const Floats* s) DENSECAST_LAMBDA {
      const float* c = matrix + r * T;
      Floats sum = spread(c[Zero]) * s[0];
#pragma GCC unroll 8
      for (int p = 1; p < Pairs; ++p) sum = fma(spread(c[Zero + 2 * p]), s[p], sum);
      if (Zero && r == 0) sum = fma(spread(c[0]), x[0], sum);
      if (Infinity && r == rows - 1) sum = fma(spread(c[T - 1]), x[T - 1], sum);
      return sum;
    };
    int r = 0;
    for (; r + 2 <= rows; r += 2) {
      y[r] = row(r, sums[0]);
      y[r + 1] = row(r + 1, sums[1]);
    }
    if (r < rows) y[r] = row(r, sums[0]);
  }
};

void dense(const Transform& t, const Floats* x, Floats* y) {
  for (int r = 0; r < t.rows; ++r) {
    Floats sum = {};
    for (int j = 0; j < t.columns; ++j) {
      const float coefficient = t.matrix[r * t.columns + j];
      if (coefficient != 0.0f) sum = fma(spread(coefficient), x[j], sum);
    }
    y[r] = sum;
  }
}

// Calls f with the transform as a function (x, y): one call for a whole pass, so that the choice is not made for each
// vector.
template <bool Inputs, bool Zero, int Pairs, bool Infinity, typename Pass>
DENSECAST_INLINE void with_paired(const Transform& t, Pass pass) {
  const float* matrix = t.matrix;
  const int rows = t.rows;
  if constexpr (Inputs) {
    if (t.even_same)
      pass([=](const Floats* x, Floats* y) DENSECAST_LAMBDA { PairedInputs<Zero, Pairs, Infinity, true>::apply(matrix, x, y); },
           Zero + 2 * Pairs + Infinity);
    else
      pass([=](const Floats* x, Floats* y) DENSECAST_LAMBDA { PairedInputs<Zero, Pairs, Infinity, false>::apply(matrix, x, y); },
           Zero + 2 * Pairs + Infinity);
  } else {
    pass([=](const Floats* x, Floats* y) DENSECAST_LAMBDA { PairedOutputs<Zero, Pairs, Infinity>::apply(matrix, rows, x, y); },
         Zero + 2 * Pairs + Infinity);
  }
}

template <bool Inputs, typename Pass>
void with_transform(const Transform& t, Pass pass) {
  if (t.paired) {
    switch (t.pairs * 4 + t.zero * 2 + t.infinity) {
#define DENSECAST_CASE(P, Z, I) \
  case P * 4 + Z * 2 + I: return with_paired<Inputs, Z, P, I>(t, pass);
#define DENSECAST_CASES(P) DENSECAST_CASE(P, 0, 0) DENSECAST_CASE(P, 0, 1) DENSECAST_CASE(P, 1, 0) DENSECAST_CASE(P, 1, 1)
      DENSECAST_CASES(1)
      DENSECAST_CASES(2)
      DENSECAST_CASES(3)
      DENSECAST_CASES(4)
      default: break;
    }
  }
  pass([&](const Floats* x, Floats* y) { dense(t, x, y); }, t.columns);
}

}  // namespace

void transform_input(const InputTile& tile) {
  const Transform &vertical = *tile.vertical, &horizontal = *tile.horizontal;
  const int columns = horizontal.columns;
  Floats middle[kMost * kMost];
  for (int c = 0; c < tile.channels; c += kLanes) {
    with_transform<true>(vertical, [&](auto apply, int height) DENSECAST_LAMBDA {
      for (int j = 0; j < columns; ++j) {
        Floats x[kMost], y[kMost];
        for (int i = 0; i < height; ++i) x[i] = load(tile.pixels[i * columns + j] + c);
        apply(x, y);
        for (int i = 0; i < height; ++i) middle[i * columns + j] = y[i];
      }
    });
    with_transform<true>(horizontal, [&](auto apply, int width) DENSECAST_LAMBDA {
      for (int i = 0; i < vertical.rows; ++i) {
        Floats y[kMost];
        apply(middle + i * columns, y);
        float* out = tile.out + i * width * tile.point_stride + c;
        for (int j = 0; j < width; ++j) store(out + j * tile.point_stride, y[j]);
      }
    });
  }
}

void transform_output(const OutputTile& tile) {
  const Transform &vertical = *tile.vertical, &horizontal = *tile.horizontal;
  const int columns = horizontal.columns, rows = vertical.rows, outputs = horizontal.rows;
  Floats middle[kMost * kMost];
  for (int o = 0; o < tile.outputs; o += kLanes) {
    with_transform<false>(vertical, [&](auto apply, int height) DENSECAST_LAMBDA {
      for (int j = 0; j < columns; ++j) {
        Floats x[kMost], y[kMost];
        const float* products = tile.products + j * tile.point_stride + o;
        for (int i = 0; i < height; ++i) x[i] = load(products + i * columns * tile.point_stride);
        apply(x, y);
        for (int i = 0; i < rows; ++i) middle[i * columns + j] = y[i];
      }
    });
    const bool whole = tile.outputs - o >= kLanes;
    const Floats bias = tile.finish.bias ? load(tile.finish.bias + o) : Floats{};
    with_transform<false>(horizontal, [&](auto apply, int) DENSECAST_LAMBDA {
      for (int i = 0; i < rows; ++i) {
        float* const* pixels = tile.pixels + i * outputs;
        if (!pixels[0]) break;
        Floats y[kMost];
        apply(middle + i * columns, y);
        for (int j = 0; j < outputs && pixels[j]; ++j) {
          Floats x = y[j];
          if (tile.finish.bias) x = x + bias;
          if (tile.finish.rectify) x = rectified(x, tile.finish.slope);
          if (whole) {
            store(pixels[j] + o, x);
          } else {
            store_some(pixels[j] + o, x, tile.outputs - o);
          }
        }
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
