// How a transform of minimal filtering is computed.
#pragma once

#include <vector>

#include "kernels.h"

namespace densecast {

// Returns the transform of a matrix, which must outlive it. Matrices whose points are zero (or not), pairs of a number
// and its negative, and infinity (or not), in this order, have a fast form; those of other points are multiplied as
// they are.
Transform transform_of(const std::vector<float>& matrix, int rows, int columns, bool inputs);

}  // namespace densecast
