// Vectors for the many-rows kernel: kParts of the compiler's own (GCC and Clang vector extensions), XAI_LANES floats
// each.
//
// Two parts where registers are short of lanes: what is the same for all rows (loads of the plan, calls, branches) is
// then done once for twice as many, and two chains of arithmetic hide each other's latency.
#include <cstdint>

namespace xai::treeshap::XAI_ISA {
namespace {

#define XAI_INLINE inline __attribute__((always_inline))
#define XAI_INLINE_LAMBDA __attribute__((always_inline))

constexpr int kParts = XAI_PARTS, kPartLanes = XAI_LANES, kLanes = kParts * kPartLanes;

typedef float FloatPart __attribute__((vector_size(kPartLanes * sizeof(float))));
typedef std::int32_t MaskPart __attribute__((vector_size(kPartLanes * sizeof(float))));

struct Mask {
  MaskPart part[kParts];
};

struct Vec {
  FloatPart part[kParts];
  Vec() = default;
  XAI_INLINE Vec(float value) {
    for (FloatPart& p : part) p = FloatPart{} + value;
  }
  XAI_INLINE float operator[](int lane) const { return part[lane / kPartLanes][lane % kPartLanes]; }
  XAI_INLINE void set(int lane, float value) { part[lane / kPartLanes][lane % kPartLanes] = value; }
};

template <class Result, class Of>
XAI_INLINE Result by_part(Of of) {
  Result result;
  for (int i = 0; i < kParts; ++i) result.part[i] = of(i);
  return result;
}

XAI_INLINE Vec operator+(const Vec& a, const Vec& b) {
  return by_part<Vec>([&](int i) { return a.part[i] + b.part[i]; });
}
XAI_INLINE Vec operator-(const Vec& a, const Vec& b) {
  return by_part<Vec>([&](int i) { return a.part[i] - b.part[i]; });
}
XAI_INLINE Vec operator*(const Vec& a, const Vec& b) {
  return by_part<Vec>([&](int i) { return a.part[i] * b.part[i]; });
}
XAI_INLINE Vec& operator+=(Vec& a, const Vec& b) { return a = a + b; }
XAI_INLINE Vec& operator-=(Vec& a, const Vec& b) { return a = a - b; }
XAI_INLINE Vec& operator*=(Vec& a, const Vec& b) { return a = a * b; }

XAI_INLINE Mask operator>=(const Vec& a, const Vec& b) {
  return by_part<Mask>([&](int i) { return a.part[i] >= b.part[i]; });
}
XAI_INLINE Mask is_nan(const Vec& a) {
  return by_part<Mask>([&](int i) { return a.part[i] != a.part[i]; });
}
XAI_INLINE Mask operator~(const Mask& a) {
  return by_part<Mask>([&](int i) { return ~a.part[i]; });
}
XAI_INLINE Mask operator&(const Mask& a, const Mask& b) {
  return by_part<Mask>([&](int i) { return a.part[i] & b.part[i]; });
}
XAI_INLINE Mask operator|(const Mask& a, const Mask& b) {
  return by_part<Mask>([&](int i) { return a.part[i] | b.part[i]; });
}
// All lanes or none.
XAI_INLINE Mask everywhere(bool value) {
  return by_part<Mask>([&](int) { return MaskPart{} - static_cast<std::int32_t>(value); });
}
XAI_INLINE Vec choose(const Mask& mask, const Vec& yes, const Vec& no) {
  return by_part<Vec>([&](int i) { return mask.part[i] ? yes.part[i] : no.part[i]; });
}
XAI_INLINE bool any(const Mask& mask) {
  for (const MaskPart& part : mask.part)
    for (int lane = 0; lane < kPartLanes; ++lane)
      if (part[lane]) return true;
  return false;
}

}  // namespace
}  // namespace xai::treeshap::XAI_ISA
