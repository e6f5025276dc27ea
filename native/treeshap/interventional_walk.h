// Interventional SHAP by walking a row and the whole background down a tree at once: the form for deep trees.
//
// For a row x and one background row b the game is v(S) = f(x_S, b_rest). A leaf counts only where every feature of its
// path has x or b go along. Let P be the features that only x goes along with, N those that only b does, p = |P|, n =
// |N|: a leaf of value v gives each feature of P   v (p-1)! n! / (p+n)!   and each of N   -v p! (n-1)! / (p+n)!
// (Lundberg et al. 2020, Algorithm 3; Laberge & Pequignot 2022). Neither depends on which feature of P or N it is, so a
// walk returns two sums for each background row and a split adds them to its feature where x and b part.
//
// Which features x fails is the same for the whole background: n belongs to the walk, p to each background row. Where x
// goes, every background row still under way goes too; at the other child only those that part from x at this split,
// or have parted from it in favour of b before. A child that nobody takes is never entered, so the cost is the number
// of pairs of a node and a background row that come there, instead of nodes times background rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/path_facts.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap {

// Trees and a background, compiled for the walk. Immutable; used by any number of threads at once.
class BackgroundWalk {
 public:
  // `trees` are indices into forest.roots(); `background` is row-major, n_background x n_columns().
  // Throws InvalidForest when the compiled form would be unreasonably large.
  BackgroundWalk(const Forest& forest, const std::vector<std::uint32_t>& trees, const float* background,
                 std::size_t n_background);

  std::size_t memory_bytes() const;

  // Adds rows [begin, end)'s attributions to `phi`, [row][player][output]. Each row is computed alone, in float64.
  // Throws Stopped.
  void add(const float* rows, std::size_t begin, std::size_t end, double* phi, const StopToken& stop) const;

 private:
  struct Split {
    float bound;          // a value goes left unless value >= bound; NaN where `nan_left` says
    std::int32_t column;  // -1: a leaf, and `right` counts leaves of the tree instead
    std::int32_t player;
    std::uint32_t right;  // index of the right child; the left child is the next node
    std::uint32_t used;   // the column's place among those used
    Along above;
    bool nan_left, repeated;                 // repeated: there are earlier splits on this player
    std::uint32_t others_begin, others_end;  // in others_
  };
  // What the splits above say of another column of the same player.
  struct Other {
    std::int32_t column;
    std::uint32_t used;
    Along along;
  };
  struct Game {
    std::uint32_t root;
    std::int32_t output;
    std::size_t first_leaf;  // its leaves' values start here in leaf_value_
  };
  class Compiler;
  class Walk;

  int n_columns_, n_players_, n_outputs_;
  int deepest_ = 0, most_distinct_ = 0;
  std::size_t n_background_;
  std::vector<Split> splits_;
  std::vector<Other> others_;
  std::vector<Game> games_;
  std::vector<double> leaf_value_;
  std::vector<float> columns_;  // [used column][background row]
  std::vector<double> weight_;  // [n][p]: (p-1)! n! / (p+n)! over the background's size, 0 for p = 0
};

}  // namespace xai::treeshap
