// The instruction sets that this processor has.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace densecast {

// From the fastest to `scalar`, which any processor has.
std::vector<const Kernels*> available_kernels();

// The fastest, or the named; throws std::runtime_error or std::invalid_argument where there is none.
const Kernels& find_kernels(const std::string& name);

}  // namespace densecast
