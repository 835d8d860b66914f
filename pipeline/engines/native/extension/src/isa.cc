#include "isa.h"

#include <stdexcept>

namespace densecast {
namespace scalar { extern const Kernels kKernels; }
namespace avx2 { extern const Kernels kKernels; }
namespace avx512 { extern const Kernels kKernels; }
namespace neon { extern const Kernels kKernels; }

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(DENSECAST_HAS_avx2)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
    found.push_back(&avx512::kKernels);
  if (has_avx2) found.push_back(&avx2::kKernels);
  // The C library's fma is exact on any processor, so that `scalar` needs nothing.
#endif
#if defined(DENSECAST_HAS_neon)
  found.push_back(&neon::kKernels);
#endif
  found.push_back(&scalar::kKernels);
  return found;
}

const Kernels& find_kernels(const std::string& name) {
  const auto found = available_kernels();
  if (name.empty()) {
    if (found.front() == &scalar::kKernels)
      throw std::runtime_error("This processor has no AVX2 with FMA, nor NEON: the native engine does not run on it.");
    return *found.front();
  }
  std::string names;
  for (const Kernels* kernels : found) {
    if (name == kernels->name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("The instruction set " + name + " is not among those that this processor has: " + names + ".");
}

}  // namespace densecast
