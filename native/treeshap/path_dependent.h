// Exact path-dependent TreeSHAP by running products at quadrature points.
//
// The Shapley value of a game is the integral over [0, 1] of its multilinear extension's derivative along the diagonal
// (Owen 1972). For a tree's path-dependent game (Lundberg et al., 2020, Algorithm 1) the extension is, leaf by leaf, a
// product over the distinct features of the path, so the integrand is a polynomial of degree d - 1 and Gauss-Legendre
// quadrature with ceil(d / 2) points integrates it without error. The products are shared from the root down and the
// leaves' values from the bottom up, so one depth-first walk yields every feature's attribution at a cost of
// O(nodes * points) and with nothing to divide by at a feature's first split (Linear TreeSHAP, Yu et al., NeurIPS 2022,
// uses the same structure with polynomials; quadrature is from arXiv 2605.04497).
//
// At an inner node let b be 1 when the row goes left, else 0; r the cover of the left child divided by both children's;
// t a quadrature point with weight w; P the product of factors from the root; U the value coming up from below. Then
//
//     h = b - r      f = r + tau * h      P_left = P * f      P_right = P - P_left
//     U = U_right + f * (U_left - U_right)      phi[feature] += h * sum over t of w * P * (U_left - U_right) * K
//
// with tau = t and K = 1 at the feature's first split on the path. At a later one let z be the product of the ratios
// taken at the earlier ones: F = z + t * (1 - z), tau = t / F, K = z / F^2; and h = 0 when the row already left this
// path at an earlier split on the feature. F >= t > 0, so nothing is ever divided by zero.
//
// Children's ratios are normalised to add to 1. A split neither of whose children has cover was seen by no training
// row: its ratio is taken as 1/2, so that the attributions still add to the margin for a row that goes there.
#pragma once

#include <cstdint>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/path_facts.h"
#include "treeshap/quadrature.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap {

// A forest compiled for path-dependent attributions. Immutable; used by any number of threads at once.
class PathDependentPlan {
 public:
  // `facts` are those of `forest`. Keeps nothing of either. Throws InvalidForest when the plan would be unreasonably
  // large.
  PathDependentPlan(const Forest& forest, const ForestFacts& facts);

  std::size_t memory_bytes() const;

  // Attributions of rows [begin, end): `rows` is row-major, with the forest's columns, `phi` row-major
  // [row][player][output]; both start at row 0. Each row is computed alone and in the same order of operations
  // whatever its neighbours. Throws Stopped soon after the token says so, leaving `phi` half-written.
  void explain(const float* rows, std::size_t begin, std::size_t end, double* phi, const StopToken& stop) const;

 private:
  // One tree's effect on one output. Trees with several outputs stand here once for each.
  struct Game {
    std::uint32_t root;
    std::int32_t output;
    std::uint32_t points;     // how many quadrature points this tree needs
    std::size_t first_value;  // its nodes' values start here in values_, in their order
  };
  class Walk;

  int n_columns_, n_players_, n_outputs_, max_depth_;
  std::uint32_t max_points_ = 1;
  std::vector<Node> nodes_;
  ForestFacts facts_;
  std::vector<std::int32_t> player_;  // by column
  std::vector<Game> games_;
  std::vector<double> values_;
  std::vector<Quadrature> quadrature_;  // by number of points
};

}  // namespace xai::treeshap
