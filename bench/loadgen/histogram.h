// Counts of durations in buckets 0.4 % wide, from 1 ns to hours: percentiles without keeping every value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace loadgen {

class Histogram {
 public:
  void add(int64_t ns) {
    const uint64_t value = static_cast<uint64_t>(std::max<int64_t>(ns, 0));
    ++buckets_[index(value)];
    ++count_;
    sum_ += static_cast<double>(value);
    max_ = std::max(max_, value);
  }

  uint64_t count() const { return count_; }
  double mean_ns() const { return count_ ? sum_ / static_cast<double>(count_) : 0.0; }
  uint64_t max_ns() const { return max_; }

  // Calls see(low_ns, high_ns, count) for each bucket that holds something, in ascending order: [low, high).
  template <typename See>
  void each(See see) const {
    for (size_t i = 0; i < buckets_.size(); ++i) {
      if (buckets_[i]) see(low(i), low(i + 1), buckets_[i]);
    }
  }

 private:
  // Values below 2^kBits have a bucket each; above, every power of two is cut into 2^kBits equal parts.
  static constexpr int kBits = 8;
  static constexpr int kPowers = 36;

  static size_t index(uint64_t value) {
    if (value < (1u << kBits)) return value;
    const int shift = 63 - __builtin_clzll(value) - kBits;
    const size_t place = (static_cast<size_t>(shift + 1) << kBits) + ((value >> shift) - (1u << kBits));
    return std::min(place, kSize - 1);
  }

  static uint64_t low(size_t i) {
    if (i < (1u << kBits)) return i;
    const size_t shift = (i >> kBits) - 1;
    return ((i & ((1u << kBits) - 1)) + (1u << kBits)) << shift;
  }

  static constexpr size_t kSize = static_cast<size_t>(kPowers) << kBits;
  std::vector<uint64_t> buckets_ = std::vector<uint64_t>(kSize);
  uint64_t count_ = 0, max_ = 0;
  double sum_ = 0;
};

}  // namespace loadgen
