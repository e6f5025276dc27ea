#include "treeshap/row_decisions.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace xai::treeshap {
namespace {

bool is_leaf(const Node& node) { return node.kind == NodeKind::kLeaf; }

void set_bit(AlignedVector<std::uint64_t>& bits, std::size_t at, bool value) {
  if (at / RowDecisions::kWord == bits.size()) bits.push_back(0);
  bits[at / RowDecisions::kWord] |= static_cast<std::uint64_t>(value) << (at % RowDecisions::kWord);
}

template <class... Vectors>
std::size_t bytes_of(const Vectors&... vectors) {
  return (... + (vectors.size() * sizeof(*vectors.data())));
}

}  // namespace

DecisionWriter::DecisionWriter(RowDecisions& decisions, const Forest& forest, const ForestFacts& facts)
    : out_(decisions), nodes_(forest.nodes()), facts_(facts), index_of_(forest.n_columns(), 0) {
  find_columns();
  find_cuts();
}

void DecisionWriter::find_columns() {
  for (const Node& node : nodes_)
    if (!is_leaf(node)) index_of_[node.column] = 1;
  for (std::uint32_t column = 0; column < index_of_.size(); ++column)
    if (index_of_[column]) {
      index_of_[column] = static_cast<std::uint32_t>(out_.columns.size());
      out_.columns.push_back(column);
    }
}

void DecisionWriter::find_cuts() {
  cuts_.resize(out_.columns.size());
  out_.ranked = out_.columns.size() <= RowDecisions::kMaxRanked;
  for (const Node& node : nodes_) {
    if (is_leaf(node)) continue;
    const float bound = upper_bound_of_left(node);
    if (!std::isnan(bound)) cuts_[index_of_[node.column]].push_back(bound);
  }
  for (std::vector<float>& cuts : cuts_) {
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    out_.ranked &= cuts.size() <= RowDecisions::kMaxCuts;
  }
  // "No number comes along" takes a rank that no number has.
  for (std::size_t i = 0; i < nodes_.size(); ++i)
    if (!is_leaf(nodes_[i]) && facts_.node[i].repeated && facts_.node[i].above.no_number())
      out_.ranked &= cuts_[index_of_[nodes_[i].column]].size() < RowDecisions::kMaxCuts;
  for (const PathCondition& condition : facts_.conditions)
    if (condition.above.no_number()) out_.ranked &= cuts_[index_of_[condition.column]].size() < RowDecisions::kMaxCuts;
  if (!out_.ranked) return;
  constexpr std::size_t kBefore = RowDecisions::kCutsBefore;
  out_.cuts.assign(cuts_.size() * RowDecisions::kCutRow, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t column = 0; column < cuts_.size(); ++column) {
    float* row = out_.cuts.data() + column * RowDecisions::kCutRow;
    std::copy(cuts_[column].begin(), cuts_[column].end(), row + kBefore);
    for (std::size_t k = 0; k < kBefore; ++k) row[k] = row[kBefore + 16 * k + 15];
  }
}

std::size_t DecisionWriter::rank_of(std::uint32_t column, float bound) const {
  const std::vector<float>& cuts = cuts_[column];
  return std::lower_bound(cuts.begin(), cuts.end(), bound) - cuts.begin();
}

void DecisionWriter::add_lane(std::uint32_t index, bool flipped) {
  const bool empty = index == kNoNode;
  const std::uint32_t column = empty ? 0 : index_of_[nodes_[index].column];
  const float bound = empty ? 0.0F : upper_bound_of_left(nodes_[index]);
  if (out_.ranked) {
    const std::size_t rank = empty ? 0 : std::isnan(bound) ? RowDecisions::kMaxCuts : rank_of(column, bound);
    out_.rank_column.push_back(static_cast<std::uint8_t>(column));
    out_.rank_bound.push_back(static_cast<std::uint8_t>(rank));
  } else {
    out_.value_column.push_back(static_cast<std::uint16_t>(column));
    out_.value_bound.push_back(bound);
  }
  set_bit(out_.flipped, lanes_, flipped);
  set_bit(out_.nan_left, lanes_, !empty && nodes_[index].nan_left != flipped);
  ++lanes_;
}

void DecisionWriter::add_repeat(std::uint32_t index) {
  for (const PathCondition& other : facts_.others(index)) {
    beside_.push_back(other);
    beside_of_.push_back(static_cast<std::uint32_t>(repeats_ - sum_begin_));
  }
  add_condition({nodes_[index].column, facts_.node[index].above});
}

void DecisionWriter::add_condition(const PathCondition& condition) {
  const std::uint32_t column = index_of_[condition.column];
  if (out_.ranked) {
    std::size_t low = RowDecisions::kMaxCuts, width = 0;
    if (!condition.above.no_number()) {
      const std::vector<float>& cuts = cuts_[column];
      low = std::upper_bound(cuts.begin(), cuts.end(), condition.above.low) - cuts.begin();
      width = (std::isnan(condition.above.high) ? RowDecisions::kMaxCuts : rank_of(column, condition.above.high)) - low;
    }
    out_.repeat_rank_column.push_back(static_cast<std::uint8_t>(column));
    out_.repeat_rank_low.push_back(static_cast<std::uint8_t>(low));
    out_.repeat_rank_width.push_back(static_cast<std::uint8_t>(width));
  } else {
    out_.repeat_value_column.push_back(static_cast<std::uint16_t>(column));
    out_.repeat_value_low.push_back(condition.above.low);
    out_.repeat_value_high.push_back(condition.above.high);
  }
  set_bit(out_.nan_along, repeats_, condition.above.nan_along);
  ++repeats_;
}

void DecisionWriter::add_no_repeat() {
  add_condition({static_cast<std::int32_t>(out_.columns.front()), Along::anything()});
}

std::size_t DecisionWriter::end_sum() {
  while (lanes_ % RowDecisions::kWord) add_lane(kNoNode, false);
  const auto fill = [&] {
    while (repeats_ % RowDecisions::kWord) add_no_repeat();
  };
  fill();
  const std::size_t first = repeats_;
  for (const PathCondition& condition : beside_) add_condition(condition);
  fill();
  out_.taken_from.insert(out_.taken_from.end(), beside_of_.begin(), beside_of_.end());
  out_.taken_from.resize(out_.taken_from.size() + (repeats_ - first - beside_of_.size()));  // bits that are never 0
  beside_.clear();
  beside_of_.clear();
  sum_begin_ = repeats_;
  return repeats_ - first;
}

std::size_t RowDecisions::memory_bytes() const {
  return bytes_of(columns, cuts, rank_column, rank_bound, value_column, value_bound, flipped, nan_left,
                  repeat_rank_column, repeat_rank_low, repeat_rank_width, repeat_value_column, repeat_value_low,
                  repeat_value_high, nan_along, taken_from);
}

}  // namespace xai::treeshap
