#include "treeshap/interventional.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

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

InterventionalPlan::Background::Background(const Forest& forest, const float* background, std::size_t n_background)
    : rows(background), n(checked(forest, n_background)), margins(mean_margins(forest, background, n)) {
  if (!forest.sets()) return;
  if (n > kMaxWideBackground / static_cast<std::size_t>(forest.n_columns()))
    throw InvalidForest("a background of " + std::to_string(n) + " rows is too large for a model with " +
                        std::to_string(forest.sets()->size()) + " sets of categories");
  wide = forest.sets()->widened(background, 0, n);
  rows = wide.data();
}

InterventionalPlan::InterventionalPlan(const Forest& forest, const float* background, std::size_t n_background,
                                       std::size_t memory_cap, Isa isa)
    : InterventionalPlan(forest, Background(forest, background, n_background), memory_cap, isa) {}

InterventionalPlan::InterventionalPlan(const Forest& forest, Background background, std::size_t memory_cap, Isa isa)
    : n_features_(forest.n_features()),
      n_players_(forest.n_players()),
      n_outputs_(forest.n_outputs()),
      n_trees_(forest.n_trees()),
      isa_(isa),
      sets_(forest.sets()),
      tables_(forest, background.rows, background.n, memory_cap),
      walk_(forest, tables_.left_out(), background.rows, background.n),
      base_values_(std::move(background.margins)) {}

void InterventionalPlan::explain(const float* rows, std::size_t begin, std::size_t end, double* phi,
                                 const StopToken& stop) const {
  const std::size_t width = static_cast<std::size_t>(n_players_) * n_outputs_;
  for (std::size_t done = begin * width; done < end * width; done += kFillAtOnce) {
    std::fill_n(phi + done, std::min(kFillAtOnce, end * width - done), 0.0);
    stop.throw_if_stopped();
  }
  for_columns(sets_.get(), n_features_, rows, begin, end, [&](const float* wide, std::size_t from, std::size_t to) {
    if (!table_kernel(isa_)(tables_, wide, 0, to - from, phi + from * width, stop)) throw Stopped();
    walk_.add(wide, 0, to - from, phi + from * width, stop);
  });
}

}  // namespace xai::treeshap
