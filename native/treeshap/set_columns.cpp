#include "treeshap/set_columns.h"

#include <algorithm>
#include <limits>
#include <string>

#include "treeshap/forest.h"

namespace xai::treeshap {

SetColumns::SetColumns(std::int32_t n_features, const std::vector<Set>& sets)
    : n_features_(n_features), n_columns_(sets.size()) {
  std::size_t n_bits = 0;
  for (std::size_t begin = 0; begin < sets.size();) {
    std::size_t end = begin;
    Family family{sets[begin].feature, static_cast<std::int32_t>(n_features + begin), 0, {}, {}};
    for (; end < sets.size() && sets[end].feature == family.feature; ++end)
      family.values.insert(family.values.end(), sets[end].values.begin(), sets[end].values.end());
    family.n_columns = static_cast<std::int32_t>(end - begin);
    std::sort(family.values.begin(), family.values.end());
    family.values.erase(std::unique(family.values.begin(), family.values.end()), family.values.end());
    n_bits += family.values.size() * family.words() * 64;
    if (n_bits > kMaxBits)
      throw InvalidForest(
          "its categorical splits ask for too many sets of too many values: values times sets are more than " +
          std::to_string(kMaxBits));
    family.bits.assign(family.values.size() * family.words(), 0);
    for (std::size_t set = begin; set < end; ++set)
      for (float value : sets[set].values) {
        const auto at = std::lower_bound(family.values.begin(), family.values.end(), value) - family.values.begin();
        family.bits[at * family.words() + (set - begin) / 64] |= std::uint64_t{1} << ((set - begin) % 64);
      }
    families_.push_back(std::move(family));
    begin = end;
  }
}

const std::uint64_t* SetColumns::Family::find(float number) const {
  const auto at = std::lower_bound(values.begin(), values.end(), number);
  return at != values.end() && *at == number ? bits.data() + (at - values.begin()) * words() : nullptr;
}

float SetColumns::value(std::int32_t column, const float* row) const {
  const auto family = std::upper_bound(families_.begin(), families_.end(), column,
                                       [](std::int32_t c, const Family& f) { return c < f.first_column; }) -
                      1;
  const float number = row[family->feature];
  if (number != number) return number;
  const std::uint64_t* const bits = family->find(number);
  const std::int32_t at = column - family->first_column;
  return bits && (bits[at / 64] >> (at % 64) & 1) ? 0.0F : 1.0F;
}

std::vector<float> SetColumns::widened(const float* rows, std::size_t begin, std::size_t end) const {
  const auto n_features = static_cast<std::size_t>(n_features_);
  const std::size_t width = n_features + n_columns_;
  std::vector<float> wide((end - begin) * width);
  for (std::size_t row = begin; row < end; ++row) {
    const float* const from = rows + row * n_features;
    float* const to = wide.data() + (row - begin) * width;
    std::copy_n(from, n_features, to);
    for (const Family& family : families_) {
      const float number = from[family.feature];
      float* const columns = to + family.first_column;
      const std::uint64_t* const bits = number == number ? family.find(number) : nullptr;
      std::fill_n(columns, family.n_columns, number == number ? 1.0F : number);
      if (!bits) continue;
      for (std::int32_t column = 0; column < family.n_columns; ++column)
        columns[column] = static_cast<float>(~bits[column / 64] >> (column % 64) & 1);
    }
  }
  return wide;
}

std::size_t SetColumns::memory_bytes() const {
  std::size_t bytes = families_.size() * sizeof(Family);
  for (const Family& family : families_)
    bytes += family.values.size() * sizeof(float) + family.bits.size() * sizeof(std::uint64_t);
  return bytes;
}

}  // namespace xai::treeshap
