// What the one-row variant needs to take all decisions of a row before it computes anything from them: one bit for each
// lane, in the order in which the walk reads them.
//
// Where no column has more than 255 thresholds (histogram-trained models have that many bins), a value is compared
// with them once: its rank is how many of them are not above it. A split then compares bytes, 64 lanes to an
// instruction. In other models the values themselves are compared. NaN fails every comparison; a row that has any takes
// the bits that the splits' defaults say instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "treeshap/aligned.h"
#include "treeshap/forest.h"
#include "treeshap/path_facts.h"

namespace xai::treeshap {

struct RowDecisions {
  static constexpr std::size_t kWord = 64;                   // lanes decided together
  static constexpr std::size_t kMaxRanked = 128;             // columns whose ranks a table lookup can choose from
  static constexpr std::size_t kMaxCuts = 255;               // and the thresholds of each
  static constexpr std::size_t kCutsBefore = 16;             // each column's cuts follow every 16th of them ...
  static constexpr std::size_t kCutRow = 256 + kCutsBefore;  // ... and are padded with NaN
  static constexpr std::size_t kMaxColumns = 65536;

  std::vector<std::uint32_t>
      columns;                // of the model, ascending: those that any split compares. Below, indices into these
  bool ranked = false;        // whether ranks are compared, else values
  AlignedVector<float> cuts;  // ranked: kCutRow for each column

  // By lane: it goes left when rank <= rank_bound, or unless value >= value_bound.
  AlignedVector<std::uint8_t> rank_column, rank_bound;
  AlignedVector<std::uint16_t> value_column;
  AlignedVector<float> value_bound;
  AlignedVector<std::uint64_t> flipped;   // its children have changed sides
  AlignedVector<std::uint64_t> nan_left;  // where NaN goes, after that

  // By later split on a player: the row came along when low <= rank <= low + width, or low <= value < high. What is
  // asked of the player's other columns follows each sum's, a whole word further on, and takes bits away from these.
  AlignedVector<std::uint8_t> repeat_rank_column, repeat_rank_low, repeat_rank_width;
  AlignedVector<std::uint16_t> repeat_value_column;
  AlignedVector<float> repeat_value_low, repeat_value_high;
  AlignedVector<std::uint64_t> nan_along;
  std::vector<std::uint32_t> taken_from;  // by what is asked beside: whose bit, from the start of the sum

  std::size_t memory_bytes() const;
};

// Appends lanes to decisions.
class DecisionWriter {
 public:
  static constexpr std::uint32_t kNoNode = UINT32_MAX;

  DecisionWriter(RowDecisions& decisions, const Forest& forest, const ForestFacts& facts);

  void add_lane(std::uint32_t node, bool flipped);  // kNoNode: nobody looks at the bit
  void add_repeat(std::uint32_t node);
  void add_no_repeat();  // a bit that is always set
  // Ends a sum: fills the last words, so that what follows begins one, and adds what is asked of other columns.
  // Returns how many bits that are.
  std::size_t end_sum();

  std::size_t lanes() const { return lanes_; }
  std::size_t repeats() const { return repeats_; }

 private:
  void find_columns();
  void find_cuts();
  std::size_t rank_of(std::uint32_t column, float bound) const;
  void add_condition(const PathCondition& condition);

  RowDecisions& out_;
  const std::vector<Node>& nodes_;
  const ForestFacts& facts_;
  std::vector<std::uint32_t> index_of_;                  // by column of the model: its index in columns
  std::vector<std::vector<float>> cuts_;                 // by index
  std::size_t lanes_ = 0, repeats_ = 0, sum_begin_ = 0;  // sum_begin_: the first repeat of the sum at hand
  std::vector<PathCondition> beside_;  // what the sum at hand asks of other columns, and of whose bits
  std::vector<std::uint32_t> beside_of_;
};

}  // namespace xai::treeshap
