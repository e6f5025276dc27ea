#include "treeshap/interventional_groups.h"

#include <algorithm>

namespace xai::treeshap {
namespace {

constexpr std::size_t kMaxDepth = 32;  // deeper trees are not cut: it would take long, and they repeat few features

// What the path to the current node says of its columns.
class Path {
 public:
  void enter(const Node& split, bool left) {
    const auto known = find(split.column);
    const Along before = known == bits_.size() ? Along::anything() : bits_[known].along;
    const bool is_new = known == bits_.size();
    undo_.push_back({known, before, is_new});
    if (is_new) bits_.push_back({split.column, true, before});
    bits_[known].along = before.after(split, left);
  }
  void leave() {
    const auto [known, before, is_new] = undo_.back();
    undo_.pop_back();
    if (is_new)
      bits_.pop_back();
    else
      bits_[known].along = before;
  }
  const std::vector<GroupBit>& bits() const { return bits_; }

 private:
  struct Undo {
    std::size_t place;
    Along before;
    bool is_new;
  };
  std::size_t find(std::int32_t column) const {
    std::size_t place = 0;
    while (place < bits_.size() && bits_[place].column != column) ++place;
    return place;
  }

  std::vector<GroupBit> bits_;
  std::vector<Undo> undo_;
};

}  // namespace

// Dynamic programming from the bottom: a subtree is a group, or cut at its root's children, whichever is cheaper.
class TreeCut::Planner {
 public:
  Planner(const Forest& forest, const GroupLimits& limits)
      : nodes_(forest.nodes()), player_(forest.player()), limits_(limits) {}

  struct Plan {
    std::size_t bytes;
    int splits;  // in the subtree, or limits_.bits + 1 when more
  };

  // Appends the cheapest cut of the subtree to `cuts`.
  Plan plan(std::uint32_t index, std::vector<std::uint32_t>& cuts) {
    const Node& node = nodes_[index];
    if (node.kind == NodeKind::kLeaf) {
      cuts.push_back(index);
      return {as_group(index, 0), 0};
    }
    if (path_.size() == kMaxDepth) return {kNever, limits_.bits + 1};
    const std::size_t first_cut = cuts.size();
    path_.push_back(node.column);
    const Plan left = plan(node.left, cuts);
    const Plan right = left.bytes == kNever ? Plan{kNever, 0} : plan(node.right, cuts);
    path_.pop_back();
    if (left.bytes == kNever || right.bytes == kNever) return {kNever, limits_.bits + 1};
    const int splits = std::min(left.splits + right.splits + 1, limits_.bits + 1);
    const std::size_t apart = left.bytes + right.bytes, together = as_group(index, splits);
    if (together > apart) return {apart, splits};
    cuts.resize(first_cut);
    cuts.push_back(index);
    return {together, splits};
  }

 private:
  int distinct_columns() {
    scratch_ = path_;
    return distinct();
  }

  int distinct() {
    std::sort(scratch_.begin(), scratch_.end());
    return static_cast<int>(std::unique(scratch_.begin(), scratch_.end()) - scratch_.begin());
  }

  void collect(std::uint32_t index) {
    const Node& node = nodes_[index];
    if (node.kind == NodeKind::kLeaf) return;
    scratch_.push_back(player_[node.column]);
    collect(node.left);
    collect(node.right);
  }

  // What the subtree costs as a group.
  std::size_t as_group(std::uint32_t index, int splits) {
    if (splits > limits_.bits) return kNever;
    const int bits = distinct_columns() + splits;
    if (bits > limits_.bits) return kNever;
    scratch_.clear();
    for (std::int32_t column : path_) scratch_.push_back(player_[column]);
    collect(index);
    const int players = distinct();
    if (players > limits_.players) return kNever;
    return ((players > limits_.narrow ? 64ULL : 32ULL) << bits) + limits_.overhead;
  }

  const std::vector<Node>& nodes_;
  const std::vector<std::int32_t>& player_;
  const GroupLimits& limits_;
  std::vector<std::int32_t> path_, scratch_;
};

TreeCut::TreeCut(const Forest& forest, std::uint32_t root, const GroupLimits& limits) : forest_(forest), root_(root) {
  bytes_ = Planner(forest, limits).plan(root, cuts_).bytes;
  n_groups_ = cuts_.size();
}

void TreeCut::append_to(std::vector<Group>& groups) const {
  const std::vector<Node>& nodes = forest_.nodes();
  auto next = cuts_.begin();
  Path path;
  const auto collect = [&](const auto& self, std::uint32_t index, Group& group,
                           std::vector<GroupLeaf::Step>& steps) -> void {
    const Node& node = nodes[index];
    if (node.kind == NodeKind::kLeaf) {
      group.leaves.push_back({index, steps});
      return;
    }
    steps.push_back({static_cast<int>(group.bits.size()), true});
    group.bits.push_back({node.column, false, Along::anything().after(node, true)});
    self(self, node.left, group, steps);
    steps.back().left = false;
    self(self, node.right, group, steps);
    steps.pop_back();
  };
  const auto visit = [&](const auto& self, std::uint32_t index) -> void {
    if (next != cuts_.end() && *next == index) {
      ++next;
      Group group{path.bits(), {}, {}};
      std::vector<GroupLeaf::Step> steps;
      collect(collect, index, group, steps);
      for (const GroupBit& bit : group.bits) group.players.push_back(forest_.player()[bit.column]);
      std::sort(group.players.begin(), group.players.end());
      group.players.erase(std::unique(group.players.begin(), group.players.end()), group.players.end());
      groups.push_back(std::move(group));
      return;
    }
    path.enter(nodes[index], true);
    self(self, nodes[index].left);
    path.leave();
    path.enter(nodes[index], false);
    self(self, nodes[index].right);
    path.leave();
  };
  visit(visit, root_);
}

}  // namespace xai::treeshap
