#include "treeshap/forest.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "treeshap/category_splits.h"

namespace xai::treeshap {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw InvalidForest(why); }

std::string at(std::int64_t tree, std::int64_t node) {
  return "tree " + std::to_string(tree) + ", node " + std::to_string(node) + ": ";
}

[[noreturn]] void refuse_shared(std::int64_t tree, std::int64_t node) {
  refuse(at(tree, node) + "is the child of two nodes; only a chain of categories may share its true child");
}

void check_length(const char* name, std::size_t got, std::size_t expected) {
  if (got != expected)
    refuse(std::string(name) + " has " + std::to_string(got) + " entries where " + std::to_string(expected) +
           " are due");
}

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high)
    refuse(std::string(name) + " is " + std::to_string(value) + ", must be from " + std::to_string(low) + " to " +
           std::to_string(high));
}

// Offsets that cut [0, total) into runs: begin at 0, never fall, end at total.
void check_offsets(const char* name, std::span<const std::int64_t> begin, std::size_t runs, std::size_t total) {
  check_length(name, begin.size(), runs + 1);
  if (begin.front() != 0 || begin.back() != static_cast<std::int64_t>(total))
    refuse(std::string(name) + " must run from 0 to " + std::to_string(total));
  if (!std::is_sorted(begin.begin(), begin.end())) refuse(std::string(name) + " must not fall");
}

void check_arrays(const RawForest& raw) {
  check_range("the number of features", raw.n_features, 1, Forest::kMaxFeatures);
  check_range("the number of outputs", raw.n_outputs, 1, Forest::kMaxOutputs);
  check_range("features times outputs", raw.n_features * raw.n_outputs, 1, Forest::kMaxAttributions);
  const std::size_t n = raw.kind.size();
  check_range("the number of nodes", static_cast<std::int64_t>(n), 1, Forest::kMaxNodes);
  check_length("feature", raw.feature.size(), n);
  check_length("threshold", raw.threshold.size(), n);
  check_length("nan_left", raw.nan_left.size(), n);
  check_length("left", raw.left.size(), n);
  check_length("right", raw.right.size(), n);
  if (!raw.cover.empty()) check_length("cover", raw.cover.size(), n);
  if (raw.tree_begin.size() < 2) refuse("a forest needs at least one tree");
  check_offsets("tree_begin", raw.tree_begin, raw.tree_begin.size() - 1, n);
  check_range("the number of leaf weights", static_cast<std::int64_t>(raw.weight.size()), 0,
              std::numeric_limits<std::int32_t>::max());
  check_offsets("weight_begin", raw.weight_begin, n, raw.weight.size());
  check_length("weight_output", raw.weight_output.size(), raw.weight.size());
  check_length("base", raw.base.size(), static_cast<std::size_t>(raw.n_outputs));
  if (!raw.set_begin.empty() || !raw.set_value.empty())
    check_offsets("set_begin", raw.set_begin, n, raw.set_value.size());
  for (float value : raw.set_value)
    if (std::isnan(value)) refuse("a set holds NaN");
  if (!raw.player.empty()) check_length("player", raw.player.size(), static_cast<std::size_t>(raw.n_features));
  for (std::int64_t player : raw.player) check_range("a player", player, 0, raw.n_features - 1);
  for (double b : raw.base)
    if (!std::isfinite(b)) refuse("a base value is not finite");
}

void check_node(const RawForest& raw, std::int64_t tree, std::int64_t i) {
  const std::int64_t begin = raw.tree_begin[tree], end = raw.tree_begin[tree + 1], local = i - begin;
  if (raw.kind[i] > static_cast<std::uint8_t>(NodeKind::kMember))
    refuse(at(tree, local) + "kind " + std::to_string(raw.kind[i]) + " is not known");
  if (!raw.cover.empty() && !(std::isfinite(raw.cover[i]) && raw.cover[i] >= 0))
    refuse(at(tree, local) + "its cover is " + std::to_string(raw.cover[i]) + ", must be finite and not negative");
  for (std::int64_t w = raw.weight_begin[i]; w < raw.weight_begin[i + 1]; ++w) {
    if (raw.weight_output[w] < 0 || raw.weight_output[w] >= raw.n_outputs)
      refuse(at(tree, local) + "adds to output " + std::to_string(raw.weight_output[w]) + " of " +
             std::to_string(raw.n_outputs));
    if (!std::isfinite(raw.weight[w])) refuse(at(tree, local) + "its weight is not finite");
  }
  if (raw.kind[i] == static_cast<std::uint8_t>(NodeKind::kLeaf)) return;
  if (raw.weight_begin[i] != raw.weight_begin[i + 1]) refuse(at(tree, local) + "an inner node carries a leaf weight");
  if (raw.feature[i] < 0 || raw.feature[i] >= raw.n_features)
    refuse(at(tree, local) + "splits on feature " + std::to_string(raw.feature[i]) + " of " +
           std::to_string(raw.n_features));
  const bool has_set = !raw.set_begin.empty() && raw.set_begin[i] != raw.set_begin[i + 1];
  if (has_set != (raw.kind[i] == static_cast<std::uint8_t>(NodeKind::kMember)))
    refuse(at(tree, local) + (has_set ? "has a set, but compares with a threshold" : "its set is empty"));
  if (!has_set && std::isnan(raw.threshold[i])) refuse(at(tree, local) + "its threshold is NaN");
  for (std::int64_t child : {raw.left[i], raw.right[i]})
    if (child <= begin || child >= end) refuse(at(tree, local) + "its child is not a node of the tree below its root");
  if (raw.left[i] == raw.right[i]) refuse(at(tree, local) + "both its children are one node");
}

// The float32 that every float32 compares with as with `threshold`.
float rounded(double threshold, NodeKind kind) {
  const auto nearest = static_cast<float>(threshold);
  const double back = nearest;
  if (kind == NodeKind::kLess && back < threshold)
    return std::nextafter(nearest, std::numeric_limits<float>::infinity());
  if (kind == NodeKind::kLessEqual && back > threshold)
    return std::nextafter(nearest, -std::numeric_limits<float>::infinity());
  return nearest;
}

// Converters that know no covers write 1 on every node; a true cover of a split is the sum of its children's.
bool covers_say_something(const RawForest& raw) {
  if (raw.cover.empty()) return false;
  bool any_split = false, all_one = true;
  for (std::size_t i = 0; i < raw.kind.size(); ++i) {
    any_split |= raw.kind[i] != static_cast<std::uint8_t>(NodeKind::kLeaf);
    all_one &= raw.cover[i] == 1.0;
  }
  if (any_split && all_one) return false;
  for (std::size_t t = 0; t + 1 < raw.tree_begin.size(); ++t) {
    const std::int64_t root = raw.tree_begin[t];
    const bool splits = root < raw.tree_begin[t + 1] && raw.kind[root] != static_cast<std::uint8_t>(NodeKind::kLeaf);
    if (splits && raw.cover[raw.left[root]] + raw.cover[raw.right[root]] == 0) return false;
  }
  return true;
}

}  // namespace

Forest Forest::build(const RawForest& raw) {
  check_arrays(raw);
  const auto n_trees = static_cast<std::int64_t>(raw.tree_begin.size()) - 1;
  for (std::int64_t t = 0; t < n_trees; ++t) {
    if (raw.tree_begin[t] == raw.tree_begin[t + 1]) refuse("tree " + std::to_string(t) + " has no node");
    for (std::int64_t i = raw.tree_begin[t]; i < raw.tree_begin[t + 1]; ++i) check_node(raw, t, i);
  }
  const bool covers = covers_say_something(raw);
  const CategorySplits categories(raw);

  Forest forest;
  forest.n_features_ = static_cast<int>(raw.n_features);
  forest.take_players(raw, categories.sets());
  forest.n_outputs_ = static_cast<int>(raw.n_outputs);
  forest.base_.assign(raw.base.begin(), raw.base.end());
  forest.nodes_.reserve(raw.kind.size());
  forest.weights_.reserve(raw.weight.size());
  forest.weight_begin_.reserve(raw.kind.size() + 1);
  if (covers) forest.cover_.reserve(raw.kind.size());

  // Copies each tree in preorder. A node met twice, or never met, is not part of a tree; with neither, there is no
  // cycle.
  struct Visit {
    std::int64_t node;
    std::int64_t parent;  // index in forest.nodes_, -1 for a root
    bool is_right;
    int depth;
  };
  std::vector<Visit> stack;
  std::vector<bool> met(raw.kind.size(), false);
  for (std::int64_t t = 0; t < n_trees; ++t) {
    const std::int64_t begin = raw.tree_begin[t];
    std::int64_t visited = 0;
    forest.roots_.push_back(static_cast<std::uint32_t>(forest.nodes_.size()));
    stack.push_back({begin, -1, false, 0});
    while (!stack.empty()) {
      const Visit visit = stack.back();
      stack.pop_back();
      const std::int64_t i = visit.node;
      if (met[i]) refuse_shared(t, i - begin);
      met[i] = true;
      ++visited;
      if (visit.depth > kMaxDepth) refuse("tree " + std::to_string(t) + " is deeper than " + std::to_string(kMaxDepth));
      forest.max_depth_ = std::max(forest.max_depth_, visit.depth);

      const auto self = static_cast<std::uint32_t>(forest.nodes_.size());
      if (visit.parent >= 0)
        (visit.is_right ? forest.nodes_[visit.parent].right : forest.nodes_[visit.parent].left) = self;
      const auto kind = static_cast<NodeKind>(raw.kind[i]);
      const bool leaf = kind == NodeKind::kLeaf;
      Node node{0.0F, -1, 0, 0, kind, raw.nan_left[i] != 0};
      std::int64_t right = raw.right[i];
      if (kind == NodeKind::kMember) {
        const CategorySplit* const split = categories.find(i);
        if (!split) refuse_shared(t, i - begin);
        for (std::int64_t absorbed : split->absorbed) {
          if (met[absorbed]) refuse_shared(t, absorbed - begin);
          met[absorbed] = true;
        }
        visited += static_cast<std::int64_t>(split->absorbed.size());
        right = split->right;
        node = {SetColumns::kThreshold, split->column, 0, 0, NodeKind::kLess, split->nan_left};
      } else if (!leaf) {
        node.column = static_cast<std::int32_t>(raw.feature[i]);
        node.threshold = rounded(raw.threshold[i], kind);
      }
      forest.nodes_.push_back(node);
      if (covers) forest.cover_.push_back(raw.cover[i]);
      forest.weight_begin_.push_back(static_cast<std::uint32_t>(forest.weights_.size()));
      for (std::int64_t w = raw.weight_begin[i]; w < raw.weight_begin[i + 1]; ++w)
        forest.weights_.push_back({static_cast<std::int32_t>(raw.weight_output[w]), raw.weight[w]});
      if (leaf) {
        ++forest.n_leaves_;
      } else {
        stack.push_back({right, self, true, visit.depth + 1});
        stack.push_back({raw.left[i], self, false, visit.depth + 1});
      }
    }
    if (visited != raw.tree_begin[t + 1] - begin)
      refuse("tree " + std::to_string(t) + " has " + std::to_string(raw.tree_begin[t + 1] - begin - visited) +
             " nodes that cannot be reached from its root");
  }
  forest.weight_begin_.push_back(static_cast<std::uint32_t>(forest.weights_.size()));
  return forest;
}

void Forest::take_players(const RawForest& raw, const std::vector<SetColumns::Set>& sets) {
  check_range("features and sets of categorical splits", raw.n_features + static_cast<std::int64_t>(sets.size()), 1,
              kMaxColumns);
  player_.reserve(raw.n_features + sets.size());
  for (std::int64_t feature = 0; feature < raw.n_features; ++feature)
    player_.push_back(static_cast<std::int32_t>(raw.player.empty() ? feature : raw.player[feature]));
  n_players_ = *std::max_element(player_.begin(), player_.end()) + 1;
  for (const SetColumns::Set& set : sets) player_.push_back(player_[set.feature]);
  if (!sets.empty()) sets_ = std::make_shared<const SetColumns>(n_features_, sets);
}

void Forest::predict(const float* row, double* margin) const {
  std::copy(base_.begin(), base_.end(), margin);
  for (std::uint32_t i : roots_) {
    while (nodes_[i].kind != NodeKind::kLeaf) {
      const Node& node = nodes_[i];
      const float value = node.column < n_features_ ? row[node.column] : sets_->value(node.column, row);
      i = node.goes_left(value) ? node.left : node.right;
    }
    for (const Weight& w : weights(i)) margin[w.output] += w.value;
  }
}

void require_covers(const Forest& forest) {
  if (forest.has_covers() || forest.max_depth() == 0) return;
  throw MissingCovers(
      "the file carries no covers (nodes_hitrates is empty, or 1 everywhere, or 0 at a root), and path-dependent SHAP "
      "needs them: pack the native model again with `xai pack`");
}

}  // namespace xai::treeshap
