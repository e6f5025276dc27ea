#include "treeshap/interventional.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "treeshap/interventional_kernel.h"

namespace xai::treeshap {
namespace {

constexpr std::size_t kFillAtOnce = std::size_t{1} << 16;  // values zeroed between two looks at the stop token

AddFromTables table_kernel(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return avx512::add_from_tables;
    case Isa::kAvx2:
      return avx2::add_from_tables;
#endif
    default:
      return portable::add_from_tables;
  }
}

// Predictions at most when a plan is made, of one tree for one background row: a bound on the time, some seconds.
constexpr std::size_t kMaxPredictions = std::size_t{1} << 27;

std::size_t checked(const Forest& forest, std::size_t n_background) {
  if (n_background < 1 || n_background > InterventionalPlan::kMaxBackground)
    throw std::invalid_argument("the background has " + std::to_string(n_background) + " rows, must have from 1 to " +
                                std::to_string(InterventionalPlan::kMaxBackground));
  if (forest.n_trees() > kMaxPredictions / n_background)
    throw std::invalid_argument("a background of " + std::to_string(n_background) + " rows is too large for " +
                                std::to_string(forest.n_trees()) + " trees: trees times rows must be at most " +
                                std::to_string(kMaxPredictions));
  return n_background;
}

std::vector<double> mean_margins(const Forest& forest, const float* background, std::size_t n_background) {
  std::vector<double> sum(forest.n_outputs(), 0.0), margin(forest.n_outputs());
  for (std::size_t row = 0; row < n_background; ++row) {
    forest.predict(background + row * forest.n_features(), margin.data());
    for (std::size_t output = 0; output < margin.size(); ++output) sum[output] += margin[output];
  }
  for (double& value : sum) value /= static_cast<double>(n_background);
  return sum;
}

}  // namespace

InterventionalPlan::InterventionalPlan(const Forest& forest, const float* background, std::size_t n_background,
                                       std::size_t memory_cap, Isa isa)
    : n_features_(forest.n_features()),
      n_outputs_(forest.n_outputs()),
      n_trees_(forest.n_trees()),
      isa_(isa),
      tables_(forest, background, checked(forest, n_background), memory_cap),
      walk_(forest, tables_.left_out(), background, n_background),
      base_values_(mean_margins(forest, background, n_background)) {}

void InterventionalPlan::explain(const float* rows, std::size_t begin, std::size_t end, double* phi,
                                 const StopToken& stop) const {
  const std::size_t width = static_cast<std::size_t>(n_features_) * n_outputs_;
  for (std::size_t done = begin * width; done < end * width; done += kFillAtOnce) {
    std::fill_n(phi + done, std::min(kFillAtOnce, end * width - done), 0.0);
    stop.throw_if_stopped();
  }
  if (!table_kernel(isa_)(tables_, rows, begin, end, phi, stop)) throw Stopped();
  walk_.add(rows, begin, end, phi, stop);
}

}  // namespace xai::treeshap
