#include "treeshap/rows_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "treeshap/quadrature.h"

namespace xai::treeshap {
namespace {

constexpr std::size_t kMaxSplits = std::size_t{1} << 24;  // 2 GiB: trees times the outputs they add to

}  // namespace

// Compiles one tree for one output after another into a plan.
class RowsPlan::Compiler {
 public:
  Compiler(RowsPlan& plan, const Forest& forest, const ForestFacts& facts)
      : plan_(plan),
        nodes_(forest.nodes()),
        forest_(forest),
        facts_(facts),
        value_(nodes_.size()),
        mean_(nodes_.size()) {
    dense_.assign(forest.n_columns(), 0);
    for (const Node& node : nodes_)
      if (node.kind != NodeKind::kLeaf) dense_[node.column] = 1;
    for (std::uint32_t column = 0; column < dense_.size(); ++column)
      if (dense_[column]) {
        dense_[column] = static_cast<std::uint32_t>(plan_.columns_.size());
        plan_.columns_.push_back(column);
        plan_.players_.push_back(static_cast<std::uint32_t>(forest.player()[column]));
      }
  }

  void add_tree(std::size_t tree) {
    const std::uint32_t root = forest_.roots()[tree];
    if (nodes_[root].kind == NodeKind::kLeaf) return;  // the same for all rows: it is in the base value
    const std::uint32_t end = tree + 1 < forest_.n_trees() ? forest_.roots()[tree + 1] : nodes_.size();
    std::set<std::int32_t> outputs;
    for (std::uint32_t node = root; node < end; ++node)
      for (const Weight& weight : forest_.weights(node)) outputs.insert(weight.output);
    // Before any work on them: a small file can ask for many outputs of a large tree.
    if (plan_.splits_.size() + outputs.size() * ((end - root) / 2) > kMaxSplits)
      throw InvalidForest("its splits times the outputs they add to are more than " + std::to_string(kMaxSplits));
    rule_ = rule_for(facts_.distinct[tree], facts_.limit_at_zero[tree]);
    for (const std::int32_t output : outputs) {
      for (std::uint32_t node = end; node-- > root;) {  // children stand behind their parents
        value_[node] = 0;
        for (const Weight& weight : forest_.weights(node))
          if (weight.output == output) value_[node] += weight.value;
        const double r = facts_.node[node].ratio;
        mean_[node] = nodes_[node].kind == NodeKind::kLeaf
                          ? value_[node]
                          : r * mean_[nodes_[node].left] + (1 - r) * mean_[nodes_[node].right];
      }
      // What all leaves share is in the base value, too. Left here, differences of leaves would drown in its float32.
      const double shared = mean_[root];
      for (std::uint32_t node = root; node < end; ++node) {
        value_[node] -= shared;
        mean_[node] -= shared;
      }
      const auto first = static_cast<std::uint32_t>(plan_.splits_.size());
      const std::uint32_t split = add_split(root);
      plan_.trees_.push_back({split, static_cast<std::uint32_t>(plan_.splits_.size()) - first, output, rule_});
    }
  }

 private:
  bool leaf(std::uint32_t node) const { return nodes_[node].kind == NodeKind::kLeaf; }

  // d distinct features: (d - 1) / 2 points and a constant for odd d > 1, where t = 0 may be a point; else ceil(d / 2).
  std::uint16_t rule_for(int distinct, bool limit_at_zero) {
    const bool odd = limit_at_zero && distinct % 2 == 1 && distinct > 1;
    const auto [entry, is_new] = rule_of_.try_emplace({distinct, odd}, static_cast<std::uint16_t>(plan_.rules_.size()));
    if (is_new) {
      const Quadrature full = odd ? gauss_radau((distinct + 1) / 2) : gauss_legendre(std::max(1, (distinct + 1) / 2));
      points_.emplace_back(full.point.begin() + odd, full.point.end());
      RowsRule rule{};
      rule.points = static_cast<int>(points_.back().size());
      std::copy(full.point.begin() + odd, full.point.end(), rule.point);
      std::copy(full.weight.begin() + odd, full.weight.end(), rule.weight);
      rule.weight_at_zero = odd ? full.weight.front() : 0.0;
      plan_.rules_.push_back(rule);
    }
    return entry->second;
  }

  Comparison comparison(const Node& node) const {
    return {upper_bound_of_left(node), dense_[node.column], node.nan_left};
  }

  RowsChild add_child(std::uint32_t index) {
    const Node& node = nodes_[index];
    RowsChild child{};
    if (leaf(index)) {
      child.kind = ChildKind::kLeaf;
      child.expected = static_cast<float>(value_[index]);
    } else if (leaf(node.left) && leaf(node.right) && !facts_.node[index].repeated) {
      const double r = facts_.node[index].ratio, difference = value_[node.left] - value_[node.right];
      child.kind = ChildKind::kBottom;
      child.at = comparison(node);
      child.expected = static_cast<float>(mean_[index]);
      child.if_left = static_cast<float>((1 - r) * difference);
      child.if_right = static_cast<float>(-r * difference);
      child.constant = static_cast<float>(plan_.rules_[rule_].weight_at_zero * facts_.node[index].reach);
    } else {
      child.kind = ChildKind::kSplit;
      child.split = add_split(index);
    }
    return child;
  }

  std::uint32_t add_split(std::uint32_t index) {
    const auto self = static_cast<std::uint32_t>(plan_.splits_.size());
    plan_.splits_.emplace_back();
    const Node& node = nodes_[index];
    const PathFacts& facts = facts_.node[index];
    const double at_zero = plan_.rules_[rule_].weight_at_zero * facts.reach;
    RowsSplit split{};
    split.at = comparison(node);
    split.ratio = static_cast<float>(facts.ratio);
    // At t = 0 the kernel K is z / z^2; where z is 0 nothing reaches.
    split.constant =
        at_zero > 0 ? static_cast<float>(at_zero * (mean_[node.left] - mean_[node.right]) / facts.merged) : 0.0F;
    split.repeat = facts.repeated ? add_repeat(index) : -1;
    split.left = add_child(node.left);
    split.right = add_child(node.right);
    const bool left_bottom = split.left.kind == ChildKind::kBottom,
               right_bottom = split.right.kind == ChildKind::kBottom;
    split.twig = !facts.repeated && (left_bottom || right_bottom) && split.left.kind != ChildKind::kSplit &&
                 split.right.kind != ChildKind::kSplit;
    split.difference = static_cast<float>(mean_[node.left] - mean_[node.right]);
    split.mean = static_cast<float>(mean_[index]);
    split.moment = static_cast<float>(at_zero);
    plan_.splits_[self] = split;
    return self;
  }

  std::int32_t add_repeat(std::uint32_t index) {
    const PathFacts& facts = facts_.node[index];
    const auto self = static_cast<std::int32_t>(plan_.repeats_.size());
    const auto first = static_cast<std::uint32_t>(plan_.conditions_.size());
    add_condition(nodes_[index].column, facts.above);
    for (const PathCondition& other : facts_.others(index)) add_condition(other.column, other.above);
    plan_.repeats_.push_back({first, static_cast<std::uint32_t>(plan_.conditions_.size()),
                              static_cast<std::uint32_t>(plan_.factors_.size())});
    const double z = facts.merged;
    for (double t : points_[rule_]) plan_.factors_.push_back(static_cast<float>(t / (z + t * (1 - z))));
    for (double t : points_[rule_]) {
      const double merged = z + t * (1 - z);
      plan_.factors_.push_back(static_cast<float>(z / (merged * merged)));
    }
    return self;
  }

  void add_condition(std::int32_t column, const Along& above) {
    plan_.conditions_.push_back({above.low, above.high, dense_[column], above.nan_along});
  }

  RowsPlan& plan_;
  const std::vector<Node>& nodes_;
  const Forest& forest_;
  const ForestFacts& facts_;
  std::vector<double> value_, mean_;  // of the output at hand, by node
  std::vector<std::uint32_t> dense_;  // by column: its index in plan_.columns_
  std::map<std::pair<int, bool>, std::uint16_t> rule_of_;
  std::vector<std::vector<double>> points_;  // by rule, in float64
  std::uint16_t rule_ = 0;
};

bool RowsPlan::supports(const Forest& forest, const ForestFacts& facts) {
  return forest.max_depth() <= kMaxDepth && facts.most_distinct <= 2 * kMaxPoints;
}

RowsPlan::RowsPlan(const Forest& forest, const ForestFacts& facts)
    : n_columns(forest.n_columns()), n_players(forest.n_players()), n_outputs(forest.n_outputs()) {
  Compiler compiler(*this, forest, facts);
  for (std::size_t tree = 0; tree < forest.n_trees(); ++tree) compiler.add_tree(tree);
  std::stable_sort(trees_.begin(), trees_.end(),
                   [](const RowsTree& a, const RowsTree& b) { return a.output < b.output; });
  n_used = columns_.size();
  n_trees = trees_.size();
  used_columns = columns_.data();
  used_players = players_.data();
  tree_data = trees_.data();
  rule_data = rules_.data();
  split_data = splits_.data();
  repeat_data = repeats_.data();
  condition_data = conditions_.data();
  factor_data = factors_.data();
}

std::size_t RowsPlan::memory_bytes() const {
  return splits_.size() * sizeof(RowsSplit) + repeats_.size() * sizeof(RowsRepeat) +
         conditions_.size() * sizeof(RowsCondition) + factors_.size() * sizeof(float) +
         trees_.size() * sizeof(RowsTree) + rules_.size() * sizeof(RowsRule) +
         (columns_.size() + players_.size()) * sizeof(std::uint32_t);
}

}  // namespace xai::treeshap
