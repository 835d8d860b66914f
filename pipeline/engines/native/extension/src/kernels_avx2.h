// The main loop of a product of 6 rows and one panel, in AVX2: compilers do not keep 12 sums, 2 vectors of weights and an
// input in 16 registers.
#pragma once

// Sanitizers do not see what assembly reads.
#if defined(DENSECAST_avx2) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define DENSECAST_SIX_ROWS 1

#include "vector.h"

namespace densecast {
namespace avx2 {

#define DENSECAST_ROW(A, OFFSET, X, LOW, HIGH)                  \
  "vbroadcastss " OFFSET "(%[a" A "]), %%ymm" X "\n\t"          \
  "vfmadd231ps %%ymm12, %%ymm" X ", %%ymm" LOW "\n\t"           \
  "vfmadd231ps %%ymm13, %%ymm" X ", %%ymm" HIGH "\n\t"

#define DENSECAST_TERM(A, LOW, HIGH)                                   \
  "vmovups " LOW "(%[b]), %%ymm12\n\t"                                 \
  "vmovups " HIGH "(%[b]), %%ymm13\n\t"                                \
  DENSECAST_ROW("0", A, "14", "0", "1") DENSECAST_ROW("1", A, "15", "2", "3") \
  DENSECAST_ROW("2", A, "14", "4", "5") DENSECAST_ROW("3", A, "15", "6", "7") \
  DENSECAST_ROW("4", A, "14", "8", "9") DENSECAST_ROW("5", A, "15", "10", "11")

// sums[r * row + o] is the sum over k of a[r][k] * b[16 * k + o]; `ahead` is fetched, with a step for four terms.
DENSECAST_INLINE void sum_six_rows(const float* const* a, const float* b, int depth, const char* ahead,
                                   std::int64_t step, float* sums, std::int64_t row) {
  row *= 4;
  std::int64_t fours = depth / 4, ones = depth % 4;
  const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3], *a4 = a[4], *a5 = a[5];
  asm volatile(
      "vxorps %%ymm0, %%ymm0, %%ymm0\n\t"
      "vxorps %%ymm1, %%ymm1, %%ymm1\n\t"
      "vxorps %%ymm2, %%ymm2, %%ymm2\n\t"
      "vxorps %%ymm3, %%ymm3, %%ymm3\n\t"
      "vxorps %%ymm4, %%ymm4, %%ymm4\n\t"
      "vxorps %%ymm5, %%ymm5, %%ymm5\n\t"
      "vxorps %%ymm6, %%ymm6, %%ymm6\n\t"
      "vxorps %%ymm7, %%ymm7, %%ymm7\n\t"
      "vxorps %%ymm8, %%ymm8, %%ymm8\n\t"
      "vxorps %%ymm9, %%ymm9, %%ymm9\n\t"
      "vxorps %%ymm10, %%ymm10, %%ymm10\n\t"
      "vxorps %%ymm11, %%ymm11, %%ymm11\n\t"
      "test %[fours], %[fours]\n\t"
      "jz 2f\n\t"
      ".p2align 5\n"
      "1:\n\t"
      "prefetcht1 (%[ahead])\n\t"
      DENSECAST_TERM("0", "0", "32")
      "prefetcht1 64(%[ahead])\n\t"
      DENSECAST_TERM("4", "64", "96")
      "prefetcht1 128(%[ahead])\n\t"
      DENSECAST_TERM("8", "128", "160")
      "prefetcht1 192(%[ahead])\n\t"
      "add %[step], %[ahead]\n\t"
      DENSECAST_TERM("12", "192", "224")
      "add $16, %[a0]\n\t"
      "add $16, %[a1]\n\t"
      "add $16, %[a2]\n\t"
      "add $16, %[a3]\n\t"
      "add $16, %[a4]\n\t"
      "add $16, %[a5]\n\t"
      "add $256, %[b]\n\t"
      "dec %[fours]\n\t"
      "jnz 1b\n"
      "2:\n\t"
      "test %[ones], %[ones]\n\t"
      "jz 4f\n"
      "3:\n\t"
      DENSECAST_TERM("0", "0", "32")
      "add $4, %[a0]\n\t"
      "add $4, %[a1]\n\t"
      "add $4, %[a2]\n\t"
      "add $4, %[a3]\n\t"
      "add $4, %[a4]\n\t"
      "add $4, %[a5]\n\t"
      "add $64, %[b]\n\t"
      "dec %[ones]\n\t"
      "jnz 3b\n"
      "4:\n\t"
      "vmovups %%ymm0, (%[sums])\n\t"
      "vmovups %%ymm1, 32(%[sums])\n\t"
      "add %[row], %[sums]\n\t"
      "vmovups %%ymm2, (%[sums])\n\t"
      "vmovups %%ymm3, 32(%[sums])\n\t"
      "add %[row], %[sums]\n\t"
      "vmovups %%ymm4, (%[sums])\n\t"
      "vmovups %%ymm5, 32(%[sums])\n\t"
      "add %[row], %[sums]\n\t"
      "vmovups %%ymm6, (%[sums])\n\t"
      "vmovups %%ymm7, 32(%[sums])\n\t"
      "add %[row], %[sums]\n\t"
      "vmovups %%ymm8, (%[sums])\n\t"
      "vmovups %%ymm9, 32(%[sums])\n\t"
      "add %[row], %[sums]\n\t"
      "vmovups %%ymm10, (%[sums])\n\t"
      "vmovups %%ymm11, 32(%[sums])\n\t"
      : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [a3] "+r"(a3), [a4] "+r"(a4), [a5] "+r"(a5), [b] "+r"(b),
        [ahead] "+r"(ahead), [fours] "+r"(fours), [ones] "+r"(ones),
        [sums] "+r"(sums)
      : [step] "r"(step), [row] "r"(row)
      : "memory", "cc", "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10",
        "ymm11", "ymm12", "ymm13", "ymm14", "ymm15");
}

#undef DENSECAST_TERM
#undef DENSECAST_ROW

}  // namespace avx2
}  // namespace densecast

#endif
