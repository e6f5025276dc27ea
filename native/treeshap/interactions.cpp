#include "treeshap/interactions.h"

#include <algorithm>
#include <map>
#include <string>

namespace xai::treeshap {
namespace {

// Leaf values are stored for each output that a tree adds to; a hostile file must not make that explode.
constexpr std::size_t kMaxLeafValues = std::size_t{1} << 27;

constexpr std::size_t kFillAtOnce = std::size_t{1} << 16;  // values zeroed between two looks at the stop token

}  // namespace

InteractionsPlan::InteractionsPlan(const Forest& forest, const ForestFacts& facts)
    : n_features_(forest.n_features()),
      n_columns_(forest.n_columns()),
      n_players_(forest.n_players()),
      n_outputs_(forest.n_outputs()),
      max_depth_(forest.max_depth()),
      most_distinct_(facts.most_distinct),
      conditions_(facts.conditions),
      sets_(forest.sets()),
      base_values_(forest.base()) {
  require_covers(forest);
  const auto players = static_cast<std::int64_t>(n_players_);
  if (players * players > Forest::kMaxAttributions / n_outputs_)
    throw InvalidForest("one row's interactions of " + std::to_string(n_players_) + " features and " +
                        std::to_string(n_outputs_) + " outputs are more than " +
                        std::to_string(Forest::kMaxAttributions) + " values");
  const std::vector<Node>& nodes = forest.nodes();
  splits_.resize(nodes.size());
  for (std::size_t tree = 0; tree < forest.n_trees(); ++tree) {
    const std::uint32_t root = forest.roots()[tree];
    const auto end = static_cast<std::uint32_t>(tree + 1 < forest.n_trees() ? forest.roots()[tree + 1] : nodes.size());
    std::map<std::int32_t, std::vector<double>> values;  // by output: one for each leaf
    std::uint32_t n_leaves = 0;
    for (std::uint32_t index = root; index < end; ++index) n_leaves += nodes[index].kind == NodeKind::kLeaf;
    std::uint32_t leaf = 0;
    for (std::uint32_t index = root; index < end; ++index) {
      const Node& node = nodes[index];
      const PathFacts& known = facts.node[index];
      if (node.kind != NodeKind::kLeaf) {
        splits_[index] = {upper_bound_of_left(node),
                          known.above,
                          node.column,
                          forest.player()[node.column],
                          node.right,
                          known.ratio,
                          known.merged,
                          node.nan_left,
                          known.repeated,
                          known.others_begin,
                          known.others_end};
        continue;
      }
      splits_[index] = {0, Along::anything(), -1, -1, leaf, 0, 0, false, false, 0, 0};
      for (const Weight& weight : forest.weights(index)) {
        std::vector<double>& of_output = values[weight.output];
        if (of_output.empty()) {
          if (leaf_value_.size() + values.size() * n_leaves > kMaxLeafValues)
            throw InvalidForest("its leaves times the outputs they add to are more than " +
                                std::to_string(kMaxLeafValues));
          of_output.resize(n_leaves, 0.0);
        }
        of_output[leaf] += weight.value;
        base_values_[weight.output] += weight.value * known.reach;
      }
      ++leaf;
    }
    if (nodes[root].kind == NodeKind::kLeaf) continue;  // the same for all rows: it is in the base value
    const auto points = static_cast<std::uint32_t>(std::max(1, (facts.distinct[tree] + 1) / 2));
    max_points_ = std::max(max_points_, points);
    for (const auto& [output, of_output] : values) {
      games_.push_back({root, output, points, leaf_value_.size()});
      leaf_value_.insert(leaf_value_.end(), of_output.begin(), of_output.end());
    }
  }
  quadrature_.resize(max_points_ + 1);
  for (const Game& game : games_)
    if (quadrature_[game.points].point.empty())
      quadrature_[game.points] = gauss_legendre(static_cast<int>(game.points));
}

std::size_t InteractionsPlan::memory_bytes() const {
  return splits_.size() * sizeof(Split) + conditions_.size() * sizeof(PathCondition) +
         (sets_ ? sets_->memory_bytes() : 0) + games_.size() * sizeof(Game) + leaf_value_.size() * sizeof(double);
}

// One row's depth-first walk. Holds the scratch of one thread.
class InteractionsPlan::Walk {
 public:
  Walk(const InteractionsPlan& plan, const StopToken& stop)
      : plan_(plan),
        stop_(stop),
        scratch_((plan.max_depth_ + 1) * static_cast<std::size_t>(kBuffers) * plan.max_points_),
        rho_((plan.most_distinct_ + 1) * static_cast<std::size_t>(plan.max_points_)),
        root_value_(plan.max_points_),
        integrand_(plan.max_points_),
        slot_(plan.n_players_, -1) {
    player_.reserve(plan.most_distinct_ + 1);
  }

  // Adds one game's attributions of `row` to the diagonal of phi[player][player][output], and its interactions to the
  // triangle above it.
  void run(const Game& game, const float* row, double* phi) {
    const Quadrature& quadrature = plan_.quadrature_[game.points];
    points_ = game.points;
    point_ = quadrature.point.data();
    leaf_value_ = plan_.leaf_value_.data() + game.first_leaf;
    row_ = row;
    phi_ = phi + game.output;
    stop_.throw_if_stopped();
    std::copy(quadrature.weight.begin(), quadrature.weight.end(), buffer(0, kProduct));
    visit(game.root, 0, root_value_.data());
  }

 private:
  enum Buffer { kProduct, kFactor, kLeftValue, kRightValue, kOuterRho, kBuffers };

  double* buffer(int depth, Buffer which) {
    return scratch_.data() + (static_cast<std::size_t>(depth) * kBuffers + which) * plan_.max_points_;
  }

  double* rho(std::size_t slot) { return rho_.data() + slot * plan_.max_points_; }

  double& phi_of(std::int32_t a, std::int32_t b) {
    return phi_[(static_cast<std::size_t>(std::min(a, b)) * plan_.n_players_ + std::max(a, b)) * plan_.n_outputs_];
  }

  // Visits a subtree whose products stand in buffer(depth, kProduct) and writes what comes up from it to `value`.
  void visit(std::uint32_t index, int depth, double* value) {
    const Split& split = plan_.splits_[index];
    if (split.column < 0) {
      std::fill_n(value, points_, leaf_value_[split.right]);
      return;
    }
    const float x = row_[split.column];
    const bool goes_left = x != x ? split.nan_left : !(x >= split.bound);
    const bool along = came_along(split, x);
    const double r = split.ratio, z = split.merged;
    const double h = along ? (goes_left ? 1.0 : 0.0) - r : 0.0;

    const double* product = buffer(depth, kProduct);
    double* factor = buffer(depth, kFactor);
    double* below = buffer(depth + 1, kProduct);
    for (std::uint32_t q = 0; q < points_; ++q) {
      const double tau = split.repeated ? point_[q] / (z + point_[q] * (1 - z)) : point_[q];
      factor[q] = r + tau * h;
      below[q] = product[q] * factor[q];
    }

    const bool is_new = slot_[split.player] < 0;
    if (is_new) {
      slot_[split.player] = static_cast<std::int32_t>(player_.size());
      player_.push_back(split.player);
    }
    double* own_rho = rho(slot_[split.player]);
    double* outer_rho = buffer(depth, kOuterRho);
    std::copy_n(own_rho, points_, outer_rho);

    double* left = buffer(depth, kLeftValue);
    double* right = buffer(depth, kRightValue);
    set_rho(own_rho, along && goes_left, z * r);
    visit(index + 1, depth + 1, left);
    for (std::uint32_t q = 0; q < points_; ++q) below[q] = product[q] - product[q] * factor[q];
    set_rho(own_rho, along && !goes_left, z * (1 - r));
    visit(split.right, depth + 1, right);

    std::copy_n(outer_rho, points_, own_rho);
    if (is_new) {
      player_.pop_back();
      slot_[split.player] = -1;
    }
    if (h != 0) add(split, h, product, left, right);
    for (std::uint32_t q = 0; q < points_; ++q) value[q] = right[q] + factor[q] * (left[q] - right[q]);
    poll();
  }

  bool came_along(const Split& split, float x) const {
    if (!split.above.holds(x)) return false;
    for (std::uint32_t other = split.others_begin; other < split.others_end; ++other)
      if (!plan_.conditions_[other].above.holds(row_[plan_.conditions_[other].column])) return false;
    return true;
  }

  void set_rho(double* rho, bool along, double z) {
    if (along)
      for (std::uint32_t q = 0; q < points_; ++q) rho[q] = (1 - z) / (z + point_[q] * (1 - z));
    else
      for (std::uint32_t q = 0; q < points_; ++q) rho[q] = -1 / (1 - point_[q]);
  }

  // Adds the split's part of its player's attribution, and of that player's interactions with those above it.
  void add(const Split& split, double h, const double* product, const double* left, const double* right) {
    const double z = split.merged;
    double sum = 0;
    for (std::uint32_t q = 0; q < points_; ++q) {
      const double merged = z + point_[q] * (1 - z);
      const double kernel = split.repeated ? z / (merged * merged) : 1.0;
      integrand_[q] = h * product[q] * (left[q] - right[q]) * kernel;
      sum += integrand_[q];
    }
    phi_of(split.player, split.player) += sum;
    for (std::size_t slot = 0; slot < player_.size(); ++slot) {
      if (player_[slot] == split.player) continue;
      const double* derivative = rho(slot);
      double second = 0;
      for (std::uint32_t q = 0; q < points_; ++q) second += integrand_[q] * derivative[q];
      phi_of(player_[slot], split.player) += second / 2;
      poll();
    }
  }

  void poll() {
    work_ += points_;
    if (work_ < kPollEvery) return;
    work_ = 0;
    stop_.throw_if_stopped();
  }

  static constexpr std::uint32_t kPollEvery =
      4096;  // points between two looks at the stop token: some ten microseconds

  const InteractionsPlan& plan_;
  const StopToken& stop_;
  std::vector<double> scratch_;
  std::vector<double> rho_;  // by slot: of the players on the path
  std::vector<double> root_value_;
  std::vector<double> integrand_;
  std::vector<std::int32_t> slot_;    // by player: where it stands in player_, -1: not on the path
  std::vector<std::int32_t> player_;  // on the path, from the root
  const double* point_ = nullptr;
  const double* leaf_value_ = nullptr;
  const float* row_ = nullptr;
  double* phi_ = nullptr;
  std::uint32_t points_ = 0, work_ = 0;
};

void InteractionsPlan::explain(const float* rows, std::size_t begin, std::size_t end, double* phi,
                               const StopToken& stop) const {
  const std::size_t width = static_cast<std::size_t>(n_players_) * n_players_ * n_outputs_;
  for_columns(sets_.get(), n_features_, rows, begin, end, [&](const float* wide, std::size_t from, std::size_t to) {
    explain_wide(wide, to - from, phi + from * width, stop);
  });
}

void InteractionsPlan::explain_wide(const float* rows, std::size_t n, double* phi, const StopToken& stop) const {
  Walk walk(*this, stop);
  const std::size_t features = n_players_, outputs = n_outputs_;
  const std::size_t width = features * features * outputs;
  for (std::size_t row = 0; row < n; ++row) {
    double* const matrix = phi + row * width;
    for (std::size_t done = 0; done < width; done += kFillAtOnce) {
      std::fill_n(matrix + done, std::min(kFillAtOnce, width - done), 0.0);
      stop.throw_if_stopped();
    }
    for (const Game& game : games_) walk.run(game, rows + row * n_columns_, matrix);
    for (std::size_t i = 0; i < features; ++i) {
      for (std::size_t j = i + 1; j < features; ++j) {
        stop.throw_if_stopped();
        for (std::size_t output = 0; output < outputs; ++output) {
          const double value = matrix[(i * features + j) * outputs + output];
          matrix[(j * features + i) * outputs + output] = value;
          matrix[(i * features + i) * outputs + output] -= value;
          matrix[(j * features + j) * outputs + output] -= value;
        }
      }
    }
  }
}

}  // namespace xai::treeshap
