// What each node's path says of it, computed once for all kernel variants.
#pragma once

#include <vector>

#include "treeshap/forest.h"

namespace xai::treeshap {

// Of a split: everything the recursion of path_dependent.h needs that does not depend on the row.
struct PathFacts {
  double ratio;     // r: share of the left child's cover in both children's, 1/2 when neither has any
  double merged;    // z: product of the ratios taken at earlier splits on this feature, 1 at the first
  double reach;     // product of all ratios taken from the root: the share of the training rows that come here
  float low, high;  // a row went along at all earlier splits on this feature when value >= low and not value >= high
  bool nan_along;   // whether NaN did
  bool repeated;    // whether there are earlier splits on this feature

  bool came_along(float value) const { return value != value ? nan_along : value >= low && !(value >= high); }
};

struct ForestFacts {
  std::vector<PathFacts> node;  // by index in Forest::nodes(); of leaves only `reach` means something
  std::vector<int> distinct;    // by tree: most distinct features on a path
  std::vector<bool>
      limit_at_zero;      // by tree: whether the recursion's factors at t = 0 are their limits for t -> 0. They are
                          // not below a later split on a feature of which z is 0: there tau is 1 for all t > 0.
  int most_distinct = 0;  // of them all
};

// The bound b with which `value < threshold` or `value <= threshold`, whichever the split says, is `not value >= b`;
// NaN where it holds for every value. One comparison then serves both kinds, and floats just beside a threshold stay
// apart.
float upper_bound_of_left(const Node& split);

// Throws MissingCovers.
ForestFacts path_facts(const Forest& forest);

}  // namespace xai::treeshap
