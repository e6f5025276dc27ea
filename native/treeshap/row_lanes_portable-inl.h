// Vectors of 4 floats for the one-row kernel on any machine: the compiler's own vectors, and loops where they end.
#include <cstdint>
#include <cstring>

namespace xai::treeshap::portable {
namespace {

#define XAI_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 4;
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t Mask __attribute__((vector_size(kLanes * sizeof(float))));

XAI_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
XAI_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
XAI_INLINE Vec all(float v) { return Vec{} + v; }
XAI_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
XAI_INLINE Vec fnma(Vec a, Vec b, Vec c) { return c - a * b; }

// One bit for each lane.
using Bits = std::uint8_t;

XAI_INLINE Bits bits_at(const char* bits, std::size_t chunk) {
  return static_cast<Bits>(static_cast<std::uint8_t>(bits[chunk / 2]) >> (chunk % 2 * 4) & 0xF);
}
XAI_INLINE Mask mask_of(Bits bits) {
  const Mask lane = {1, 2, 4, 8};
  return (lane & static_cast<std::int32_t>(bits)) == lane;
}
// b - r.
XAI_INLINE Vec decision(Bits left, Vec r) { return (mask_of(left) ? all(1) : Vec{}) - r; }

// What lanes need whose player stands above them comes in whole vectors.
constexpr bool kPacked = false;
struct Spread {
  XAI_INLINE explicit Spread(Bits) {}
  XAI_INLINE Vec operator()(const float* p) const { return load(p); }
};
// Clears lanes whose bit is 0. Bit number `at` is for the first lane.
XAI_INLINE Vec keep(const char* bits, std::size_t at, Bits, Vec v) {
  return mask_of(bits_at(bits, at / kLanes)) ? v : Vec{};
}

// Moves lanes as a route of the plan says.
struct Permutation {
  std::uint8_t from[kLanes];
  XAI_INLINE explicit Permutation(const std::uint8_t* route) {
    for (int lane = 0; lane < kLanes; ++lane)
      from[lane] = static_cast<std::uint8_t>(route[lane] < kLanes ? route[lane] : kLanes + lane);
  }
  XAI_INLINE Vec operator()(Vec others, const float* p) const {
    float both[2 * kLanes], chosen[kLanes];
    std::memcpy(both, p, kLanes * sizeof(float));
    store(both + kLanes, others);
    for (int lane = 0; lane < kLanes; ++lane) chosen[lane] = both[from[lane]];
    return load(chosen);
  }
  XAI_INLINE Vec in_place(Vec others, const float* p) const { return (*this)(others, p); }
};

constexpr bool kHasPicks = false;
inline void pick(const float*, const std::uint8_t*, Vec*) {}

// Ranks or flags of features, looked up for 64 lanes at once.
template <int kColumns>
struct Table {
  const std::uint8_t* p;
  XAI_INLINE explicit Table(const std::uint8_t* table) : p(table) {}
  template <class Test>
  XAI_INLINE static std::uint64_t bits(Test test) {
    std::uint64_t result = 0;
    for (int i = 0; i < 64; ++i) result |= static_cast<std::uint64_t>(test(i)) << i;
    return result;
  }
  XAI_INLINE std::uint64_t at_most(const std::uint8_t* feature, const std::uint8_t* bound) const {
    return bits([&](int i) { return p[feature[i]] <= bound[i]; });
  }
  XAI_INLINE std::uint64_t within(const std::uint8_t* feature, const std::uint8_t* low_end,
                                  const std::uint8_t* width) const {
    return bits([&](int i) { return static_cast<std::uint8_t>(p[feature[i]] - low_end[i]) <= width[i]; });
  }
  XAI_INLINE std::uint64_t set(const std::uint8_t* feature) const {
    return bits([&](int i) { return p[feature[i]] != 0; });
  }
};

XAI_INLINE std::uint64_t not_less(Vec x, Vec bound) {
  std::uint64_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= static_cast<std::uint64_t>(x[lane] >= bound[lane]) << lane;
  return result;
}
XAI_INLINE std::uint64_t unordered(Vec x) {
  std::uint64_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= static_cast<std::uint64_t>(x[lane] != x[lane]) << lane;
  return result;
}

// How many of 16 ascending cuts (NaN behind the last) are not above x.
XAI_INLINE int count_not_above(const float* cuts, float x) {
  int count = 0;
  for (int i = 0; i < 16; ++i) count += x >= cuts[i];
  return count;
}

// Numbers of features, for kLanes lanes at once.
template <bool kFew>
struct Numbers {
  const float* p;
  XAI_INLINE explicit Numbers(const float* table) : p(table) {}
  XAI_INLINE Vec look_up(const std::uint16_t* feature) const {
    return Vec{p[feature[0]], p[feature[1]], p[feature[2]], p[feature[3]]};
  }
};

}  // namespace
}  // namespace xai::treeshap::portable
