#include "treeshap/path_facts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace xai::treeshap {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// What is known on the current path of a column, and of a player.
struct ColumnSeen {
  Along along = Along::anything();
  int splits = 0;
};
struct PlayerSeen {
  double merged = 1;
  int splits = 0;
};

class Annotator {
 public:
  explicit Annotator(const Forest& forest)
      : forest_(forest), column_(forest.n_columns()), player_(forest.n_players()), on_path_(forest.n_players()) {
    facts_.node.resize(forest.nodes().size());
    facts_.distinct.reserve(forest.n_trees());
  }

  ForestFacts run() {
    for (std::uint32_t root : forest_.roots()) {
      most_ = 0;
      limit_at_zero_ = true;
      stack_.push_back({root, 0, 1.0, -1, {}, {}});
      while (!stack_.empty()) {
        const Visit visit = stack_.back();
        stack_.pop_back();
        leave_until(std::max(visit.depth - 1, 0));
        if (visit.column >= 0) enter(visit);
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
    std::int32_t column;  // that the parent compares, -1 at a root
    ColumnSeen seen;      // what is known of it, and of its player, here and below
    PlayerSeen player;
  };
  // What to restore on leaving a split's child.
  struct Undo {
    std::int32_t column;
    ColumnSeen seen;
    PlayerSeen player;
  };

  void enter(const Visit& visit) {
    const std::int32_t player = forest_.player()[visit.column];
    undo_.push_back({visit.column, column_[visit.column], player_[player]});
    distinct_ += player_[player].splits == 0;
    if (column_[visit.column].splits == 0) on_path_[player].push_back(visit.column);
    column_[visit.column] = visit.seen;
    player_[player] = visit.player;
  }

  void leave_until(int depth) {
    for (; static_cast<int>(undo_.size()) > depth; undo_.pop_back()) {
      const Undo& undo = undo_.back();
      const std::int32_t player = forest_.player()[undo.column];
      column_[undo.column] = undo.seen;
      player_[player] = undo.player;
      distinct_ -= undo.player.splits == 0;
      if (undo.seen.splits == 0) on_path_[player].pop_back();
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
    const ColumnSeen above = column_[node.column];
    const PlayerSeen player = player_[forest_.player()[node.column]];
    facts.ratio = both > 0 ? left_cover / both : 0.5;
    facts.merged = player.merged;
    facts.above = above.along;
    facts.repeated = player.splits > 0;
    add_others(node.column, facts);
    if (facts.repeated && facts.merged == 0) limit_at_zero_ = false;

    const ColumnSeen left{above.along.after(node, true), above.splits + 1};
    const ColumnSeen right{above.along.after(node, false), above.splits + 1};
    const PlayerSeen went_left{player.merged * facts.ratio, player.splits + 1};
    const PlayerSeen went_right{player.merged * (1 - facts.ratio), player.splits + 1};
    stack_.push_back({node.right, visit.depth + 1, visit.reach * (1 - facts.ratio), node.column, right, went_right});
    stack_.push_back({node.left, visit.depth + 1, visit.reach * facts.ratio, node.column, left, went_left});
  }

  void add_others(std::int32_t column, PathFacts& facts) {
    std::vector<PathCondition>& conditions = facts_.conditions;
    facts.others_begin = static_cast<std::uint32_t>(conditions.size());
    for (std::int32_t other : on_path_[forest_.player()[column]]) {
      if (other == column) continue;
      if (conditions.size() == ForestFacts::kMaxConditions)
        throw InvalidForest("its players of several columns stand on its paths too often");
      conditions.push_back({other, column_[other].along});
    }
    facts.others_end = static_cast<std::uint32_t>(conditions.size());
  }

  const Forest& forest_;
  ForestFacts facts_;
  std::vector<ColumnSeen> column_;
  std::vector<PlayerSeen> player_;
  std::vector<std::vector<std::int32_t>> on_path_;  // by player: its columns on the current path
  std::vector<Undo> undo_;                          // by depth
  std::vector<Visit> stack_;
  int distinct_ = 0, most_ = 0;
  bool limit_at_zero_ = true;
};

}  // namespace

Along Along::anything() { return {-kInfinity, kNaN, true}; }

Along Along::after(const Node& split, bool left) const {
  const float bound = upper_bound_of_left(split);
  Along result = *this;
  if (left) {
    result.high = std::isnan(high) ? bound : std::isnan(bound) ? high : std::min(high, bound);
    result.nan_along = nan_along && split.nan_left;
  } else {
    result.low = std::isnan(bound) || std::isnan(low) ? kNaN : std::max(low, bound);
    result.nan_along = nan_along && !split.nan_left;
  }
  return result;
}

float upper_bound_of_left(const Node& split) {
  if (split.kind == NodeKind::kLess) return split.threshold;
  return split.threshold == kInfinity ? kNaN : std::nextafter(split.threshold, kInfinity);
}

ForestFacts path_facts(const Forest& forest) {
  require_covers(forest);
  return Annotator(forest).run();
}

}  // namespace xai::treeshap
