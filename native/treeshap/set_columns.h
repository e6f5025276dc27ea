// Categorical splits as numeric ones: for each set of values that splits ask for, a column that says whether a row's
// value is in it.
//
// The column holds 0 where the value is in the set, 1 where it is not, and NaN where the value is NaN; the split goes
// left below 1/2. So no kernel knows of sets. The columns of one feature count as one player (forest.h), as they must:
// they are one fact about the row.
//
// Values that no set tells apart are of one class, and a class's row of bits is all that its columns can say.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace xai::treeshap {

class SetColumns {
 public:
  static constexpr float kThreshold = 0.5F;                      // a split on a column goes left below it
  static constexpr std::size_t kMaxBits = std::size_t{1} << 30;  // 128 MiB

  // A set that splits ask for; its values ascend, without NaN and -0.
  struct Set {
    std::int32_t feature;
    std::vector<float> values;
    auto operator<=>(const Set&) const = default;
  };

  SetColumns() = default;
  // `sets` ascend and differ; set i has column n_features + i. Throws InvalidForest when they are too many.
  SetColumns(std::int32_t n_features, const std::vector<Set>& sets);

  bool empty() const { return families_.empty(); }
  std::size_t size() const { return n_columns_; }

  // What `column`, n_features or above, holds for a row of n_features values.
  float value(std::int32_t column, const float* row) const;

  // How many rows to widen at a time, so that they stay within some MiB.
  std::size_t rows_together() const {
    return std::clamp<std::size_t>((std::size_t{1} << 22) / (n_features_ + n_columns_), 1, 1024);
  }

  // Rows [begin, end) of n_features values, each followed by its columns.
  std::vector<float> widened(const float* rows, std::size_t begin, std::size_t end) const;

  std::size_t memory_bytes() const;

 private:
  // All sets of one feature.
  struct Family {
    std::int32_t feature, first_column, n_columns;
    std::vector<float> values;        // in any of the sets, ascending
    std::vector<std::uint64_t> bits;  // by value, whole words: for each column, whether the value is in its set
    std::size_t words() const { return (static_cast<std::size_t>(n_columns) + 63) / 64; }
    // The bits of a number's class, null where it is in none of the sets.
    const std::uint64_t* find(float number) const;
  };

  std::int32_t n_features_ = 0;
  std::size_t n_columns_ = 0;
  std::vector<Family> families_;  // by column
};

// Calls run(wide, from, to) for runs [from, to) of the rows [begin, end), `wide` pointing at the columns of row `from`;
// all at once where rows need no widening (`sets` null), else few at a time.
template <class Run>
void for_columns(const SetColumns* sets, int n_features, const float* rows, std::size_t begin, std::size_t end,
                 Run run) {
  if (begin == end) return;  // no rows: their pointers may be null
  if (!sets) return run(rows + begin * n_features, begin, end);
  for (std::size_t from = begin, to; from < end; from = to) {
    to = std::min(end, from + sets->rows_together());
    run(sets->widened(rows, from, to).data(), from, to);
  }
}

}  // namespace xai::treeshap
