#include "treeshap/interventional_walk.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include "treeshap/path_facts.h"

namespace xai::treeshap {
namespace {

// Leaf values are stored for each output that a tree adds to; a hostile file must not make that explode.
constexpr std::size_t kMaxLeafValues = std::size_t{1} << 27;
constexpr std::size_t kMaxOthers = ForestFacts::kMaxConditions;

// Background rows that are walked together: their scratch, a few dozen bytes a level each, stays in cache and bounded.
constexpr std::size_t kTogether = 512;

}  // namespace

// Lays the trees out and finds, for each split, what the path above it already says of its feature.
class BackgroundWalk::Compiler {
 public:
  Compiler(BackgroundWalk& plan, const Forest& forest)
      : plan_(plan),
        forest_(forest),
        seen_(forest.n_columns(), {Along::anything(), 0}),
        splits_on_(forest.n_players(), 0),
        on_path_(forest.n_players()),
        place_(forest.n_columns(), -1) {}

  void add_tree(std::uint32_t root) {
    if (forest_.nodes()[root].kind == NodeKind::kLeaf) return;  // the same for all rows: it is in the base value
    const auto first = static_cast<std::uint32_t>(plan_.splits_.size());
    leaves_.clear();
    add(root, 0);
    std::map<std::int32_t, std::vector<double>> values;  // by output: one for each leaf
    for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf)
      for (const Weight& weight : forest_.weights(leaves_[leaf])) {
        std::vector<double>& of_output = values[weight.output];
        if (of_output.empty()) {
          if (plan_.leaf_value_.size() + values.size() * leaves_.size() > kMaxLeafValues)
            throw InvalidForest("its leaves times the outputs they add to are more than " +
                                std::to_string(kMaxLeafValues));
          of_output.resize(leaves_.size(), 0.0);
        }
        of_output[leaf] += weight.value;
      }
    for (const auto& [output, of_output] : values) {
      plan_.games_.push_back({first, output, plan_.leaf_value_.size()});
      plan_.leaf_value_.insert(plan_.leaf_value_.end(), of_output.begin(), of_output.end());
    }
  }

  const std::vector<std::int32_t>& used() const { return used_; }

 private:
  struct Seen {
    Along along;
    int splits;
  };

  void add(std::uint32_t index, int depth) {
    const Node& node = forest_.nodes()[index];
    const auto self = static_cast<std::uint32_t>(plan_.splits_.size());
    plan_.splits_.push_back({0, -1, -1, 0, 0, Along::anything(), false, false, 0, 0});
    if (node.kind == NodeKind::kLeaf) {
      plan_.splits_[self].right = static_cast<std::uint32_t>(leaves_.size());
      leaves_.push_back(index);
      plan_.deepest_ = std::max(plan_.deepest_, depth);
      plan_.most_distinct_ = std::max(plan_.most_distinct_, distinct_);
      return;
    }
    if (place_[node.column] < 0) {
      place_[node.column] = static_cast<std::int32_t>(used_.size());
      used_.push_back(node.column);
    }
    const std::int32_t player = forest_.player()[node.column];
    const Seen above = seen_[node.column];
    const auto others_begin = static_cast<std::uint32_t>(plan_.others_.size());
    for (std::int32_t other : on_path_[player])
      if (other != node.column)
        plan_.others_.push_back({other, static_cast<std::uint32_t>(place_[other]), seen_[other].along});
    if (plan_.others_.size() > kMaxOthers)
      throw InvalidForest("its players of several columns stand on its paths too often");
    plan_.splits_[self] = {upper_bound_of_left(node),
                           node.column,
                           player,
                           0,
                           static_cast<std::uint32_t>(place_[node.column]),
                           above.along,
                           node.nan_left,
                           splits_on_[player] > 0,
                           others_begin,
                           static_cast<std::uint32_t>(plan_.others_.size())};
    distinct_ += splits_on_[player]++ == 0;
    if (above.splits == 0) on_path_[player].push_back(node.column);
    seen_[node.column] = {above.along.after(node, true), above.splits + 1};
    add(node.left, depth + 1);
    plan_.splits_[self].right = static_cast<std::uint32_t>(plan_.splits_.size());
    seen_[node.column] = {above.along.after(node, false), above.splits + 1};
    add(node.right, depth + 1);
    seen_[node.column] = above;
    if (above.splits == 0) on_path_[player].pop_back();
    distinct_ -= --splits_on_[player] == 0;
  }

  BackgroundWalk& plan_;
  const Forest& forest_;
  std::vector<Seen> seen_;                          // by column, on the current path
  std::vector<int> splits_on_;                      // by player, on the current path
  std::vector<std::vector<std::int32_t>> on_path_;  // by player: its columns on the current path
  std::vector<std::int32_t> place_;                 // by column: its place in used_, -1: not used so far
  std::vector<std::int32_t> used_;
  std::vector<std::uint32_t> leaves_;
  int distinct_ = 0;
};

BackgroundWalk::BackgroundWalk(const Forest& forest, const std::vector<std::uint32_t>& trees, const float* background,
                               std::size_t n_background)
    : n_columns_(forest.n_columns()),
      n_players_(forest.n_players()),
      n_outputs_(forest.n_outputs()),
      n_background_(n_background) {
  Compiler compiler(*this, forest);
  for (std::uint32_t tree : trees) compiler.add_tree(forest.roots()[tree]);
  columns_.reserve(compiler.used().size() * n_background);
  for (std::int32_t column : compiler.used())
    for (std::size_t row = 0; row < n_background; ++row) columns_.push_back(background[row * n_columns_ + column]);
  // By recurrence, so that nothing overflows: w(p, 0) = 1 / p and w(p, n) = w(p, n - 1) n / (p + n).
  const auto width = static_cast<std::size_t>(most_distinct_) + 1;
  weight_.assign(width * width, 0.0);
  for (std::size_t p = 1; p < width; ++p)
    weight_[p] = 1.0 / (static_cast<double>(p) * static_cast<double>(n_background));
  for (std::size_t n = 1; n < width; ++n)
    for (std::size_t p = 1; p < width; ++p)
      weight_[n * width + p] = weight_[(n - 1) * width + p] * static_cast<double>(n) / static_cast<double>(p + n);
}

std::size_t BackgroundWalk::memory_bytes() const {
  return splits_.size() * sizeof(Split) + others_.size() * sizeof(Other) + games_.size() * sizeof(Game) +
         (leaf_value_.size() + weight_.size()) * sizeof(double) + columns_.size() * sizeof(float);
}

// One row's depth-first walk with a part of the background. Holds the scratch of one thread.
class BackgroundWalk::Walk {
 public:
  Walk(const BackgroundWalk& plan, const StopToken& stop)
      : plan_(plan),
        stop_(stop),
        together_(std::min(kTogether, plan.n_background_)),
        width_(static_cast<std::size_t>(plan.most_distinct_) + 1),
        lists_(
            std::make_unique_for_overwrite<Count[]>(static_cast<std::size_t>(plan.deepest_ + 1) * together_ * kLists)),
        sums_(
            std::make_unique_for_overwrite<double[]>(static_cast<std::size_t>(plan.deepest_ + 1) * together_ * kSums)) {
  }

  // Adds one game's attributions of `row` to phi[player * n_outputs + output], background rows [begin, begin + count).
  void run(const Game& game, const float* row, double* phi, std::size_t begin) {
    const std::size_t count = std::min(together_, plan_.n_background_ - begin);
    stop_.throw_if_stopped();
    leaf_value_ = plan_.leaf_value_.data() + game.first_leaf;
    columns_ = plan_.columns_.data() + begin;
    row_ = row;
    phi_ = phi + game.output;
    Count* const who = list(0, kWho);
    for (std::size_t k = 0; k < count; ++k) who[k] = static_cast<Count>(k);
    std::fill_n(list(0, kParted), count, Count{0});
    visit(game.root, 0, 0, {who, list(0, kParted), count}, sum(0, kPlus), sum(0, kMinus));
  }

 private:
  using Count = std::uint16_t;
  // The background rows under way at a node: which, and how many features each has in P.
  struct Group {
    const Count* who;
    const Count* parted;
    std::size_t size;
  };
  // The scratch of a level holds what its group is made of, and the group's places in the level above.
  enum List { kWho, kParted, kPlace, kLists };
  enum Sum { kPlus, kMinus, kSums };

  Count* list(int depth, List which) {
    return lists_.get() + (static_cast<std::size_t>(depth) * kLists + which) * together_;
  }
  double* sum(int depth, Sum which) {
    return sums_.get() + (static_cast<std::size_t>(depth) * kSums + which) * together_;
  }

  static bool goes_left(const Split& split, float value) {
    return value != value ? split.nan_left : !(value >= split.bound);
  }

  // Whether the splits above on this player were all gone along with; `value` is the split's column, `of` finds others.
  template <class Of>
  bool came_along(const Split& split, float value, Of of) const {
    bool along = split.above.holds(value);
    for (std::uint32_t o = split.others_begin; along && o < split.others_end; ++o)
      along = plan_.others_[o].along.holds(of(plan_.others_[o]));
    return along;
  }

  // Writes to plus[k] and minus[k], for each of the group, the sums over the leaves below of what a feature of P gets,
  // and of what one of N loses.
  void visit(std::uint32_t index, int depth, std::size_t n, const Group& group, double* plus, double* minus) {
    const Split& split = plan_.splits_[index];
    if (split.column < 0) {
      const double value = leaf_value_[split.right];
      const double* weight = plan_.weight_.data() + n * width_;
      for (std::size_t k = 0; k < group.size; ++k) {
        const std::size_t p = group.parted[k];
        plus[k] = value * weight[p];
        minus[k] = value * plan_.weight_[p * width_ + n];
      }
      return;
    }
    work_ += group.size + kNodeWork;
    if (work_ >= kPollEvery) {
      work_ = 0;
      stop_.throw_if_stopped();
    }
    const float x = row_[split.column];
    const bool x_left = goes_left(split, x);
    const std::uint32_t left = index + 1, right = split.right;
    if (split.repeated && !came_along(split, x, [&](const Other& other) { return row_[other.column]; })) {
      // x has failed this player: each background row goes its own way.
      choose(left, true, split, depth, n, group, plus, minus);
      choose(right, false, split, depth, n, group, plus, minus);
      return;
    }
    // Everyone goes with x. Those who part from it here also go to the other child, alone.
    const float* column = columns_ + split.used * plan_.n_background_;
    Count *const parted = list(depth + 1, kParted), *const place = list(depth + 1, kPlace);
    std::size_t others = 0;
    for (std::size_t k = 0; k < group.size; ++k) {
      const float value = column[group.who[k]];
      const bool parts =
          goes_left(split, value) != x_left && (!split.repeated || came_along(split, value, [&](const Other& other) {
            return columns_[other.used * plan_.n_background_ + group.who[k]];
          }));
      parted[k] = static_cast<Count>(group.parted[k] + parts);
      place[others] = static_cast<Count>(k);
      others += parts;
    }
    visit(x_left ? left : right, depth + 1, n, {group.who, parted, group.size}, plus, minus);
    if (others == 0) return;
    Count* const who = list(depth + 1, kWho);
    for (std::size_t m = 0; m < others; ++m) {
      who[m] = group.who[place[m]];
      parted[m] = group.parted[place[m]];
    }
    double *const other_plus = sum(depth + 1, kPlus), *const other_minus = sum(depth + 1, kMinus);
    visit(x_left ? right : left, depth + 1, n + 1, {who, parted, others}, other_plus, other_minus);
    double gain = 0;
    for (std::size_t m = 0; m < others; ++m) {
      const std::size_t k = place[m];
      gain += plus[k] - other_minus[m];
      plus[k] += other_plus[m];
      minus[k] += other_minus[m];
    }
    phi_[static_cast<std::size_t>(split.player) * plan_.n_outputs_] += gain;
  }

  // Visits the child at `side` with those of the group who go there by themselves.
  void choose(std::uint32_t child, bool side, const Split& split, int depth, std::size_t n, const Group& group,
              double* plus, double* minus) {
    const float* column = columns_ + split.used * plan_.n_background_;
    Count *const who = list(depth + 1, kWho), *const parted = list(depth + 1, kParted);
    Count* const place = list(depth + 1, kPlace);
    std::size_t size = 0;
    for (std::size_t k = 0; k < group.size; ++k) {
      who[size] = group.who[k];
      parted[size] = group.parted[k];
      place[size] = static_cast<Count>(k);
      size += goes_left(split, column[group.who[k]]) == side;
    }
    if (size == 0) return;
    double *const child_plus = sum(depth + 1, kPlus), *const child_minus = sum(depth + 1, kMinus);
    visit(child, depth + 1, n, {who, parted, size}, child_plus, child_minus);
    for (std::size_t m = 0; m < size; ++m) {
      plus[place[m]] = child_plus[m];
      minus[place[m]] = child_minus[m];
    }
  }

  static constexpr std::size_t kPollEvery = 8192;  // background rows at nodes between two looks at the stop token
  static constexpr std::size_t kNodeWork = 16;

  const BackgroundWalk& plan_;
  const StopToken& stop_;
  std::size_t together_, width_;
  // Not cleared: megabytes for the deepest trees, most of it never touched.
  std::unique_ptr<Count[]> lists_;
  std::unique_ptr<double[]> sums_;
  const double* leaf_value_ = nullptr;
  const float* columns_ = nullptr;
  const float* row_ = nullptr;
  double* phi_ = nullptr;
  std::size_t work_ = 0;
};

void BackgroundWalk::add(const float* rows, std::size_t begin, std::size_t end, double* phi,
                         const StopToken& stop) const {
  if (games_.empty()) return;
  Walk walk(*this, stop);
  const std::size_t width = static_cast<std::size_t>(n_players_) * n_outputs_;
  for (std::size_t row = begin; row < end; ++row)
    for (const Game& game : games_)
      for (std::size_t start = 0; start < n_background_; start += std::min(kTogether, n_background_))
        walk.run(game, rows + row * n_columns_, phi + row * width, start);
}

}  // namespace xai::treeshap
