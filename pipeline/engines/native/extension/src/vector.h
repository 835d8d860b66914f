// A vector of floats as wide as the processor's, in the namespace of its instruction set.
//
// All arithmetic is lane by lane, so that the width changes no bit. The kernels that include this header are compiled
// once for each instruction set. They use nothing from the standard library but types and builtins: an inline function
// of the library that one of them compiled for AVX-512 could be linked into all.
#pragma once

#include <cstdint>

#if defined(DENSECAST_avx2) || defined(DENSECAST_avx512)
#include <immintrin.h>
#elif defined(DENSECAST_neon)
#include <arm_neon.h>
#endif

#define DENSECAST_INLINE inline __attribute__((always_inline))

namespace densecast {
namespace DENSECAST_ISA {

#if defined(DENSECAST_avx512)
constexpr int kLanes = 16;
constexpr int kTileRows = 12;  // 24 of 32 registers accumulate
constexpr int kTilePanels = 2;
#elif defined(DENSECAST_avx2)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;  // 12 of 16 registers accumulate
constexpr int kTilePanels = 1;
#elif defined(DENSECAST_neon)
constexpr int kLanes = 4;
constexpr int kTileRows = 6;  // 24 of 32
constexpr int kTilePanels = 1;
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;
#endif

constexpr int kPanel = 16;  // outputs of a panel of weights
constexpr int kVectors = kPanel / kLanes;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedFloats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

DENSECAST_INLINE Floats load(const float* from) { return *reinterpret_cast<const UnalignedFloats*>(from); }
DENSECAST_INLINE void store(float* to, Floats x) { *reinterpret_cast<UnalignedFloats*>(to) = x; }
DENSECAST_INLINE Floats spread(float x) { return x - Floats{}; }

DENSECAST_INLINE Floats load_some(const float* from, int count) {
  if (count >= kLanes) return load(from);
  Floats x = {};
  for (int i = 0; i < count; ++i) x[i] = from[i];
  return x;
}

DENSECAST_INLINE void store_some(float* to, Floats x, int count) {
  if (count >= kLanes) return store(to, x);
  for (int i = 0; i < count; ++i) to[i] = x[i];
}

// a * b + c, rounded once.
DENSECAST_INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(DENSECAST_avx512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(DENSECAST_avx2)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(DENSECAST_neon)
  return vfmaq_f32(c, a, b);
#else
  Floats x;
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return x;
#endif
}

// Keeps a sum in its register: the compiler would else mix terms and run out of registers.
DENSECAST_INLINE Floats kept(Floats x) {
#if defined(DENSECAST_avx512)
  asm("" : "+v"(x));
#elif defined(DENSECAST_avx2)
  asm("" : "+x"(x));
#elif defined(DENSECAST_neon)
  asm("" : "+w"(x));
#endif
  return x;
}

DENSECAST_INLINE Floats square_root(Floats a) {
#if defined(DENSECAST_avx512)
  return _mm512_sqrt_ps(a);
#elif defined(DENSECAST_avx2)
  return _mm256_sqrt_ps(a);
#elif defined(DENSECAST_neon)
  return vsqrtq_f32(a);
#else
  Floats x;
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(a[i]);
  return x;
#endif
}

// NaN stays NaN. A slope of 0 gives 0, also for -inf.
DENSECAST_INLINE Floats rectified(Floats x, float slope) {
  const Floats negative = slope == 0.0f ? Floats{} : x * spread(slope);
  return x < Floats{} ? negative : x;
}

}  // namespace DENSECAST_ISA
}  // namespace densecast
