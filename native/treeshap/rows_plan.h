// The many-rows variant of path-dependent TreeSHAP: lanes are rows, the tree is walked once for all of them.
//
// The mathematics is that of path_dependent.h, in float32 with float64 sums across blocks of trees, and three savings
// that leave it exact:
//
// Radau. A polynomial of even degree d - 1 (d odd) needs (d + 1) / 2 Gauss-Legendre points, but Gauss-Radau's rule with
// as many points has t = 0 among them, where every factor is a cover ratio and nothing depends on the row: what that
// point adds is a constant of the model. So (d - 1) / 2 points are walked.
//
// Bottoms. At a split at the bottom (both children leaves a, b; its player's first on the path) the value coming up is
// linear in t: U = E + t * H with E = b + r (a - b) and H = h (a - b), one of two constants by the row's decision; and
// the player gets H * (sum of P). No products are formed below its parent.
//
// Twigs. At a split above bottoms and leaves U is quadratic, and all sums follow from the moments S0 = sum of P and
// S1 = sum of t * P.
#pragma once

#include <cstdint>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/path_facts.h"

namespace xai::treeshap {

// A comparison that every ISA does in one instruction: a row goes left unless value >= threshold. NaN goes where
// `nan_left` says. The threshold is NaN where all values go left.
struct Comparison {
  float threshold;
  std::uint32_t column;  // index into RowsPlan::used_columns
  bool nan_left;
};

enum class ChildKind : std::uint8_t { kLeaf, kBottom, kSplit };

struct RowsChild {
  ChildKind kind;
  float expected;           // leaf: its value; bottom: E
  Comparison at;            // bottom
  float if_left, if_right;  // bottom: H by the row's decision
  float constant;           // bottom: what the t = 0 point adds to the sum of P
  std::uint32_t split;      // split: index into RowsPlan::split_data
};

// What the splits above ask of a column: a row came along when value >= low and not value >= high.
struct RowsCondition {
  float low, high;
  std::uint32_t column;
  bool nan_along;
};

// What a later split on a player knows from those above it: what they ask of its column, which come first in
// RowsPlan::condition_data, and of the player's other columns. `tau` and `kernel` follow in RowsPlan::factor_data,
// `points` of each.
struct RowsRepeat {
  std::uint32_t conditions, conditions_end;  // indices into RowsPlan::condition_data
  std::uint32_t factors;                     // index into RowsPlan::factor_data
};

struct RowsSplit {
  Comparison at;
  float ratio;
  float constant;       // what the t = 0 point adds to the sum of P * (U_left - U_right) * K
  float difference;     // twig: E_left - E_right
  float mean;           // twig: U at t = 0
  float moment;         // twig: what the t = 0 point adds to the sum of P
  std::int32_t repeat;  // index into RowsPlan::repeat_data, -1: first split on its player
  bool twig;
  RowsChild left, right;
};

struct RowsTree {
  std::uint32_t root;      // index into RowsPlan::split_data
  std::uint32_t n_splits;  // in the tree
  std::int32_t output;
  std::uint16_t rule;  // index into RowsPlan::rule_data
};

// A quadrature rule without its point t = 0.
struct RowsRule {
  static constexpr int kMaxPoints = 32;  // 64 distinct players on a path
  int points;
  float point[kMaxPoints], weight[kMaxPoints];
  double weight_at_zero;  // 0 for Gauss-Legendre
};

class RowsPlan {
 public:
  static constexpr int kMaxPoints = RowsRule::kMaxPoints;
  static constexpr int kMaxDepth = 128;  // the walk's stack: 8 KiB a level at the most

  // Whether every tree is within the limits; deeper models are left to the scalar kernel.
  static bool supports(const Forest& forest, const ForestFacts& facts);

  // `forest` has covers and is supported. Throws InvalidForest when the plan would be unreasonably large.
  RowsPlan(const Forest& forest, const ForestFacts& facts);
  RowsPlan(const RowsPlan&) = delete;

  std::size_t memory_bytes() const;

  // Plain pointers, so that kernels need no inline function of another object (see rows_kernel-inl.h).
  int n_columns, n_players, n_outputs;
  std::size_t n_used, n_trees;
  const std::uint32_t* used_columns;  // that any split compares, ascending
  const std::uint32_t* used_players;  // theirs
  const RowsTree* tree_data;          // by output
  const RowsRule* rule_data;
  const RowsSplit* split_data;
  const RowsRepeat* repeat_data;
  const RowsCondition* condition_data;
  const float* factor_data;

 private:
  class Compiler;

  std::vector<std::uint32_t> columns_, players_;
  std::vector<RowsTree> trees_;
  std::vector<RowsRule> rules_;
  std::vector<RowsSplit> splits_;
  std::vector<RowsRepeat> repeats_;
  std::vector<RowsCondition> conditions_;
  std::vector<float> factors_;
};

}  // namespace xai::treeshap
