// The AVX-512 that the one-row kernel asks for, lane by lane, in place of the compiler's <immintrin.h>: so that the
// kernel's AVX-512 form is held to the laws on machines without it. As Intel's Intrinsics Guide defines each.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

typedef float __m512 __attribute__((vector_size(64)));
typedef long long __m512i __attribute__((vector_size(64)));
typedef long long __m256i __attribute__((vector_size(32)));
typedef long long __m128i __attribute__((vector_size(16)));
using __mmask16 = std::uint16_t;
using __mmask64 = std::uint64_t;

constexpr int _CMP_GE_OQ = 29, _CMP_UNORD_Q = 3;

namespace emulated {

template <class T, int N>
struct Lanes {
  T lane[N];
  template <class V>
  static Lanes of(const V& v) {
    static_assert(sizeof(V) == sizeof(Lanes));
    Lanes lanes;
    std::memcpy(&lanes, &v, sizeof lanes);
    return lanes;
  }
  template <class V>
  V as() const {
    static_assert(sizeof(V) == sizeof(Lanes));
    V v;
    std::memcpy(&v, this, sizeof v);
    return v;
  }
};
using Floats = Lanes<float, 16>;
using Ints = Lanes<std::int32_t, 16>;
using Bytes = Lanes<std::uint8_t, 64>;

template <class V>
V load(const void* p, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(p) % alignment) std::abort();
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class Of>
__m512 floats(Of of) {
  Floats result;
  for (int i = 0; i < 16; ++i) result.lane[i] = of(i);
  return result.as<__m512>();
}
template <class Of>
__m512i bytes(Of of) {
  Bytes result;
  for (int i = 0; i < 64; ++i) result.lane[i] = of(i);
  return result.as<__m512i>();
}
template <class Of>
__m512i ints(Of of) {
  Ints result;
  for (int i = 0; i < 16; ++i) result.lane[i] = of(i);
  return result.as<__m512i>();
}
template <class Mask, class Of>
Mask mask(int lanes, Of of) {
  Mask result = 0;
  for (int i = 0; i < lanes; ++i) result |= static_cast<Mask>(static_cast<Mask>(of(i)) << i);
  return result;
}

}  // namespace emulated

inline __m512 _mm512_load_ps(const void* p) { return emulated::load<__m512>(p, 64); }
inline __m512 _mm512_loadu_ps(const void* p) { return emulated::load<__m512>(p, 1); }
inline __m512i _mm512_load_si512(const void* p) { return emulated::load<__m512i>(p, 64); }
inline __m256i _mm256_load_si256(const void* p) { return emulated::load<__m256i>(p, 32); }
inline __m128i _mm_loadu_si128(const void* p) { return emulated::load<__m128i>(p, 1); }
inline void _mm512_store_ps(void* p, __m512 v) {
  if (reinterpret_cast<std::uintptr_t>(p) % 64) std::abort();
  std::memcpy(p, &v, sizeof v);
}
inline __m512 _mm512_set1_ps(float f) { return __m512{} + f; }
inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512i _mm512_setzero_si512() { return __m512i{}; }

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return emulated::floats([&](int i) { return std::fma(a[i], b[i], c[i]); });
}
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(-a, b, c); }
inline __m512 _mm512_mask_sub_ps(__m512 others, __mmask16 m, __m512 a, __m512 b) {
  return emulated::floats([&](int i) { return m >> i & 1 ? a[i] - b[i] : others[i]; });
}
inline __m512 _mm512_maskz_mov_ps(__mmask16 m, __m512 a) {
  return emulated::floats([&](int i) { return m >> i & 1 ? a[i] : 0.0F; });
}
inline __m512 _mm512_mask_load_ps(__m512 others, __mmask16 m, const void* p) {
  const __m512 a = _mm512_load_ps(p);
  return emulated::floats([&](int i) { return m >> i & 1 ? a[i] : others[i]; });
}
inline __m512 _mm512_mask_expand_ps(__m512 others, __mmask16 m, __m512 a) {
  int next = 0;
  return emulated::floats([&](int i) { return m >> i & 1 ? a[next++] : others[i]; });
}
inline __m512 _mm512_mask_permutexvar_ps(__m512 others, __mmask16 m, __m512i from, __m512 a) {
  const auto index = emulated::Ints::of(from);
  return emulated::floats([&](int i) { return m >> i & 1 ? a[index.lane[i] & 15] : others[i]; });
}
inline __m512 _mm512_permutex2var_ps(__m512 low, __m512i from, __m512 high) {
  const auto index = emulated::Ints::of(from);
  return emulated::floats([&](int i) { return (index.lane[i] & 16 ? high : low)[index.lane[i] & 15]; });
}
inline __m512 _mm512_maskz_permutex2var_ps(__mmask16 m, __m512 low, __m512i from, __m512 high) {
  return _mm512_maskz_mov_ps(m, _mm512_permutex2var_ps(low, from, high));
}
inline __m512 _mm512_i32gather_ps(__m512i index, const void* p, int) {
  const auto at = emulated::Ints::of(index);
  return emulated::floats([&](int i) { return static_cast<const float*>(p)[at.lane[i]]; });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
  return emulated::mask<__mmask16>(
      16, [&](int i) { return how == _CMP_GE_OQ ? a[i] >= b[i] : std::isnan(a[i]) || std::isnan(b[i]); });
}

inline __m512i _mm512_permutexvar_epi8(__m512i from, __m512i a) {
  const auto index = emulated::Bytes::of(from), table = emulated::Bytes::of(a);
  return emulated::bytes([&](int i) { return table.lane[index.lane[i] & 63]; });
}
inline __m512i _mm512_permutex2var_epi8(__m512i low, __m512i from, __m512i high) {
  const auto index = emulated::Bytes::of(from), a = emulated::Bytes::of(low), b = emulated::Bytes::of(high);
  return emulated::bytes([&](int i) { return (index.lane[i] & 64 ? b : a).lane[index.lane[i] & 63]; });
}
inline __m512i _mm512_sub_epi8(__m512i x, __m512i y) {
  const auto a = emulated::Bytes::of(x), b = emulated::Bytes::of(y);
  return emulated::bytes([&](int i) { return static_cast<std::uint8_t>(a.lane[i] - b.lane[i]); });
}
inline __mmask64 _mm512_cmple_epu8_mask(__m512i x, __m512i y) {
  const auto a = emulated::Bytes::of(x), b = emulated::Bytes::of(y);
  return emulated::mask<__mmask64>(64, [&](int i) { return a.lane[i] <= b.lane[i]; });
}
inline __mmask64 _mm512_test_epi8_mask(__m512i x, __m512i y) {
  const auto a = emulated::Bytes::of(x), b = emulated::Bytes::of(y);
  return emulated::mask<__mmask64>(64, [&](int i) { return (a.lane[i] & b.lane[i]) != 0; });
}
inline __mmask16 _mm512_movepi32_mask(__m512i x) {
  const auto a = emulated::Ints::of(x);
  return emulated::mask<__mmask16>(16, [&](int i) { return a.lane[i] < 0; });
}
inline __m512i _mm512_cvtepi8_epi32(__m128i x) {
  const auto a = emulated::Lanes<std::int8_t, 16>::of(x);
  return emulated::ints([&](int i) { return a.lane[i]; });
}
inline __m512i _mm512_cvtepu8_epi32(__m128i x) {
  const auto a = emulated::Lanes<std::uint8_t, 16>::of(x);
  return emulated::ints([&](int i) { return a.lane[i]; });
}
inline __m512i _mm512_cvtepu16_epi32(__m256i x) {
  const auto a = emulated::Lanes<std::uint16_t, 16>::of(x);
  return emulated::ints([&](int i) { return a.lane[i]; });
}

// Puts the lowest bits of `bits` where `into` has any.
inline std::uint32_t _pdep_u32(std::uint32_t bits, std::uint32_t into) {
  std::uint32_t result = 0;
  for (int i = 0; i < 32; ++i)
    if (into >> i & 1) {
      result |= (bits & 1) << i;
      bits >>= 1;
    }
  return result;
}
