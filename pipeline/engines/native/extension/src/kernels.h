// What is compiled for each instruction set, as a table of functions. Strides and counts are in floats.
#pragma once

#include <cstdint>

namespace densecast {

constexpr int kPanelOutputs = 16;  // outputs of a panel of weights
constexpr int kDepthBlock = 256;   // terms of a product that are summed by themselves: part of the format of bits
constexpr int kShortBlock = 64;    // the same, of large tiles, whose transforms enlarge what the sums round
constexpr int kMostPoints = 8;     // of an axis whose sums are of kDepthBlock terms
constexpr int kLargestTransform = 16;
constexpr int kSlack = 16;  // floats behind every buffer that vectors may read

// What follows the sum of an output: the bias is added, then the negative half is multiplied by the slope.
struct Finish {
  const float* bias = nullptr;  // padded to whole panels
  bool rectify = false;
  float slope = 0.0f;
};

// rows x panels, a matrix product for each of down x across points, block of depth by block of depth.
struct Multiply {
  const float* a;  // row r starts at a + r * a_stride
  std::int64_t a_stride;
  int rows;
  int depth;
  int block = kDepthBlock;  // terms that are summed by themselves
  const float* b;           // panel p starts at b + p * panel_stride: [depth][16]
  std::int64_t panel_stride;
  int outputs;  // of all panels; the last panel may have fewer than 16
  float* c;     // row r starts at c + r * c_stride, or at c_rows[r]
  std::int64_t c_stride;
  float* const* c_rows;
  bool first;  // sets c with the first block, otherwise adds to it
  bool last;   // finishes with the last block
  Finish finish;
  const float* ahead;  // weights that are read next, fetched into the cache meanwhile; null for none
  // Point (i, j) has a, b and c at (i * points_across + j) times these strides.
  int down, across, points_across;
  std::int64_t a_point, b_point, c_point;
};

// A one-dimensional transform of minimal filtering, its matrix and how it is computed.
struct Transform {
  int rows = 0;
  int columns = 0;
  const float* matrix = nullptr;  // [rows][columns]
  // Rows (of inputs) or columns (of outputs) are: zero (if any), pairs of a point and its negative, infinity (if any).
  bool paired = false;
  bool zero = false;
  int pairs = 0;
  bool infinity = false;
  bool even_same = false;  // in the two rows of a pair the even columns are equal and the odd ones opposite, or reverse
};

struct InputTile {
  const float* const* pixels;  // [vertical.columns][horizontal.columns], of channel 0
  int channels;
  float* out;  // point (i, j), channel c: out[(i * horizontal.rows + j) * point_stride + c]; written in whole vectors
  std::int64_t point_stride;
  const Transform* vertical;
  const Transform* horizontal;
};

struct OutputTile {
  const float* products;  // point p, output o: products[p * point_stride + o], 16 outputs
  std::int64_t point_stride;
  int outputs;           // at most 16
  float* const* pixels;  // [vertical.rows][horizontal.rows], of the first output; null for none
  const Transform* vertical;
  const Transform* horizontal;
  Finish finish;
};

// Filters of 16 outputs and one input channel, in double: out[(i * th + j) * point_stride + o] for t x t' points.
struct FilterTile {
  const float* weights;  // tap (y, x): weights[(y * kernel_width + x) * tap_stride + o]
  std::int64_t tap_stride;
  int outputs;  // at most 16; the others are 0
  int kernel_height, kernel_width;
  const double* vertical;    // [height][kernel_height]
  const double* horizontal;  // [width][kernel_width]
  int height, width;
  float* out;
  std::int64_t point_stride;
};

struct Window {
  const float* bottom;                     // of the first tap that lies inside
  std::int64_t row_stride, column_stride;  // between taps
  int height, width;                       // taps inside
  int channels;
  float divisor;  // of an average
  float* top;
};

struct DepthwiseWindow {
  Window window;
  const float* weights;  // of the first tap that lies inside
  std::int64_t weights_row, weights_column;
  int factor;  // outputs of a channel
  Finish finish;
};

struct Normalize {
  int size;
  float alpha_over_size, beta, k;
};

enum class Function {
  kRelu,
  kPrelu,
  kElu,
  kSigmoid,
  kTanh,
  kAbs,
  kPower,
  kExp,
  kLog,
  kBnll,
  kThreshold,
  kClip,
  kSwish
};
enum class Combine { kSum, kProduct, kMaximum };

struct Kernels {
  const char* name;
  int tile_rows;    // rows that are multiplied at once
  int tile_panels;  // panels
  void (*multiply)(const Multiply&);
  void (*transform_input)(const InputTile&);
  void (*transform_output)(const OutputTile&);
  void (*transform_filter)(const FilterTile&);
  void (*maximum)(const Window&);
  void (*average)(const Window&);
  void (*depthwise)(const DepthwiseWindow&);
  // x has `size / 2` readable floats of any value on both sides.
  void (*normalize)(const Normalize&, const float* x, float* y, int channels);
  void (*affine)(const float* x, float* y, int channels, const float* scale, const float* shift, bool rectify,
                 float slope);
  void (*function)(Function, const float* parameters, const float* slopes, const float* x, float* y, int channels);
  void (*combine)(Combine, const float* coefficients, const float* const* bottoms, int count, float* top, int channels);
  void (*softmax)(const float* x, float* y, int channels);
};

}  // namespace densecast
