// What each node's path says of it, computed once for all kernel variants.
#pragma once

#include <span>
#include <vector>

#include "treeshap/forest.h"

namespace xai::treeshap {

// What the splits above a node ask of a column: a value went along with all of them when value >= low and not value >=
// high (NaN: no such bound), or when it is NaN and `nan_along`.
struct Along {
  float low, high;
  bool nan_along;

  static Along anything();
  // After going left or right at `split`, a split on this column.
  Along after(const Node& split, bool left) const;
  bool holds(float value) const { return value != value ? nan_along : value >= low && !(value >= high); }
  // Whether no number is left, only perhaps NaN.
  bool no_number() const { return low != low || low >= high; }
};

// Of a split: everything the recursion of path_dependent.h needs that does not depend on the row.
struct PathFacts {
  double ratio;   // r: share of the left child's cover in both children's, 1/2 when neither has any
  double merged;  // z: product of the ratios taken at earlier splits on this player, 1 at the first
  double reach;   // product of all ratios taken from the root: the share of the training rows that come here
  Along above;    // what earlier splits on this column ask
  bool repeated;  // whether there are earlier splits on this player
  std::uint32_t others_begin, others_end;  // what earlier splits on its other columns ask: in ForestFacts::conditions
};

struct PathCondition {
  std::int32_t column;
  Along above;
};

struct ForestFacts {
  // A bound on what one player of many columns can ask for along deep paths: 1 GiB.
  static constexpr std::size_t kMaxConditions = std::size_t{1} << 26;

  std::vector<PathFacts> node;  // by index in Forest::nodes(); of leaves only `reach` means something
  std::vector<PathCondition> conditions;
  std::vector<int> distinct;  // by tree: most distinct players on a path
  std::vector<bool>
      limit_at_zero;      // by tree: whether the recursion's factors at t = 0 are their limits for t -> 0. They are
                          // not below a later split on a player of which z is 0: there tau is 1 for all t > 0.
  int most_distinct = 0;  // of them all

  std::span<const PathCondition> others(std::uint32_t index) const {
    return {conditions.data() + node[index].others_begin, conditions.data() + node[index].others_end};
  }
};

// The bound b with which `value < threshold` or `value <= threshold`, whichever the split says, is `not value >= b`;
// NaN where it holds for every value. One comparison then serves both kinds, and floats just beside a threshold stay
// apart.
float upper_bound_of_left(const Node& split);

// Throws MissingCovers; InvalidForest when there are more than kMaxConditions.
ForestFacts path_facts(const Forest& forest);

}  // namespace xai::treeshap
