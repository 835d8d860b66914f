// Elementary functions in double, of additions, multiplications and divisions alone: the same bits everywhere, and
// after rounding to float within 0.51 units in the last place. They are for arguments that floats have; loops over them
// become vectors.
#pragma once

#include <cstdint>

#include "vector.h"

namespace densecast {
namespace DENSECAST_ISA {

DENSECAST_INLINE std::uint64_t bits_of(double x) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &x, 8);
  return bits;
}

DENSECAST_INLINE double from_bits(std::uint64_t bits) {
  double x;
  __builtin_memcpy(&x, &bits, 8);
  return x;
}

// e ** x; beyond -200 and 200, where a float is 0 or infinite, so is this. NaN stays NaN.
DENSECAST_INLINE double exponential(double unbounded) {
  double x = unbounded < -200.0 ? -200.0 : unbounded;
  x = x > 200.0 ? 200.0 : x;
  const double round = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, which is left in the low bits
  const double shifted = x * 1.4426950408889634 + round;
  const double n = shifted - round;
  // ln 2 in two parts; n times the first is exact.
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  // The Taylor polynomial; |r| <= ln(2) / 2, where its error is 2e-16.
  double p = 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double power = from_bits(bits_of(p) + (bits_of(shifted) << 52));
  const double high = unbounded > 200.0 ? __builtin_inf() : power;
  return unbounded < -200.0 ? 0.0 : high;
}

// The natural logarithm: -inf at 0, NaN below.
DENSECAST_INLINE double logarithm(double x) {
  // x = m * 2^e with m from sqrt(1/2) to sqrt(2).
  const std::uint64_t offset = 0x3fe6a09e667f3bcdULL;
  const std::uint64_t above = bits_of(x) - offset;
  const std::int64_t e = static_cast<std::int64_t>(above) >> 52;
  const double m = from_bits(bits_of(x) - (static_cast<std::uint64_t>(e) << 52));
  const double f = (m - 1.0) / (m + 1.0), s = f * f;
  double p = 1.0 / 21;
  p = p * s + 1.0 / 19;
  p = p * s + 1.0 / 17;
  p = p * s + 1.0 / 15;
  p = p * s + 1.0 / 13;
  p = p * s + 1.0 / 11;
  p = p * s + 1.0 / 9;
  p = p * s + 1.0 / 7;
  p = p * s + 1.0 / 5;
  p = p * s + 1.0 / 3;
  p = p * s + 1.0;
  const double log = 2.0 * f * p + static_cast<double>(e) * 0.69314718055994530942;
  if (x > 0.0 && x <= 1.7976931348623157e308) return log;
  return x == 0.0 ? -__builtin_inf() : x > 0.0 ? x : __builtin_nan("");
}

// e ** x - 1.
DENSECAST_INLINE double exponential_less_one(double x) {
  const bool small = x < 1e-5 && x > -1e-5;
  return small ? x + 0.5 * x * x : exponential(x) - 1.0;
}

DENSECAST_INLINE double hyperbolic_tangent(double x) {
  const double s = x * x;
  const double series = x * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835)))));
  const double e = exponential(2.0 * x);
  const bool small = s < 4e-4;
  return small ? series : 1.0 - 2.0 / (e + 1.0);
}

DENSECAST_INLINE double sigmoid(double x) { return 1.0 / (1.0 + exponential(-x)); }

// log(1 + e ** x).
DENSECAST_INLINE double softplus(double x) {
  const double e = exponential(x > 0.0 ? -x : x);
  const double log = e < 1e-8 ? e : logarithm(1.0 + e);
  return x > 0.0 ? x + log : log;
}

// base ** power as C's pow.
inline double raised(double base, double power) {
  if (power == 0.0 || base == 1.0) return 1.0;
  if (base != base || power != power) return base + power;
  const double size = base < 0.0 ? -base : base;
  const bool large = power >= 9007199254740992.0 || power <= -9007199254740992.0;
  const double whole = large ? power : static_cast<double>(static_cast<std::int64_t>(power));
  const bool integer = whole == power;
  const bool odd = integer && !large && (static_cast<std::int64_t>(power) & 1);
  const bool negative = (bits_of(base) >> 63) && odd;
  double result;
  if (size == 0.0) {
    result = power > 0.0 ? 0.0 : __builtin_inf();
  } else if (size > 1.7976931348623157e308) {
    result = power > 0.0 ? __builtin_inf() : 0.0;
  } else if (base < 0.0 && !integer) {
    return __builtin_nan("");
  } else if (power == 0.5) {
    result = __builtin_sqrt(size);
  } else if (integer && power > 0.0 && power <= 8.0) {
    result = size;
    for (int i = 1; i < static_cast<int>(power); ++i) result *= size;
  } else {
    result = exponential(power * logarithm(size));
  }
  return negative ? -result : result;
}

}  // namespace DENSECAST_ISA
}  // namespace densecast
