// The kernels of one instruction set; kernels.h says what they do.
#pragma once

#include "kernels.h"

#define DENSECAST_QUOTED_(x) #x
#define DENSECAST_QUOTED(x) DENSECAST_QUOTED_(x)
#define DENSECAST_NAME DENSECAST_QUOTED(DENSECAST_ISA)
#define DENSECAST_LAMBDA __attribute__((always_inline))

namespace densecast {
namespace DENSECAST_ISA {

void transform_input(const InputTile& tile);
void transform_output(const OutputTile& tile);
void transform_filter(const FilterTile& tile);
void maximum(const Window& window);
void average(const Window& window);
void depthwise(const DepthwiseWindow& depthwise);
void normalize(const Normalize& normalize, const float* x, float* y, int channels);
void affine(const float* x, float* y, int channels, const float* scale, const float* shift, bool rectify, float slope);
void function(Function function, const float* parameters, const float* slopes, const float* x, float* y, int channels);
void combine(Combine combine, const float* coefficients, const float* const* bottoms, int count, float* top,
             int channels);
void softmax(const float* x, float* y, int channels);

}  // namespace DENSECAST_ISA
}  // namespace densecast
