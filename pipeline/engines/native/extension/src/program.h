// Operations over blobs in an arena, as pipeline/engines/native/program.py describes them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "filters.h"
#include "kernels.h"
#include "pool.h"

namespace densecast {

struct Pair {
  int y = 0, x = 0;
};

struct Blob {
  int channels = 0;
  std::int64_t stride = 0;
  std::vector<std::int64_t> offsets;
  std::vector<int> heights, widths;

  int images() const { return static_cast<int>(offsets.size()); }
  std::int64_t at(int image, int y, int x) const {
    return offsets[image] + (static_cast<std::int64_t>(y) * widths[image] + x) * stride;
  }
};

struct Image {
  const std::uint8_t* bytes = nullptr;  // either of the two, [height][width][channels]
  const float* floats = nullptr;
  int height = 0, width = 0, channels = 0;
};

struct Context {
  ThreadPool& pool;
  const Kernels& kernels;
  float* arena;
  const std::vector<Image>& images;
  const std::vector<void*>& results;
};

// What a result array must be.
struct ResultShape {
  bool integers;  // int64, else float32
  int height, width, channels;
};

class Operation {
 public:
  virtual ~Operation() = default;
  virtual void run(const Context& context) const = 0;
};

using OperationPointer = std::unique_ptr<const Operation>;

// Calls f(image, y, thread) for every row of the blob, several rows a task.
template <typename F>
void for_rows(const Context& context, const Blob& blob, const F& f) {
  std::int64_t rows = 0, floats = 0;
  for (int i = 0; i < blob.images(); ++i) {
    rows += blob.heights[i];
    floats += static_cast<std::int64_t>(blob.heights[i]) * blob.widths[i] * blob.channels;
  }
  if (!rows) return;
  const std::int64_t rows_a_task =
      std::max<std::int64_t>({1, 8192 * rows / std::max<std::int64_t>(floats, 1), rows >> 20});
  const int tasks = static_cast<int>((rows + rows_a_task - 1) / rows_a_task);
  context.pool.run(tasks, [&](int task, int thread) {
    std::int64_t row = task * rows_a_task;
    const std::int64_t end = std::min(rows, row + rows_a_task);
    int image = 0;
    std::int64_t before = 0;
    for (; row < end; ++row) {
      while (row - before >= blob.heights[image]) before += blob.heights[image++];
      f(image, static_cast<int>(row - before), thread);
    }
  });
}

// The operations, by the names of program.py.

struct Prepare {
  Blob top;
  std::vector<int> order;
  std::vector<float> mean;
  float scale = 1.0f;
  std::vector<int> luma;  // empty, or r, g, b, one
  int block = 1;
  Pair pad;
};

struct SpaceToDepth {
  Blob bottom, top;
  int block = 1;
  Pair pad;
};

struct TransformMatrices {
  std::vector<float> outputs, inputs;
  int outputs_rows = 0, points = 0;
};

struct Convolution {
  Blob bottom, top;
  std::shared_ptr<const Filters> filters;
  Pair kernel, stride, pad, dilation;
  std::vector<float> bias;  // empty for none
  bool rectify = false;
  float slope = 0.0f;
  std::vector<int> images;
  int groups = 1;
  bool tiled = false;
  TransformMatrices vertical, horizontal;
};

struct Depthwise {
  Blob bottom, top;
  std::vector<float> weights;
  Pair kernel, stride, pad, dilation;
  std::vector<float> bias;
  bool rectify = false;
  float slope = 0.0f;
};

struct Pooling {
  Blob bottom, top;
  bool maximum = true;
  Pair kernel, stride, pad, after, dilation{1, 1};
  bool inside = false;
};

struct Lrn {
  Blob bottom, top;
  Normalize normalize;
};

struct LrnPool {
  Lrn lrn;
  Pooling pooling;
};

struct Affine {
  Blob bottom, top;
  std::vector<float> scale, shift;  // empty for none
  bool rectify = false;
  float slope = 0.0f;
};

struct Activation {
  Blob bottom, top;
  Function function = Function::kRelu;
  std::vector<float> parameters, slopes;
};

struct Eltwise {
  std::vector<Blob> bottoms;
  Blob top;
  Combine combine = Combine::kSum;
  std::vector<float> coefficients;
  bool rectify = false;
  float slope = 0.0f;
};

struct Copy {
  Blob bottom, top;
  Pair start;
};

struct Softmax {
  Blob bottom, top;
};

struct TopK {
  Blob bottom;
  int k = 1;
  int result = 0;  // index of the first of its arrays
};

struct Whole {
  Blob bottom;
  int result = 0;
};

OperationPointer make(Prepare prepare);
OperationPointer make(SpaceToDepth operation);
OperationPointer make(Convolution convolution);  // throws std::invalid_argument, as the others
OperationPointer make(Depthwise depthwise);
OperationPointer make(Pooling pooling);
OperationPointer make(Lrn lrn);
OperationPointer make(LrnPool lrn_pool);
OperationPointer make(Affine affine);
OperationPointer make(Activation activation);
OperationPointer make(Eltwise eltwise);
OperationPointer make(Copy copy);
OperationPointer make(Softmax softmax);
OperationPointer make(TopK top_k);
OperationPointer make(Whole whole);

OperationPointer make_direct(Convolution convolution);
OperationPointer make_tiled(Convolution convolution);

}  // namespace densecast
