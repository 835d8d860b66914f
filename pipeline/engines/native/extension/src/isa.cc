#include "isa.h"

#include <stdexcept>

namespace densecast {
namespace scalar {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
namespace neon {
extern const Kernels kKernels;
}

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(DENSECAST_HAS_avx2)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return found;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    found.push_back(&avx512::kKernels);
  found.push_back(&avx2::kKernels);
#endif
#if defined(DENSECAST_HAS_neon)
  found.push_back(&neon::kKernels);
#endif
  found.push_back(&scalar::kKernels);
  return found;
}

const Kernels& find_kernels(const std::string& name) {
  const auto found = available_kernels();
  if (found.empty())
    throw std::runtime_error(
        "This processor has no AVX2 with FMA: the native engine, whose bits need it, does not run on it.");
  if (name.empty()) return *found.front();
  std::string names;
  for (const Kernels* kernels : found) {
    if (name == kernels->name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("The instruction set " + name + " is not among those that this processor has: " + names +
                              ".");
}

}  // namespace densecast
