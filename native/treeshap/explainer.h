// Path-dependent attributions of one forest by whichever kernel variant suits the number of rows.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/isa.h"
#include "treeshap/path_dependent.h"
#include "treeshap/row_plan.h"
#include "treeshap/rows_kernel.h"
#include "treeshap/rows_plan.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap {

// A row's bits depend on the model, the row, the variant and the instruction set only; both are recorded.
enum class Variant {
  kScalar,  // float64, one row at a time, any depth: what the others are held to
  kRows,    // float32 lanes, a lane for each row
  kRow,     // float32 lanes, a lane for each of many splits of one row
};

// "scalar-f64", "rows-f32", "row-f32".
const char* name_of(Variant variant);

// Immutable; used by any number of threads at once.
class PathDependentExplainer {
 public:
  // From so many rows on, a lane for each row is the faster way (docs/performance.md).
  static constexpr std::size_t kManyRows = 8;

  // `variant` forces one for any number of rows. Throws MissingCovers; InvalidForest when the compiled form would be
  // unreasonably large; std::invalid_argument when the forced variant cannot serve this forest.
  PathDependentExplainer(const Forest& forest, Isa isa, std::optional<Variant> variant);

  int n_features() const { return n_features_; }
  int n_players() const { return n_players_; }
  int n_outputs() const { return n_outputs_; }
  Isa isa() const { return isa_; }
  std::size_t memory_bytes() const;

  // E[f]: n_outputs() values, the margin expected before any feature is known.
  const std::vector<double>& base_values() const { return base_values_; }

  // The variant for a batch of so many rows.
  Variant variant_for(std::size_t rows) const;

  // Attributions of rows [begin, end): `rows` is row-major with n_features() columns, `phi` row-major
  // [row][player][output]; both start at row 0. Throws Stopped soon after the token says so, leaving `phi`
  // half-written.
  void explain(Variant variant, const float* rows, std::size_t begin, std::size_t end, double* phi,
               const StopToken& stop) const;

 private:
  // The same of n rows that are widened to columns.
  void explain_wide(Variant variant, const float* rows, std::size_t n, double* phi, const StopToken& stop) const;
  void explain_singly(const float* rows, std::size_t n, double* phi, const StopToken& stop) const;
  std::unique_ptr<RowScratch> take_scratch() const;
  void give_back(std::unique_ptr<RowScratch> scratch) const;

  int n_features_, n_columns_, n_players_, n_outputs_;
  Isa isa_;
  std::vector<double> base_values_;
  std::unique_ptr<const PathDependentPlan> scalar_;
  std::unique_ptr<const RowsPlan> rows_;
  std::unique_ptr<const RowPlan> row_;
  std::shared_ptr<const SetColumns> sets_;

  // Working memory of the one-row kernel, kept between calls: threads take one each and give it back.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<RowScratch>> scratch_;
};

}  // namespace xai::treeshap
