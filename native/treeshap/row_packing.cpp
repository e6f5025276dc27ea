#include "treeshap/row_packing.h"

#include <algorithm>

namespace xai::treeshap {
namespace {

// Children that wait for a lane: the forks or the ends of one side of one vector, or roots. Forks and ends keep apart:
// an end has less to do.
struct Waiting {
  struct One {
    std::int8_t parent_lane;
    std::uint32_t node;
  };
  int parent, side;  // parent -1: roots
  bool forks;
  std::vector<One> ones;
};

class Packer {
 public:
  Packer(const Forest& forest, const ForestFacts& facts, const std::vector<NodeShape>& shapes, int lanes)
      : nodes_(forest.nodes()), facts_(facts), shapes_(shapes), lanes_(lanes) {}

  Packing run(const std::vector<std::uint32_t>& roots) {
    for (std::size_t first = 0; first < roots.size(); first += lanes_) {
      Waiting waiting{-1, 0, false, {}};
      for (std::size_t i = first; i < std::min(first + lanes_, roots.size()); ++i)
        waiting.ones.push_back({static_cast<std::int8_t>(i - first), roots[i]});
      pool_.push_back(std::move(waiting));
    }
    while (!pool_.empty()) next_round();
    return std::move(packing_);
  }

 private:
  // Lanes that will be one vector.
  struct Bin {
    std::size_t filled = 0;
    std::vector<Waiting> content;
  };

  // Emits what fills its vectors well. The rest waits for company; where nothing fills any well, for no more than half.
  void next_round() {
    std::vector<Bin> bins = fill_bins();
    // Alike beside alike, so that the kernel's branches can be foretold.
    std::stable_sort(bins.begin(), bins.end(),
                     [&](const Bin& a, const Bin& b) { return work_of(a.content) < work_of(b.content); });
    const auto emit_from = [&](std::size_t least) {
      bool emitted = false;
      for (Bin& bin : bins)
        if (bin.filled >= least && !bin.content.empty()) {
          emit(bin.content);
          bin.content.clear();
          emitted = true;
        }
      return emitted;
    };
    const auto lanes = static_cast<std::size_t>(lanes_);
    if (!emit_from(lanes * 3 / 4) && !emit_from(lanes / 2)) emit_from(0);
    for (Bin& bin : bins)
      for (Waiting& waiting : bin.content) pool_.push_back(std::move(waiting));
  }

  // Best fit, the largest first: each goes where the least room is left. What nearly fills a vector by itself stays in
  // its lanes, for free.
  std::vector<Bin> fill_bins() {
    std::vector<Waiting> pool;
    pool.swap(pool_);
    std::stable_sort(pool.begin(), pool.end(),
                     [](const Waiting& a, const Waiting& b) { return a.ones.size() > b.ones.size(); });
    const auto lanes = static_cast<std::size_t>(lanes_);
    std::vector<Bin> bins;
    std::vector<std::size_t> with_room[2][kMaxLanes + 1];  // of forks or ends, by room: bins
    for (Waiting& waiting : pool) {
      const std::size_t size = waiting.ones.size();
      auto& open = with_room[waiting.forks];
      std::size_t room = size, bin = bins.size();
      const bool alone = waiting.parent < 0 || size >= lanes * 3 / 4;
      while (!alone && room <= lanes && open[room].empty()) ++room;
      if (!alone && room <= lanes) {
        bin = open[room].back();
        open[room].pop_back();
      } else {
        bins.emplace_back();
      }
      bins[bin].filled += size;
      bins[bin].content.push_back(std::move(waiting));
      if (!alone) open[lanes - bins[bin].filled].push_back(bin);
      if (alone) bins[bin].filled = lanes;
    }
    return bins;
  }

  // What the kernel will have to do for a vector of these, by bits.
  std::uint32_t work_of(const std::vector<Waiting>& bin) const {
    std::uint32_t work = bin.size() > 1;
    for (const Waiting& waiting : bin)
      for (const Waiting::One& one : waiting.ones) {
        const Node& node = nodes_[one.node];
        const bool flip = heavier(node.right, node.left);
        work |= facts_.node[one.node].repeated ? 2 : 0;
        work |= role_bit(flip ? node.right : node.left) << 2;
        work |= role_bit(flip ? node.left : node.right) << 7;
      }
    return work;
  }
  std::uint32_t role_bit(std::uint32_t node) const { return 1U << static_cast<int>(shapes_[node].role); }

  bool heavier(std::uint32_t a, std::uint32_t b) const {
    const NodeShape &x = shapes_[a], &y = shapes_[b];
    const auto rank = [](const NodeShape& s) { return needs_lane(s.role) ? 3 : static_cast<int>(s.role); };
    return rank(x) != rank(y) ? rank(x) > rank(y) : x.lanes > y.lanes;
  }

  void emit(const std::vector<Waiting>& bin) {
    const int self = static_cast<int>(packing_.vectors.size());
    PackedVector vector;
    vector.node.fill(PackedVector::kEmpty);
    Waiting below[2][2] = {{{self, 0, false, {}}, {self, 0, true, {}}}, {{self, 1, false, {}}, {self, 1, true, {}}}};
    std::int8_t next = 0;
    for (const Waiting& waiting : bin) {
      PackedRoute route{waiting.parent, waiting.side, self, {}};
      route.child_lane.fill(PackedRoute::kNoLane);
      for (const Waiting::One& one : waiting.ones) {
        const std::int8_t lane = bin.size() == 1 ? one.parent_lane : next++;
        route.child_lane[one.parent_lane] = lane;
        vector.node[lane] = one.node;
        const Node& node = nodes_[one.node];
        const bool flip = heavier(node.right, node.left);
        if (flip) vector.flipped |= 1U << lane;
        for (int side = 0; side < 2; ++side) {
          const std::uint32_t child = (side == 1) != flip ? node.right : node.left;
          if (needs_lane(shapes_[child].role))
            below[side][shapes_[child].role == NodeRole::kFork].ones.push_back({lane, child});
        }
      }
      if (waiting.parent >= 0)
        packing_.routes.push_back(route);
      else
        vector.root = true;
    }
    for (auto& side : below)
      for (Waiting& waiting : side)
        if (!waiting.ones.empty()) {
          vector.fork = true;
          pool_.push_back(std::move(waiting));
        }
    packing_.vectors.push_back(vector);
  }

  const std::vector<Node>& nodes_;
  const ForestFacts& facts_;
  const std::vector<NodeShape>& shapes_;
  const int lanes_;
  std::vector<Waiting> pool_;
  Packing packing_;
};

}  // namespace

std::vector<NodeShape> node_shapes(const Forest& forest, const ForestFacts& facts) {
  const std::vector<Node>& nodes = forest.nodes();
  std::vector<NodeShape> shapes(nodes.size());
  for (std::size_t i = nodes.size(); i-- > 0;) {  // children stand behind their parents
    const Node& node = nodes[i];
    if (node.kind == NodeKind::kLeaf) {
      shapes[i] = {NodeRole::kLeaf, 0};
      continue;
    }
    const NodeShape left = shapes[node.left], right = shapes[node.right];
    if (left.role == NodeRole::kLeaf && right.role == NodeRole::kLeaf)
      shapes[i] = {facts.node[i].repeated ? NodeRole::kRepeatedBottom : NodeRole::kBottom, 0};
    else
      shapes[i] = {needs_lane(left.role) || needs_lane(right.role) ? NodeRole::kFork : NodeRole::kEnd,
                   1 + left.lanes + right.lanes};
  }
  return shapes;
}

Packing pack(const Forest& forest, const ForestFacts& facts, const std::vector<NodeShape>& shapes,
             const std::vector<std::uint32_t>& roots, int lanes) {
  return Packer(forest, facts, shapes, lanes).run(roots);
}

}  // namespace xai::treeshap
