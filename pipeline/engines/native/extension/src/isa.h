// The instruction sets that this processor has.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace densecast {

// From the fastest to `scalar`. Empty where the processor has no fused multiply-add: one that is computed by parts
// would give the same bits, but not in useful time.
std::vector<const Kernels*> available_kernels();

// The fastest, or the named; throws std::runtime_error or std::invalid_argument where there is none.
const Kernels& find_kernels(const std::string& name);

}  // namespace densecast
