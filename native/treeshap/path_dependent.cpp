#include "treeshap/path_dependent.h"

#include <algorithm>
#include <map>
#include <string>

namespace xai::treeshap {
namespace {

// Values are stored for each output that a tree adds to; a hostile file must not make that explode.
constexpr std::size_t kMaxValues = std::size_t{1} << 28;

}  // namespace

PathDependentPlan::PathDependentPlan(const Forest& forest, const ForestFacts& facts)
    : n_columns_(forest.n_columns()),
      n_players_(forest.n_players()),
      n_outputs_(forest.n_outputs()),
      max_depth_(forest.max_depth()),
      nodes_(forest.nodes()),
      facts_(facts),
      player_(forest.player()) {
  for (std::size_t tree = 0; tree < forest.n_trees(); ++tree) {
    const std::uint32_t root = forest.roots()[tree];
    const std::size_t end = tree + 1 < forest.n_trees() ? forest.roots()[tree + 1] : nodes_.size(), size = end - root;
    const std::uint32_t points = std::max(1, (facts.distinct[tree] + 1) / 2);
    std::map<std::int32_t, std::size_t> first_value;  // by output
    for (std::uint32_t node = root; node < end; ++node)
      for (const Weight& weight : forest.weights(node)) {
        const auto [entry, is_new] = first_value.try_emplace(weight.output, values_.size());
        if (is_new) {
          if (values_.size() + size > kMaxValues)
            throw InvalidForest("its nodes times the outputs they add to are more than " + std::to_string(kMaxValues));
          values_.resize(values_.size() + size, 0.0);
          games_.push_back({root, weight.output, points, entry->second});
        }
        values_[entry->second + (node - root)] += weight.value;
      }
    max_points_ = std::max(max_points_, points);
  }
  quadrature_.resize(max_points_ + 1);
  for (const Game& game : games_)
    if (quadrature_[game.points].point.empty())
      quadrature_[game.points] = gauss_legendre(static_cast<int>(game.points));
}

std::size_t PathDependentPlan::memory_bytes() const {
  return nodes_.size() * (sizeof(Node) + sizeof(PathFacts)) + facts_.conditions.size() * sizeof(PathCondition) +
         games_.size() * sizeof(Game) + values_.size() * sizeof(double);
}

// One row's depth-first walk. Holds the scratch of one thread.
class PathDependentPlan::Walk {
 public:
  Walk(const PathDependentPlan& plan, const StopToken& stop)
      : plan_(plan),
        stop_(stop),
        scratch_(static_cast<std::size_t>(plan.max_depth_ + 1) * kBuffers * plan.max_points_),
        root_value_(plan.max_points_) {}

  // Adds one game's attributions of `row` to phi[player * n_outputs + output].
  void run(const Game& game, const float* row, double* phi) {
    const Quadrature& quadrature = plan_.quadrature_[game.points];
    points_ = game.points;
    point_ = quadrature.point.data();
    root_ = game.root;
    values_ = plan_.values_.data() + game.first_value;
    row_ = row;
    phi_ = phi + game.output;
    stop_.throw_if_stopped();
    std::copy(quadrature.weight.begin(), quadrature.weight.end(), buffer(0, kProduct));
    visit(game.root, 0, root_value_.data());
  }

 private:
  enum Buffer { kProduct, kFactor, kLeftValue, kRightValue, kBuffers };

  double* buffer(int depth, Buffer which) {
    return scratch_.data() + (static_cast<std::size_t>(depth) * kBuffers + which) * plan_.max_points_;
  }

  // Visits a subtree whose products stand in buffer(depth, kProduct) and writes what comes up from it to `value`.
  void visit(std::uint32_t index, int depth, double* value) {
    const Node& node = plan_.nodes_[index];
    if (node.kind == NodeKind::kLeaf) {
      std::fill_n(value, points_, values_[index - root_]);
      return;
    }
    if (++since_poll_ == kPollEvery) {
      since_poll_ = 0;
      stop_.throw_if_stopped();
    }
    const float x = row_[node.column];
    const PathFacts& facts = plan_.facts_.node[index];
    const double r = facts.ratio, z = facts.merged;
    const double h = came_along(index, x) ? (node.goes_left(x) ? 1.0 : 0.0) - r : 0.0;
    const bool repeated = facts.repeated;

    const double* product = buffer(depth, kProduct);
    double* factor = buffer(depth, kFactor);
    double* below = buffer(depth + 1, kProduct);
    for (std::uint32_t q = 0; q < points_; ++q) {
      const double tau = repeated ? point_[q] / (z + point_[q] * (1 - z)) : point_[q];
      factor[q] = r + tau * h;
      below[q] = product[q] * factor[q];
    }
    double* left = buffer(depth, kLeftValue);
    double* right = buffer(depth, kRightValue);
    visit(node.left, depth + 1, left);
    for (std::uint32_t q = 0; q < points_; ++q) below[q] = product[q] - product[q] * factor[q];
    visit(node.right, depth + 1, right);

    double sum = 0;
    for (std::uint32_t q = 0; q < points_; ++q) {
      const double difference = left[q] - right[q];
      double kernel = 1;
      if (repeated) {
        const double merged = z + point_[q] * (1 - z);
        kernel = z / (merged * merged);
      }
      sum += product[q] * difference * kernel;
      value[q] = right[q] + factor[q] * difference;
    }
    phi_[static_cast<std::size_t>(plan_.player_[node.column]) * plan_.n_outputs_] += h * sum;
  }

  bool came_along(std::uint32_t index, float x) const {
    if (!plan_.facts_.node[index].above.holds(x)) return false;
    for (const PathCondition& other : plan_.facts_.others(index))
      if (!other.above.holds(row_[other.column])) return false;
    return true;
  }

  static constexpr int kPollEvery = 256;  // splits between two looks at the stop token: some ten microseconds

  const PathDependentPlan& plan_;
  const StopToken& stop_;
  std::vector<double> scratch_;
  std::vector<double> root_value_;
  const double* point_ = nullptr;
  const double* values_ = nullptr;
  const float* row_ = nullptr;
  double* phi_ = nullptr;
  std::uint32_t points_ = 0, root_ = 0;
  int since_poll_ = 0;
};

void PathDependentPlan::explain(const float* rows, std::size_t begin, std::size_t end, double* phi,
                                const StopToken& stop) const {
  Walk walk(*this, stop);
  const std::size_t width = static_cast<std::size_t>(n_players_) * n_outputs_;
  for (std::size_t row = begin; row < end; ++row) {
    std::fill_n(phi + row * width, width, 0.0);
    for (const Game& game : games_) walk.run(game, rows + row * n_columns_, phi + row * width);
  }
}

}  // namespace xai::treeshap
