// Cuts trees into the groups that interventional_tables.h tabulates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/interventional_walk.h"

namespace xai::treeshap {

// One bit of a pattern: whether a value of `column` goes along with all splits on it on the path to the group; or, for
// a split inside the group, left.
struct GroupBit {
  std::int32_t column;
  bool on_path;
  Along along;
};

// A leaf of a group and the bits, beside those of the path, that lead to it.
struct GroupLeaf {
  struct Step {
    int bit;
    bool left;
  };
  std::uint32_t node;  // in the forest
  std::vector<Step> steps;
};

// A subtree, tabulated as a whole.
struct Group {
  std::vector<GroupBit> bits;         // one for each distinct column of the path, one for each split
  std::vector<std::int32_t> players;  // distinct, ascending
  std::vector<GroupLeaf> leaves;
};

struct GroupLimits {
  int bits;              // of a pattern
  int players;           // of a group
  int narrow;            // up to so many players an entry has 8 places, above 16
  std::size_t overhead;  // bytes that a group costs beside its table
};

// The cheapest cut of one tree, by bytes of tables and overhead for one output.
class TreeCut {
 public:
  // The tree's root is a split.
  TreeCut(const Forest& forest, std::uint32_t root, const GroupLimits& limits);

  // kNever when some leaf's path is beyond the limits.
  static constexpr std::size_t kNever = SIZE_MAX;
  std::size_t bytes() const { return bytes_; }
  std::size_t n_groups() const { return n_groups_; }

  // Appends the groups. bytes() is not kNever.
  void append_to(std::vector<Group>& groups) const;

 private:
  class Planner;

  const Forest& forest_;
  std::uint32_t root_;
  std::size_t bytes_ = 0, n_groups_ = 0;
  std::vector<std::uint32_t> cuts_;  // the groups' roots, in preorder
};

}  // namespace xai::treeshap
