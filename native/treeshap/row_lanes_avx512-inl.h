// Vectors of 16 floats for the one-row kernel: AVX-512.
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace xai::treeshap::avx512 {
namespace {

#define XAI_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;
using Vec = __m512;

XAI_INLINE Vec load(const float* p) { return _mm512_load_ps(p); }
XAI_INLINE void store(float* p, Vec v) { _mm512_store_ps(p, v); }
XAI_INLINE Vec all(float v) { return _mm512_set1_ps(v); }
XAI_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
XAI_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }

// One bit for each lane.
using Bits = std::uint16_t;

XAI_INLINE Bits bits_at(const char* bits, std::size_t chunk) {
  Bits result;
  std::memcpy(&result, bits + chunk * sizeof result, sizeof result);
  return result;
}

// b - r.
XAI_INLINE Vec decision(Bits left, Vec r) {
  return _mm512_mask_sub_ps(_mm512_sub_ps(_mm512_setzero_ps(), r), left, _mm512_set1_ps(1.0F), r);
}
// What lanes need whose player stands above them is packed: there is nothing for the others.
constexpr bool kPacked = true;
// Clears those of `lanes` whose bit is 0. Bit number `at` is for the first of `lanes`.
XAI_INLINE Vec keep(const char* bits, std::size_t at, Bits lanes, Vec v) {
  std::uint32_t packed;
  std::memcpy(&packed, bits + at / 8, sizeof packed);
  packed >>= at % 8;
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(_pdep_u32(packed, lanes) | ~static_cast<std::uint32_t>(lanes)), v);
}

// Puts consecutive floats into some lanes, 1 into the others.
struct Spread {
  __mmask16 lanes;
  XAI_INLINE explicit Spread(Bits bits) : lanes(bits) {}
  XAI_INLINE Vec operator()(const float* p) const {
    return _mm512_mask_expand_ps(_mm512_set1_ps(1.0F), lanes, _mm512_loadu_ps(p));
  }
};

// Moves lanes as a route of the plan says.
struct Permutation {
  __m512i from;
  __mmask16 moved;
  XAI_INLINE explicit Permutation(const std::uint8_t* route)
      : from(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(route)))),
        moved(static_cast<__mmask16>(~_mm512_movepi32_mask(from))) {}
  XAI_INLINE Vec operator()(Vec others, const float* p) const {
    return _mm512_mask_permutexvar_ps(others, moved, from, _mm512_load_ps(p));
  }
  XAI_INLINE Vec in_place(Vec others, const float* p) const { return _mm512_mask_load_ps(others, moved, p); }
};

// Sums of chosen lanes of two vectors.
constexpr bool kHasPicks = true;
XAI_INLINE void pick(const float* p, const std::uint8_t* entry, Vec* sums) {
  const Vec low = load(p), high = load(p + kLanes);
  for (int a = 0; a < 4; ++a) {
    const __m512i from = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entry + 16 * a)));
    std::uint16_t mask;
    std::memcpy(&mask, entry + 64 + 2 * a, sizeof mask);
    sums[a] = _mm512_add_ps(sums[a], _mm512_maskz_permutex2var_ps(mask, low, from, high));
  }
}

// Ranks or flags of features, looked up for 64 lanes at once.
template <int kColumns>
struct Table {
  static constexpr bool kWide = kColumns > 64;
  __m512i low, high;
  XAI_INLINE explicit Table(const std::uint8_t* p)
      : low(_mm512_load_si512(p)), high(kWide ? _mm512_load_si512(p + 64) : _mm512_setzero_si512()) {}
  XAI_INLINE __m512i look_up(const std::uint8_t* feature) const {
    const __m512i index = _mm512_load_si512(feature);
    return kWide ? _mm512_permutex2var_epi8(low, index, high) : _mm512_permutexvar_epi8(index, low);
  }
  XAI_INLINE std::uint64_t at_most(const std::uint8_t* feature, const std::uint8_t* bound) const {
    return _mm512_cmple_epu8_mask(look_up(feature), _mm512_load_si512(bound));
  }
  XAI_INLINE std::uint64_t within(const std::uint8_t* feature, const std::uint8_t* low_end,
                                  const std::uint8_t* width) const {
    return _mm512_cmple_epu8_mask(_mm512_sub_epi8(look_up(feature), _mm512_load_si512(low_end)),
                                  _mm512_load_si512(width));
  }
  XAI_INLINE std::uint64_t set(const std::uint8_t* feature) const {
    const __m512i flag = look_up(feature);
    return _mm512_test_epi8_mask(flag, flag);
  }
};

// How many of 16 ascending cuts (NaN behind the last) are not above x.
XAI_INLINE int count_not_above(const float* cuts, float x) {
  return __builtin_popcount(_mm512_cmp_ps_mask(_mm512_set1_ps(x), _mm512_load_ps(cuts), _CMP_GE_OQ));
}

// Numbers of features, for kLanes lanes at once. At most 32 features stand in registers.
template <bool kFew>
struct Numbers {
  const float* p;
  __m512 low, high;
  XAI_INLINE explicit Numbers(const float* table)
      : p(table), low(_mm512_load_ps(table)), high(_mm512_load_ps(table + 16)) {}
  XAI_INLINE Vec look_up(const std::uint16_t* feature) const {
    const __m512i index = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(feature)));
    return kFew ? _mm512_permutex2var_ps(low, index, high) : _mm512_i32gather_ps(index, p, 4);
  }
};
XAI_INLINE std::uint64_t not_less(Vec x, Vec bound) { return _mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ); }
XAI_INLINE std::uint64_t unordered(Vec x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }

}  // namespace
}  // namespace xai::treeshap::avx512
