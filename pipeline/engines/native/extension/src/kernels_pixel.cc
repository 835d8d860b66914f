// Kernels that compute one pixel, or a run of pixels, from its channels: pooling, normalization, functions of each
// value.
#include "exact_math.h"
#include "kernels_isa.h"
#include "vector.h"

namespace densecast {
namespace DENSECAST_ISA {
namespace {

constexpr float kLowest = -3.4028234663852886e38f;

DENSECAST_INLINE float rectified_one(float x, float slope) { return x < 0.0f ? (slope == 0.0f ? 0.0f : x * slope) : x; }

template <int Count>
DENSECAST_INLINE void maximum_from(const Window& w, int c) {
  Floats most[Count];
  for (auto& x : most) x = spread(kLowest);
  for (int y = 0; y < w.height; ++y) {
    const float* tap = w.bottom + y * w.row_stride + c;
    for (int x = 0; x < w.width; ++x, tap += w.column_stride)
      for (int i = 0; i < Count; ++i) {
        const Floats value = load(tap + i * kLanes);
        most[i] = value > most[i] ? value : most[i];
      }
  }
  for (int i = 0; i < Count; ++i) store_some(w.top + c + i * kLanes, most[i], w.channels - c - i * kLanes);
}

}  // namespace

void maximum(const Window& w) {
  int c = 0;
  for (; c + 4 * kLanes <= w.channels; c += 4 * kLanes) maximum_from<4>(w, c);
  for (; c < w.channels; c += kLanes) maximum_from<1>(w, c);
}

void average(const Window& w) {
  for (int c = 0; c < w.channels; c += kLanes) {
    Floats sum = {};
    for (int y = 0; y < w.height; ++y) {
      // Rows are summed by themselves: windows.cc shares their sums between windows.
      const float* tap = w.bottom + y * w.row_stride + c;
      Floats row = {};
      for (int x = 0; x < w.width; ++x, tap += w.column_stride) row = row + load(tap);
      sum = sum + row;
    }
    store_some(w.top + c, sum / spread(w.divisor), w.channels - c);
  }
}

void depthwise(const DepthwiseWindow& d) {
  const Window& w = d.window;
  const int outputs = w.channels * d.factor;
  for (int o = 0; o < outputs; o += kLanes) {
    const int count = outputs - o < kLanes ? outputs - o : kLanes;
    Floats sum = {};
    for (int y = 0; y < w.height; ++y)
      for (int x = 0; x < w.width; ++x) {
        const float* tap = w.bottom + y * w.row_stride + x * w.column_stride;
        Floats value = {};
        if (d.factor == 1) {
          value = load(tap + o);
        } else {
          for (int i = 0; i < count; ++i) value[i] = tap[(o + i) / d.factor];
        }
        sum = fma(value, load_some(d.weights + y * d.weights_row + x * d.weights_column + o, count), sum);
      }
    if (d.finish.bias) sum = sum + load_some(d.finish.bias + o, count);
    if (d.finish.rectify) sum = rectified(sum, d.finish.slope);
    store_some(w.top + o, sum, count);
  }
}

void normalize(const Normalize& n, const float* x, float* y, int channels) {
  constexpr int kRun = 128, kMargin = 128;
  const int half = n.size / 2;
  float squares[kRun + 2 * kMargin + kSlack];
  for (int from = 0; from < channels; from += kRun) {
    const int count = channels - from < kRun ? channels - from : kRun;
    const int first = from < half ? -from : -half, end = count + half + kSlack;
    const int inside = channels - from < end ? channels - from : end;
    for (int i = -half; i < first; ++i) squares[kMargin + i] = 0.0f;
    for (int i = first; i < inside; ++i) squares[kMargin + i] = x[from + i] * x[from + i];
    for (int i = inside; i < end; ++i) squares[kMargin + i] = 0.0f;
    for (int i = 0; i < count; i += kLanes) {
      const float* first = squares + kMargin + i - half;
      Floats sum = load(first);
      for (int j = 1; j < n.size; ++j) sum = sum + load(first + j);
      sum = fma(spread(n.alpha_over_size), sum, spread(n.k));
      const int left = count - i;
      const Floats value = load_some(x + from + i, left);
      Floats out;
      if (n.beta == 0.75f) {
        const Floats root = square_root(sum);
        out = value / (root * square_root(root));
      } else if (n.beta == 0.5f) {
        out = value / square_root(sum);
      } else if (n.beta == 1.0f) {
        out = value / sum;
      } else {
        for (int lane = 0; lane < kLanes; ++lane)
          out[lane] = static_cast<float>(value[lane] * raised(sum[lane], -static_cast<double>(n.beta)));
      }
      store_some(y + from + i, out, left);
    }
  }
}

void affine(const float* x, float* y, int channels, const float* scale, const float* shift, bool rectify, float slope) {
  for (int c = 0; c < channels; c += kLanes) {
    const int left = channels - c;
    Floats value = load_some(x + c, left);
    if (scale && shift) {
      value = fma(value, load_some(scale + c, left), load_some(shift + c, left));
    } else if (scale) {
      value = value * load_some(scale + c, left);
    } else if (shift) {
      value = value + load_some(shift + c, left);
    }
    if (rectify) value = rectified(value, slope);
    store_some(y + c, value, left);
  }
}

namespace {

template <typename F>
DENSECAST_INLINE void each(const float* x, float* y, int channels, F f) {
  for (int c = 0; c < channels; ++c) y[c] = static_cast<float>(f(x[c], c));
}

}  // namespace

void function(Function function, const float* p, const float* slopes, const float* x, float* y, int channels) {
  // Parameters are read here: in the loops the compiler could not know that writing y leaves them.
  const double p0 = p[0], p1 = p[1], p2 = p[2];
  const float f0 = p[0], f1 = p[1];
  switch (function) {
    case Function::kRelu:
      return each(x, y, channels, [=](float v, int) { return rectified_one(v, f0); });
    case Function::kPrelu:
      return each(x, y, channels, [=](float v, int c) { return rectified_one(v, slopes[c]); });
    case Function::kElu:
      return each(x, y, channels, [=](double v, int) { return v > 0.0 ? v : p0 * exponential_less_one(v); });
    case Function::kSigmoid:
      return each(x, y, channels, [](double v, int) { return sigmoid(v); });
    case Function::kTanh:
      return each(x, y, channels, [](double v, int) { return hyperbolic_tangent(v); });
    case Function::kAbs:
      return each(x, y, channels, [](float v, int) { return __builtin_fabsf(v); });
    case Function::kPower:
      return each(x, y, channels, [=](double v, int) { return raised(p2 + p1 * v, p0); });
    case Function::kExp:
      return each(x, y, channels, [=](double v, int) { return p1 * exponential(p0 * v); });
    case Function::kLog:
      return each(x, y, channels, [=](double v, int) { return p2 * logarithm(p1 + p0 * v); });
    case Function::kBnll:
      return each(x, y, channels, [](double v, int) { return softplus(v); });
    case Function::kThreshold:
      return each(x, y, channels, [=](float v, int) { return v > f0 ? 1.0f : 0.0f; });
    case Function::kClip:
      return each(x, y, channels, [=](float v, int) {
        const float least = v > f1 ? f1 : v;
        return least > f0 ? least : f0;
      });
    case Function::kSwish:
      return each(x, y, channels, [=](double v, int) { return v * sigmoid(p0 * v); });
  }
}

void combine(Combine combine, const float* coefficients, const float* const* bottoms, int count, float* top,
             int channels) {
  for (int c = 0; c < channels; c += kLanes) {
    const int left = channels - c;
    Floats value = load_some(bottoms[0] + c, left);
    if (combine == Combine::kSum) value = value * spread(coefficients[0]);
    for (int b = 1; b < count; ++b) {
      const Floats next = load_some(bottoms[b] + c, left);
      if (combine == Combine::kSum) {
        value = fma(spread(coefficients[b]), next, value);
      } else if (combine == Combine::kProduct) {
        value = value * next;
      } else {
        value = value > next ? value : next;
      }
    }
    store_some(top + c, value, left);
  }
}

namespace {

// Sixteen sums, each of every sixteenth channel.
DENSECAST_INLINE void add_powers(const float* x, float most, float* y, int count, double* sums) {
  for (int i = 0; i < count; ++i) {
    y[i] = static_cast<float>(exponential(static_cast<double>(x[i] - most)));
    sums[i] += y[i];
  }
}

}  // namespace

void softmax(const float* x, float* y, int channels) {
  float mosts[16];
  for (int i = 0; i < 16; ++i) mosts[i] = x[0];
  int c = 0;
  for (; c + 16 <= channels; c += 16)
    for (int i = 0; i < 16; ++i) mosts[i] = x[c + i] > mosts[i] ? x[c + i] : mosts[i];
  for (; c < channels; ++c) mosts[0] = x[c] > mosts[0] ? x[c] : mosts[0];
  float most = mosts[0];
  for (int i = 1; i < 16; ++i) most = mosts[i] > most ? mosts[i] : most;

  double sums[16] = {};
  for (c = 0; c + 16 <= channels; c += 16) add_powers(x + c, most, y + c, 16, sums);
  add_powers(x + c, most, y + c, channels - c, sums);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  const double scale = 1.0 / sums[0];
  for (c = 0; c < channels; ++c) y[c] = static_cast<float>(y[c] * scale);
}

}  // namespace DENSECAST_ISA
}  // namespace densecast
