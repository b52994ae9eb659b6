#include "base/random.h"

#include <bit>
#include <cmath>
#include <span>

#include "base/error.h"

namespace tessera {

/// Natural logarithm of a positive normal number: x = 2^e m with m in [sqrt(1/2), sqrt(2)),
/// ln m = 2 artanh((m - 1) / (m + 1)) by its series.
static double logarithm(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  double exponent = static_cast<double>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent += 1;
  }
  const double s = (m - 1) / (m + 1), square = s * s;  // |s| < 0.172: eleven terms leave less than 1e-18
  double series = 0;
  for (int odd = 21; odd >= 1; odd -= 2) series = series * square + 1.0 / odd;
  return exponent * 0.69314718055994530942 + 2 * s * series;
}

static double polynomial(std::span<const double, 8> coefficients, double x) {
  double value = coefficients[7];
  for (int power = 6; power >= 0; power--) value = value * x + coefficients[power];
  return value;
}

/// Numerator and denominator of a rational approximation, the constant term first.
struct Rational {
  std::array<double, 8> over, under;
  double operator()(double x) const { return polynomial(over, x) / polynomial(under, x); }
};

// AS 241, PPND16: the centre in 0.425^2 - (p - 1/2)^2, the tails in sqrt(-ln p) less 1.6 or 5.
static constexpr Rational centre = {{3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                                     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
                                    {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                                     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}};
static constexpr Rational tail = {
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0, 1.27045825245236838258e0,
     2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
static constexpr Rational far_tail = {
    {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1, 2.65321895265761230930e-2,
     1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
    {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};

double normal_quantile(double p) {
  const double q = p - 0.5;
  if (q >= -0.425 && q <= 0.425) return q * centre(0.180625 - q * q);
  const double r = std::sqrt(-logarithm(q < 0 ? p : 1 - p));
  const double size = r <= 5 ? tail(r - 1.6) : far_tail(r - 5);
  return q < 0 ? -size : size;
}

/// The finalizer of splitmix64 (Steele, Lea and Flood 2014): every bit of x moves every bit of the result.
static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

static uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

RandomStream::RandomStream(uint64_t seed, RandomPurpose purpose, std::string_view name, uint64_t step) : step_(step) {
  constexpr uint64_t golden = 0x9E3779B97F4A7C15;
  const uint64_t key = mix(mix(mix(seed + golden) + static_cast<uint64_t>(purpose) * golden) + fnv1a(name));
  key_ = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

static uint64_t first_two(const std::array<uint32_t, 4>& words) { return uint64_t{words[1]} << 32 | words[0]; }

double RandomStream::uniform(uint64_t i) const { return static_cast<double>(first_two(words(i)) >> 11) * 0x1p-53; }

float RandomStream::normal(uint64_t i) const {
  // The middles of the lower half are exact in 54 bits, those of the upper half are not: mirror them, so that both tails are alike.
  const uint64_t cell = first_two(words(i)) >> 11;
  const bool upper = cell >> 52;
  const double size = -normal_quantile((static_cast<double>(upper ? (1ULL << 53) - 1 - cell : cell) + 0.5) * 0x1p-53);
  return static_cast<float>(upper ? size : -size);
}

uint64_t RandomStream::below(uint64_t i, uint64_t bound) const {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(first_two(words(i))) * bound) >> 64);
}

uint64_t permute(const RandomStream& stream, uint64_t i, uint64_t n) {
  invariant(i < n && n <= uint64_t{1} << 62, "permute: the index is not below n, or n exceeds 2^62");
  const int half_bits = (std::bit_width(n - 1) + 1) / 2;  // the network permutes [0, 4^half_bits), less than 4 n elements
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  do {
    uint64_t left = i >> half_bits, right = i & mask;
    for (uint64_t round = 0; round < 4; round++) {
      const uint64_t turned = left ^ (stream.words(round << 32 | right)[0] & mask);
      left = right;
      right = turned;
    }
    i = left << half_bits | right;
  } while (i >= n);  // walk the cycle until it comes back into [0, n): a bijection too
  return i;
}

}  // namespace tessera
