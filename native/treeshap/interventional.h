// Interventional SHAP: attributions against a background of rows.
//
// The game (Lundberg et al. 2020; Janzing et al. 2020): v(S) is the mean over the background rows b of the margin of a
// row that has the explained row's values on S and b's elsewhere. Exact, for any forest and 1 to 10,000 background
// rows. Needs no covers.
//
// Shallow trees are explained from tables (interventional_tables.h) at a cost that does not depend on the background's
// size; those whose tables would not fit the memory cap by walking the background down them (interventional_walk.h).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/interventional_tables.h"
#include "treeshap/interventional_walk.h"
#include "treeshap/isa.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap {

// A forest and a background compiled for interventional attributions. Immutable; used by any number of threads at once.
class InterventionalPlan {
 public:
  static constexpr std::size_t kMaxBackground = 10'000;
  static constexpr std::size_t kMaxWideBackground = std::size_t{1} << 28;  // values, where sets widen it: 1 GiB
  static constexpr std::size_t kDefaultMemoryCap = std::size_t{256} << 20;

  // `background`: row-major, n_background x n_features() float32, NaN allowed; `memory_cap`: bytes for tables, 0 for
  // none. Keeps nothing of either. Throws std::invalid_argument when n_background is not from 1 to kMaxBackground,
  // InvalidForest when the compiled form would be unreasonably large.
  InterventionalPlan(const Forest& forest, const float* background, std::size_t n_background,
                     std::size_t memory_cap = kDefaultMemoryCap, Isa isa = process_isa());

  int n_features() const { return n_features_; }
  int n_players() const { return n_players_; }
  int n_outputs() const { return n_outputs_; }
  Isa isa() const { return isa_; }

  // n_outputs() values: the mean margin over the background.
  const std::vector<double>& base_values() const { return base_values_; }

  std::size_t memory_bytes() const {
    return sizeof *this + (sets_ ? sets_->memory_bytes() : 0) + tables_.memory_bytes() + walk_.memory_bytes();
  }

  // Trees that tables serve; single leaves, which need nothing, are counted too.
  std::size_t n_trees_by_table() const { return n_trees_ - tables_.left_out().size(); }

  // Attributions of rows [begin, end): `rows` is row-major with n_features() columns, `phi` row-major
  // [row][player][output]; both start at row 0. A row's bits depend on nothing but the plan and the row. Some hundreds
  // of rows at once are cheapest: each table is then read once for all of them. Throws Stopped soon after the token
  // says so, leaving `phi` half-written.
  void explain(const float* rows, std::size_t begin, std::size_t end, double* phi, const StopToken& stop) const;

 private:
  // Rows widened to columns, and the mean margins over them.
  struct Background {
    Background(const Forest& forest, const float* background, std::size_t n_background);
    std::vector<float> wide;  // empty where rows need no widening
    const float* rows;
    std::size_t n;
    std::vector<double> margins;
  };
  InterventionalPlan(const Forest& forest, Background background, std::size_t memory_cap, Isa isa);

  int n_features_, n_players_, n_outputs_;
  std::size_t n_trees_;
  Isa isa_;
  std::shared_ptr<const SetColumns> sets_;
  PatternTables tables_;
  BackgroundWalk walk_;
  std::vector<double> base_values_;
};

}  // namespace xai::treeshap
