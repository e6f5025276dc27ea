#include "treeshap/path_facts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace xai::treeshap {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// What is known of a feature on the current path.
struct Seen {
  double merged = 1;
  float low = -kInfinity;
  float high = kNaN;  // no bound: `value >= NaN` never holds
  bool nan_along = true;
  int splits = 0;
};

class Annotator {
 public:
  explicit Annotator(const Forest& forest) : forest_(forest), seen_(forest.n_features()) {
    facts_.node.resize(forest.nodes().size());
    facts_.distinct.reserve(forest.n_trees());
  }

  ForestFacts run() {
    for (std::uint32_t root : forest_.roots()) {
      most_ = 0;
      limit_at_zero_ = true;
      stack_.push_back({root, 0, 1.0, -1, {}});
      while (!stack_.empty()) {
        const Visit visit = stack_.back();
        stack_.pop_back();
        leave_until(std::max(visit.depth - 1, 0));
        if (visit.feature >= 0) enter(visit.feature, visit.seen);
        add(visit);
      }
      leave_until(0);
      facts_.distinct.push_back(most_);
      facts_.limit_at_zero.push_back(limit_at_zero_);
      facts_.most_distinct = std::max(facts_.most_distinct, most_);
    }
    return std::move(facts_);
  }

 private:
  struct Visit {
    std::uint32_t node;
    int depth;
    double reach;
    std::int32_t feature;  // that the parent splits on, -1 at a root
    Seen seen;             // what is known of it here and below
  };

  void enter(std::int32_t feature, const Seen& seen) {
    distinct_ += seen_[feature].splits == 0;
    undo_.emplace_back(feature, seen_[feature]);
    seen_[feature] = seen;
  }

  void leave_until(int depth) {
    for (; static_cast<int>(undo_.size()) > depth; undo_.pop_back()) {
      seen_[undo_.back().first] = undo_.back().second;
      distinct_ -= undo_.back().second.splits == 0;
    }
  }

  void add(const Visit& visit) {
    const Node& node = forest_.nodes()[visit.node];
    PathFacts& facts = facts_.node[visit.node];
    facts.reach = visit.reach;
    if (node.kind == NodeKind::kLeaf) {
      most_ = std::max(most_, distinct_);
      return;
    }
    const double left_cover = forest_.cover()[node.left], right_cover = forest_.cover()[node.right];
    const double both = left_cover + right_cover;
    const Seen above = seen_[node.feature];
    facts.ratio = both > 0 ? left_cover / both : 0.5;
    facts.merged = above.merged;
    facts.low = above.low;
    facts.high = above.high;
    facts.nan_along = above.nan_along;
    facts.repeated = above.splits > 0;
    if (facts.repeated && facts.merged == 0) limit_at_zero_ = false;

    const float bound = upper_bound_of_left(node);
    Seen left = above, right = above;
    ++left.splits, ++right.splits;
    left.merged *= facts.ratio;
    left.high = std::isnan(above.high) ? bound : std::isnan(bound) ? above.high : std::min(above.high, bound);
    left.nan_along = above.nan_along && node.nan_left;
    right.merged *= 1 - facts.ratio;
    right.low = std::isnan(bound) ? kNaN : std::isnan(above.low) ? kNaN : std::max(above.low, bound);
    right.nan_along = above.nan_along && !node.nan_left;
    stack_.push_back({node.right, visit.depth + 1, visit.reach * (1 - facts.ratio), node.feature, right});
    stack_.push_back({node.left, visit.depth + 1, visit.reach * facts.ratio, node.feature, left});
  }

  const Forest& forest_;
  ForestFacts facts_;
  std::vector<Seen> seen_;                           // by feature
  std::vector<std::pair<std::int32_t, Seen>> undo_;  // by depth: what to restore on leaving a split's child
  std::vector<Visit> stack_;
  int distinct_ = 0, most_ = 0;
  bool limit_at_zero_ = true;
};

}  // namespace

float upper_bound_of_left(const Node& split) {
  if (split.kind == NodeKind::kLess) return split.threshold;
  return split.threshold == kInfinity ? kNaN : std::nextafter(split.threshold, kInfinity);
}

ForestFacts path_facts(const Forest& forest) {
  require_covers(forest);
  return Annotator(forest).run();
}

}  // namespace xai::treeshap
