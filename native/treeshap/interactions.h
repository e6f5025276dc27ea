// Exact path-dependent SHAP interaction values by running products at quadrature points.
//
// The Shapley interaction index of i and j (Grabisch & Roubens 1999) is the integral over [0, 1] of the multilinear
// extension's second derivative along the diagonal: leaf by leaf v (o_i - z_i) (o_j - z_j) times the product of the
// other features' factors F_k = z_k + t (o_k - z_k), with z and o as in path_dependent.h. Lundberg et al. (2020) give
// one half of it to (i, j) and the other to (j, i), and let a row of the matrix add to the feature's attribution, so
//
//     phi[i][j] = 1/2 integral      phi[i][i] = phi_i - sum over j of phi[i][j]
//
// path_dependent.h's walk yields at every split on j the integrand s = h P (U_left - U_right) K of j's attribution. Its
// derivative in a feature i that stands above on the path is s with the factor F_i replaced by o_i - z_i: s times
//
//     rho_i = (o_i - z_i) / F_i = (1 - z_i) / (z_i + t (1 - z_i)) where the row goes along, -1 / (1 - t) where it does
//     not
//
// which is finite at every point inside (0, 1), whatever z. Features below count when the walk comes to their splits:
// by the product rule for differences each step down a path changes one factor only, so the sum over all pairs of a
// split and a feature above it is the whole of the second derivative. O(nodes * depth * points) a row; one walk, no
// toggling of features.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/path_facts.h"
#include "treeshap/quadrature.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap {

class SetColumns;

// A forest compiled for interaction values. Immutable; used by any number of threads at once.
class InteractionsPlan {
 public:
  // `facts` are those of `forest`. Keeps nothing of either. Throws MissingCovers, and InvalidForest when one row's
  // values would be more than Forest::kMaxAttributions or the compiled form unreasonably large.
  InteractionsPlan(const Forest& forest, const ForestFacts& facts);

  int n_features() const { return n_features_; }
  int n_players() const { return n_players_; }
  int n_outputs() const { return n_outputs_; }

  // E[f]: n_outputs() values. A row's matrix and this add to its margin.
  const std::vector<double>& base_values() const { return base_values_; }

  std::size_t memory_bytes() const;

  // Interaction values of rows [begin, end): `rows` is row-major with n_features() columns, `phi` row-major
  // [row][player][player][output]; both start at row 0. Each row is computed alone, in float64. Throws Stopped soon
  // after the token says so, leaving `phi` half-written.
  void explain(const float* rows, std::size_t begin, std::size_t end, double* phi, const StopToken& stop) const;

 private:
  struct Split {
    float bound;          // a row goes left unless value >= bound; NaN goes where `nan_left` says
    Along above;          // what the path above asks of the column
    std::int32_t column;  // -1: a leaf, and `right` counts leaves of the tree instead
    std::int32_t player;
    std::uint32_t right;   // index of the right child; the left child is the next node
    double ratio, merged;  // r, z
    bool nan_left, repeated;
    std::uint32_t others_begin, others_end;  // in conditions_
  };
  // One tree's effect on one output.
  struct Game {
    std::uint32_t root;
    std::int32_t output;
    std::uint32_t points;    // how many quadrature points this tree needs
    std::size_t first_leaf;  // its leaves' values start here in leaf_value_
  };
  class Walk;

  void explain_wide(const float* rows, std::size_t n, double* phi, const StopToken& stop) const;

  int n_features_, n_columns_, n_players_, n_outputs_, max_depth_;
  std::uint32_t max_points_ = 1, most_distinct_ = 0;
  std::vector<Split> splits_;
  std::vector<PathCondition> conditions_;
  std::shared_ptr<const SetColumns> sets_;
  std::vector<Game> games_;
  std::vector<double> leaf_value_;
  std::vector<double> base_values_;
  std::vector<Quadrature> quadrature_;  // by number of points
};

}  // namespace xai::treeshap
