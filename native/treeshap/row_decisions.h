// What the one-row variant needs to take all decisions of a row before it computes anything from them: one bit for each
// lane, in the order in which the walk reads them.
//
// Where no feature has more than 255 thresholds (histogram-trained models have that many bins), a value is compared
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
  static constexpr std::size_t kMaxRanked = 128;             // features whose ranks a table lookup can choose from
  static constexpr std::size_t kMaxCuts = 255;               // and their thresholds
  static constexpr std::size_t kCutsBefore = 16;             // each feature's cuts follow every 16th of them ...
  static constexpr std::size_t kCutRow = 256 + kCutsBefore;  // ... and are padded with NaN
  static constexpr std::size_t kMaxFeatures = 65536;

  std::vector<std::uint32_t> features;  // of the model, ascending: those that any split uses. Below, indices into these
  bool ranked = false;                  // whether ranks are compared, else values
  AlignedVector<float> cuts;            // ranked: kCutRow for each feature

  // By lane: it goes left when rank <= rank_bound, or unless value >= value_bound.
  AlignedVector<std::uint8_t> rank_feature, rank_bound;
  AlignedVector<std::uint16_t> value_feature;
  AlignedVector<float> value_bound;
  AlignedVector<std::uint64_t> flipped;   // its children have changed sides
  AlignedVector<std::uint64_t> nan_left;  // where NaN goes, after that

  // By later split on a feature: the row came along when low <= rank <= low + width, or low <= value < high.
  AlignedVector<std::uint8_t> repeat_rank_feature, repeat_rank_low, repeat_rank_width;
  AlignedVector<std::uint16_t> repeat_value_feature;
  AlignedVector<float> repeat_value_low, repeat_value_high;
  AlignedVector<std::uint64_t> nan_along;

  std::size_t memory_bytes() const;
};

// Appends lanes to decisions.
class DecisionWriter {
 public:
  static constexpr std::uint32_t kNoNode = UINT32_MAX;

  DecisionWriter(RowDecisions& decisions, const Forest& forest, const ForestFacts& facts);

  void add_lane(std::uint32_t node, bool flipped);  // kNoNode: nobody looks at the bit
  void add_repeat(std::uint32_t node);
  void fill_word();  // so that what follows begins a word

  std::size_t lanes() const { return lanes_; }
  std::size_t repeats() const { return repeats_; }

 private:
  void find_features();
  void find_cuts();
  std::size_t rank_of(std::uint32_t feature, float bound) const;

  RowDecisions& out_;
  const std::vector<Node>& nodes_;
  const ForestFacts& facts_;
  std::vector<std::uint32_t> index_of_;   // by feature of the model: its index in features
  std::vector<std::vector<float>> cuts_;  // by index
  std::size_t lanes_ = 0, repeats_ = 0;
};

}  // namespace xai::treeshap
