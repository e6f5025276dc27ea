// Vectors of 8 floats for the one-row kernel: AVX2 and FMA, and no BMI2, whose PDEP is slow where AVX-512 is lacking.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace xai::treeshap::avx2 {
namespace {

#define XAI_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 8;
using Vec = __m256;

XAI_INLINE Vec load(const float* p) { return _mm256_load_ps(p); }
XAI_INLINE void store(float* p, Vec v) { _mm256_store_ps(p, v); }
XAI_INLINE Vec all(float v) { return _mm256_set1_ps(v); }
XAI_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
XAI_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }

// One bit for each lane, and others above them that mean nothing: so that one load brings them into all lanes.
using Bits = std::uint32_t;

XAI_INLINE Bits bits_at(const char* bits, std::size_t chunk) {
  Bits result;
  std::memcpy(&result, bits + chunk, sizeof result);
  return result;
}

XAI_INLINE Vec mask_of(Bits bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane), lane));
}
// b - r.
XAI_INLINE Vec decision(Bits left, Vec r) {
  return _mm256_sub_ps(_mm256_and_ps(mask_of(left), _mm256_set1_ps(1.0F)), r);
}

// What lanes need whose player stands above them comes in whole vectors: it would take a permute and a blend to put
// packed floats into their lanes, and a dozen instructions to do so with bits.
constexpr bool kPacked = false;
struct Spread {
  XAI_INLINE explicit Spread(Bits) {}
  XAI_INLINE Vec operator()(const float* p) const { return load(p); }
};
// Clears lanes whose bit is 0. Bit number `at` is for the first lane.
XAI_INLINE Vec keep(const char* bits, std::size_t at, Bits, Vec v) {
  return _mm256_and_ps(mask_of(bits_at(bits, at / kLanes)), v);
}

// Moves lanes as a route of the plan says.
struct Permutation {
  __m256i from;
  XAI_INLINE explicit Permutation(const std::uint8_t* route)
      : from(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(route)))) {}
  XAI_INLINE Vec operator()(Vec others, const float* p) const {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_load_ps(p), from), others, _mm256_castsi256_ps(from));
  }
  XAI_INLINE Vec in_place(Vec others, const float* p) const {
    return _mm256_blendv_ps(_mm256_load_ps(p), others, _mm256_castsi256_ps(from));
  }
};

constexpr bool kHasPicks = false;
inline void pick(const float*, const std::uint8_t*, Vec*) {}

// Ranks or flags of features, looked up for 64 lanes at once; 16 features to a register.
template <int kColumns>
struct Table {
  static constexpr int kParts = kColumns / 16;
  const std::uint8_t* p;
  XAI_INLINE explicit Table(const std::uint8_t* table) : p(table) {}
  XAI_INLINE __m256i look_up(const std::uint8_t* feature) const {
    const __m256i index = _mm256_load_si256(reinterpret_cast<const __m256i*>(feature));
    const auto entries = [&](int part) {
      return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p + 16 * part)));
    };
    if constexpr (kParts == 2)  // bit 4 says which
      return _mm256_blendv_epi8(_mm256_shuffle_epi8(entries(0), index), _mm256_shuffle_epi8(entries(1), index),
                                _mm256_slli_epi16(index, 3));
    __m256i found = _mm256_setzero_si256();
    for (int part = 0; part < kParts; ++part) {
      // Indices outside of this part get their highest bit set, which looks up 0.
      const __m256i local = _mm256_adds_epu8(_mm256_sub_epi8(index, _mm256_set1_epi8(static_cast<char>(16 * part))),
                                             _mm256_set1_epi8(0x70));
      found = _mm256_or_si256(found, _mm256_shuffle_epi8(entries(part), local));
    }
    return found;
  }
  XAI_INLINE static std::uint32_t le(__m256i a, const std::uint8_t* b) {
    const __m256i bound = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(a, bound), a)));
  }
  template <class Half>
  XAI_INLINE static std::uint64_t both(Half half) {
    const std::uint64_t low = half(0), high = half(32);
    return low | high << 32;
  }
  XAI_INLINE std::uint64_t at_most(const std::uint8_t* feature, const std::uint8_t* bound) const {
    return both([&](int at) { return le(look_up(feature + at), bound + at); });
  }
  XAI_INLINE std::uint64_t within(const std::uint8_t* feature, const std::uint8_t* low_end,
                                  const std::uint8_t* width) const {
    return both([&](int at) {
      const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(low_end + at));
      return le(_mm256_sub_epi8(look_up(feature + at), low), width + at);
    });
  }
  XAI_INLINE std::uint64_t set(const std::uint8_t* feature) const {
    return both([&](int at) {
      return ~static_cast<std::uint32_t>(
          _mm256_movemask_epi8(_mm256_cmpeq_epi8(look_up(feature + at), _mm256_setzero_si256())));
    });
  }
};

XAI_INLINE std::uint64_t not_less(Vec x, Vec bound) {
  return static_cast<std::uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GE_OQ)));
}
XAI_INLINE std::uint64_t unordered(Vec x) {
  return static_cast<std::uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

// How many of 16 ascending cuts (NaN behind the last) are not above x.
XAI_INLINE int count_not_above(const float* cuts, float x) {
  return __builtin_popcount(
      static_cast<std::uint32_t>(not_less(all(x), load(cuts)) | not_less(all(x), load(cuts + 8)) << 8));
}

// Numbers of features, for kLanes lanes at once. At most 32 features stand in registers, 8 to each.
template <bool kFew>
struct Numbers {
  const float* p;
  Vec part[4];
  XAI_INLINE explicit Numbers(const float* table)
      : p(table), part{load(table), load(table + 8), load(table + 16), load(table + 24)} {}
  XAI_INLINE Vec look_up(const std::uint16_t* feature) const {
    const __m256i index = _mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(feature)));
    if constexpr (!kFew) return _mm256_i32gather_ps(p, index, 4);
    const Vec eight = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    const Vec sixteen = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
    const Vec low =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(part[0], index), _mm256_permutevar8x32_ps(part[1], index), eight);
    const Vec high =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(part[2], index), _mm256_permutevar8x32_ps(part[3], index), eight);
    return _mm256_blendv_ps(low, high, sixteen);
  }
};

}  // namespace
}  // namespace xai::treeshap::avx2
