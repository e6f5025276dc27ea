#include "treeshap/explainer.h"

#include <stdexcept>

#include "treeshap/path_facts.h"
#include "treeshap/row_kernel.h"

namespace xai::treeshap {
namespace {

ExplainRows rows_kernel(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return avx512::explain_rows;
    case Isa::kAvx2:
      return avx2::explain_rows;
#endif
    default:
      return portable::explain_rows;
  }
}

struct RowKernel {
  ExplainRow explain;
  int lanes;
};

RowKernel row_kernel(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return {avx512::explain_row, avx512::kRowLanes};
    case Isa::kAvx2:
      return {avx2::explain_row, avx2::kRowLanes};
#endif
    default:
      return {portable::explain_row, portable::kRowLanes};
  }
}

std::vector<double> expected_margins(const Forest& forest, const ForestFacts& facts) {
  std::vector<double> expected = forest.base();
  for (std::uint32_t node = 0; node < forest.nodes().size(); ++node)
    for (const Weight& weight : forest.weights(node)) expected[weight.output] += weight.value * facts.node[node].reach;
  return expected;
}

}  // namespace

const char* name_of(Variant variant) {
  switch (variant) {
    case Variant::kRows:
      return "rows-f32";
    case Variant::kRow:
      return "row-f32";
    default:
      return "scalar-f64";
  }
}

PathDependentExplainer::PathDependentExplainer(const Forest& forest, Isa isa, std::optional<Variant> variant)
    : n_features_(forest.n_features()),
      n_columns_(forest.n_columns()),
      n_players_(forest.n_players()),
      n_outputs_(forest.n_outputs()),
      isa_(isa),
      sets_(forest.sets()) {
  const ForestFacts facts = path_facts(forest);
  base_values_ = expected_margins(forest, facts);
  const auto wanted = [&](Variant one, bool supported) {
    if (variant == one && !supported)
      throw std::invalid_argument(std::string("this forest is too deep for the variant ") + name_of(one));
    return supported && variant.value_or(one) == one;
  };
  if (wanted(Variant::kRows, RowsPlan::supports(forest, facts))) rows_ = std::make_unique<RowsPlan>(forest, facts);
  if (wanted(Variant::kRow, RowPlan::supports(forest, facts)))
    row_ = std::make_unique<RowPlan>(forest, facts, row_kernel(isa).lanes);
  if (!rows_ && !row_) scalar_ = std::make_unique<PathDependentPlan>(forest, facts);
}

std::size_t PathDependentExplainer::memory_bytes() const {
  return (scalar_ ? scalar_->memory_bytes() : 0) + (rows_ ? rows_->memory_bytes() : 0) +
         (row_ ? row_->memory_bytes() : 0) + (sets_ ? sets_->memory_bytes() : 0);
}

Variant PathDependentExplainer::variant_for(std::size_t rows) const {
  if (row_ && (rows < kManyRows || !rows_)) return Variant::kRow;
  return rows_ ? Variant::kRows : Variant::kScalar;
}

void PathDependentExplainer::explain(Variant variant, const float* rows, std::size_t begin, std::size_t end,
                                     double* phi, const StopToken& stop) const {
  const std::size_t width = static_cast<std::size_t>(n_players_) * n_outputs_;
  for_columns(sets_.get(), n_features_, rows, begin, end, [&](const float* wide, std::size_t from, std::size_t to) {
    explain_wide(variant, wide, to - from, phi + from * width, stop);
  });
}

void PathDependentExplainer::explain_wide(Variant variant, const float* rows, std::size_t n, double* phi,
                                          const StopToken& stop) const {
  switch (variant) {
    case Variant::kScalar:
      scalar_->explain(rows, 0, n, phi, stop);
      break;
    case Variant::kRows:
      if (!rows_kernel(isa_)(*rows_, rows, 0, n, phi, stop)) throw Stopped();
      break;
    case Variant::kRow:
      explain_singly(rows, n, phi, stop);
      break;
  }
}

void PathDependentExplainer::explain_singly(const float* rows, std::size_t n, double* phi,
                                            const StopToken& stop) const {
  const std::size_t width = static_cast<std::size_t>(n_players_) * n_outputs_;
  const ExplainRow kernel = row_kernel(isa_).explain;
  std::unique_ptr<RowScratch> scratch = take_scratch();
  try {
    for (std::size_t row = 0; row < n; ++row) kernel(*row_, rows + row * n_columns_, phi + row * width, *scratch, stop);
  } catch (const Stopped&) {  // as fit for use as a finished row leaves it: each walk writes what it reads
    give_back(std::move(scratch));
    throw;
  }
  give_back(std::move(scratch));
}

// Neither waits for the lock: in a forked child, a thread that is not there may hold it for ever.
std::unique_ptr<RowScratch> PathDependentExplainer::take_scratch() const {
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock && !scratch_.empty()) {
    std::unique_ptr<RowScratch> scratch = std::move(scratch_.back());
    scratch_.pop_back();
    return scratch;
  }
  return std::make_unique<RowScratch>(*row_);
}

void PathDependentExplainer::give_back(std::unique_ptr<RowScratch> scratch) const {
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock) scratch_.push_back(std::move(scratch));
}

}  // namespace xai::treeshap
