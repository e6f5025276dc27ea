#include "treeshap/row_decisions.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace xai::treeshap {
namespace {

bool is_leaf(const Node& node) { return node.kind == NodeKind::kLeaf; }

// Whether the splits above leave no number, only perhaps NaN.
bool no_number_along(const PathFacts& facts) {
  return std::isnan(facts.low) || (!std::isnan(facts.high) && facts.low >= facts.high);
}

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
    : out_(decisions), nodes_(forest.nodes()), facts_(facts), index_of_(forest.n_features(), 0) {
  find_features();
  find_cuts();
}

void DecisionWriter::find_features() {
  for (const Node& node : nodes_)
    if (!is_leaf(node)) index_of_[node.feature] = 1;
  for (std::uint32_t feature = 0; feature < index_of_.size(); ++feature)
    if (index_of_[feature]) {
      index_of_[feature] = static_cast<std::uint32_t>(out_.features.size());
      out_.features.push_back(feature);
    }
}

void DecisionWriter::find_cuts() {
  cuts_.resize(out_.features.size());
  out_.ranked = out_.features.size() <= RowDecisions::kMaxRanked;
  for (const Node& node : nodes_) {
    if (is_leaf(node)) continue;
    const float bound = upper_bound_of_left(node);
    if (!std::isnan(bound)) cuts_[index_of_[node.feature]].push_back(bound);
  }
  for (std::vector<float>& cuts : cuts_) {
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    out_.ranked &= cuts.size() <= RowDecisions::kMaxCuts;
  }
  // "No number comes along" takes a rank that no number has.
  for (std::size_t i = 0; i < nodes_.size(); ++i)
    if (!is_leaf(nodes_[i]) && facts_.node[i].repeated && no_number_along(facts_.node[i]))
      out_.ranked &= cuts_[index_of_[nodes_[i].feature]].size() < RowDecisions::kMaxCuts;
  if (!out_.ranked) return;
  constexpr std::size_t kBefore = RowDecisions::kCutsBefore;
  out_.cuts.assign(cuts_.size() * RowDecisions::kCutRow, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t feature = 0; feature < cuts_.size(); ++feature) {
    float* row = out_.cuts.data() + feature * RowDecisions::kCutRow;
    std::copy(cuts_[feature].begin(), cuts_[feature].end(), row + kBefore);
    for (std::size_t k = 0; k < kBefore; ++k) row[k] = row[kBefore + 16 * k + 15];
  }
}

std::size_t DecisionWriter::rank_of(std::uint32_t feature, float bound) const {
  const std::vector<float>& cuts = cuts_[feature];
  return std::lower_bound(cuts.begin(), cuts.end(), bound) - cuts.begin();
}

void DecisionWriter::add_lane(std::uint32_t index, bool flipped) {
  const bool empty = index == kNoNode;
  const std::uint32_t feature = empty ? 0 : index_of_[nodes_[index].feature];
  const float bound = empty ? 0.0F : upper_bound_of_left(nodes_[index]);
  if (out_.ranked) {
    const std::size_t rank = empty ? 0 : std::isnan(bound) ? RowDecisions::kMaxCuts : rank_of(feature, bound);
    out_.rank_feature.push_back(static_cast<std::uint8_t>(feature));
    out_.rank_bound.push_back(static_cast<std::uint8_t>(rank));
  } else {
    out_.value_feature.push_back(static_cast<std::uint16_t>(feature));
    out_.value_bound.push_back(bound);
  }
  set_bit(out_.flipped, lanes_, flipped);
  set_bit(out_.nan_left, lanes_, !empty && nodes_[index].nan_left != flipped);
  ++lanes_;
}

void DecisionWriter::add_repeat(std::uint32_t index) {
  const bool empty = index == kNoNode;
  const PathFacts facts = empty ? PathFacts{} : facts_.node[index];
  const std::uint32_t feature = empty ? 0 : index_of_[nodes_[index].feature];
  if (out_.ranked) {
    std::size_t low = RowDecisions::kMaxCuts, width = 0;
    if (!empty && !no_number_along(facts)) {
      const std::vector<float>& cuts = cuts_[feature];
      low = std::upper_bound(cuts.begin(), cuts.end(), facts.low) - cuts.begin();
      width = (std::isnan(facts.high) ? RowDecisions::kMaxCuts : rank_of(feature, facts.high)) - low;
    }
    out_.repeat_rank_feature.push_back(static_cast<std::uint8_t>(feature));
    out_.repeat_rank_low.push_back(static_cast<std::uint8_t>(low));
    out_.repeat_rank_width.push_back(static_cast<std::uint8_t>(width));
  } else {
    out_.repeat_value_feature.push_back(static_cast<std::uint16_t>(feature));
    out_.repeat_value_low.push_back(facts.low);
    out_.repeat_value_high.push_back(facts.high);
  }
  set_bit(out_.nan_along, repeats_, facts.nan_along);
  ++repeats_;
}

void DecisionWriter::fill_word() {
  while (lanes_ % RowDecisions::kWord) add_lane(kNoNode, false);
  while (repeats_ % RowDecisions::kWord) add_repeat(kNoNode);
}

std::size_t RowDecisions::memory_bytes() const {
  return bytes_of(features, cuts, rank_feature, rank_bound, value_feature, value_bound, flipped, nan_left,
                  repeat_rank_feature, repeat_rank_low, repeat_rank_width, repeat_value_feature, repeat_value_low,
                  repeat_value_high, nan_along);
}

}  // namespace xai::treeshap
