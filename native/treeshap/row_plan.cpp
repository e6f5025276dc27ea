#include "treeshap/row_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "treeshap/quadrature.h"
#include "treeshap/row_packing.h"

namespace xai::treeshap {
namespace {

constexpr std::size_t kMaxPlanLanes = std::size_t{1} << 26;   // about 1 GiB
constexpr std::size_t kMaxSlotFloats = std::size_t{1} << 27;  // 512 MiB
constexpr std::size_t kSecondCache = std::size_t{1} << 20;
// Fewer make shorter runs of vectors that need the same done, and branches mistaken; more, P and U far from the first
// cache. Measured best from 3 points to 7.
constexpr std::size_t kBlockSplits = 3200;
constexpr std::size_t kSumLanes = 4096;  // whose attributions are 16 KiB, half a first cache

class Compiler {
 public:
  Compiler(RowPlan& plan, const Forest& forest, const ForestFacts& facts)
      : plan_(plan),
        forest_(forest),
        facts_(facts),
        nodes_(forest.nodes()),
        shapes_(node_shapes(forest, facts)),
        decisions_(plan.decisions, forest, facts),
        value_(nodes_.size()),
        mean_(nodes_.size()) {}

  void run() {
    collect_games();
    for (std::size_t first = 0; first < games_.size();) {
      if (plan_.sums.empty() || plan_.sums.back().output != games_[first].output || lanes_in_sum() > kSumLanes) {
        close_sum();
        open_sum(games_[first].output);
      }
      first = add_block(first);
    }
    close_sum();
    plan_.forks.resize(plan_.forks.size() + RowPlan::kAhead);
    if (plan_.packed() && plan_.memory_bytes() + inverse_bytes() <= kSecondCache) add_inverses();
  }

 private:
  // One tree's effect on one output.
  struct Game {
    std::size_t tree;
    std::int32_t output;
    std::uint16_t rule;
    std::uint32_t lanes;
  };

  bool leaf(std::uint32_t node) const { return nodes_[node].kind == NodeKind::kLeaf; }
  bool radau() const { return plan_.rules[rule_].radau; }
  std::size_t lanes_in_sum() const { return decisions_.lanes() - plan_.sums.back().lane_begin; }
  std::size_t repeats_in_sum() const { return decisions_.repeats() - plan_.sums.back().repeat_begin; }
  std::uint32_t end_of(std::size_t tree) const {
    return tree + 1 < forest_.n_trees() ? forest_.roots()[tree + 1] : static_cast<std::uint32_t>(nodes_.size());
  }

  void collect_games() {
    for (std::size_t tree = 0; tree < forest_.n_trees(); ++tree) {
      const std::uint32_t root = forest_.roots()[tree];
      if (leaf(root)) continue;  // the same for all rows: it is in the base value
      std::set<std::int32_t> outputs;
      for (std::uint32_t node = root; node < end_of(tree); ++node)
        for (const Weight& weight : forest_.weights(node)) outputs.insert(weight.output);
      const std::uint16_t rule = rule_for(tree);
      for (std::int32_t output : outputs) games_.push_back({tree, output, rule, std::max(1U, shapes_[root].lanes)});
    }
    std::stable_sort(games_.begin(), games_.end(), [](const Game& a, const Game& b) {
      if (a.output != b.output) return a.output < b.output;
      return a.rule != b.rule ? a.rule < b.rule : a.lanes > b.lanes;
    });
  }

  // d distinct features: (d - 1) / 2 points and a constant for odd d > 1, else ceil(d / 2) points.
  std::uint16_t rule_for(std::size_t tree) {
    const int distinct = facts_.distinct[tree], size = std::max(1, (distinct + 1) / 2);
    bool radau = distinct % 2 == 1 && distinct > 1;
    for (std::uint32_t node = forest_.roots()[tree]; node < end_of(tree); ++node)
      radau &= leaf(node) || !facts_.node[node].repeated || facts_.node[node].merged > 0;
    const auto [entry, is_new] = rule_of_.try_emplace({size, radau}, static_cast<std::uint16_t>(plan_.rules.size()));
    if (is_new) {
      const Quadrature full = radau ? gauss_radau(size) : gauss_legendre(size);
      plan_.rules.push_back({{full.point.begin() + radau, full.point.end()},
                             {full.weight.begin() + radau, full.weight.end()},
                             radau,
                             radau ? full.weight.front() : 0.0});
    }
    return entry->second;
  }

  void open_sum(std::int32_t output) {
    RowSum sum{};
    sum.output = output;
    sum.block_begin = static_cast<std::uint32_t>(plan_.blocks.size());
    sum.lane_begin = decisions_.lanes();
    sum.repeat_begin = decisions_.repeats();
    plan_.sums.push_back(sum);
  }

  void close_sum() {
    if (plan_.sums.empty()) return;
    RowSum& sum = plan_.sums.back();
    sum.beside = plan_.decisions.taken_from.size();
    const std::size_t beside = decisions_.end_sum();
    sum.block_end = static_cast<std::uint32_t>(plan_.blocks.size());
    sum.lane_end = decisions_.lanes();
    sum.repeat_end = decisions_.repeats();
    sum.beside_begin = sum.repeat_end - beside;
    plan_.most_lanes = std::max(plan_.most_lanes, lanes_in_sum());
    plan_.most_repeats = std::max(plan_.most_repeats, repeats_in_sum());
    lane_player_.resize(lanes_in_sum(), RowTotals::kNoPlayer);
    plan_.totals.add_run(std::move(lane_player_), plan_.packed());
    lane_player_.clear();
  }

  // Takes games from `first` on, as many as fit. Returns the first that is left.
  std::size_t add_block(std::size_t first) {
    const Game& leader = games_[first];
    rule_ = leader.rule;
    const std::size_t lanes = plan_.lanes;
    const auto fits = [&](std::size_t i) {
      return i < games_.size() && games_[i].output == leader.output && games_[i].rule == rule_;
    };
    std::size_t last = first, splits = 0;
    do {
      splits += games_[last++].lanes;
    } while (fits(last) && splits + games_[last].lanes <= kBlockSplits);
    if (fits(last) && last - first > lanes) last -= (last - first) % lanes;  // whole vectors of roots
    std::vector<std::uint32_t> roots;
    for (std::size_t i = first; i < last; ++i) {
      roots.push_back(forest_.roots()[games_[i].tree]);
      find_means(games_[i]);
    }
    encode(pack(forest_, facts_, shapes_, roots, plan_.lanes));
    if (decisions_.lanes() > kMaxPlanLanes) refuse_size();
    return last;
  }

  [[noreturn]] static void refuse_size() {
    throw InvalidForest("its splits times the outputs they add to are more than one row's explanation is planned for");
  }

  // The values of a game's leaves, and their means at its splits less the tree's. No tree is twice in a block.
  void find_means(const Game& game) {
    const std::uint32_t root = forest_.roots()[game.tree];
    for (std::uint32_t node = end_of(game.tree); node-- > root;) {  // children stand behind their parents
      value_[node] = 0;
      for (const Weight& weight : forest_.weights(node))
        if (weight.output == game.output) value_[node] += weight.value;
      const double r = facts_.node[node].ratio;
      mean_[node] = leaf(node) ? value_[node] : r * mean_[nodes_[node].left] + (1 - r) * mean_[nodes_[node].right];
    }
    const double mean = mean_[root];
    for (std::uint32_t node = root; node < end_of(game.tree); ++node) mean_[node] -= mean;
  }

  // Routes by the vector that they come from or go to.
  struct Routes {
    explicit Routes(const Packing& packing)
        : from(packing.vectors.size()), to{Lists(packing.vectors.size()), Lists(packing.vectors.size())} {
      for (const PackedRoute& route : packing.routes) {
        from[route.child].push_back(&route);
        to[route.side][route.parent].push_back(&route);
      }
    }
    bool in_place(std::size_t child) const { return from[child].size() == 1 && from[child][0]->in_place(); }

    using Lists = std::vector<std::vector<const PackedRoute*>>;
    Lists from, to[2];
  };

  void encode(const Packing& packing) {
    const std::size_t n = packing.vectors.size();
    const Routes routes(packing);
    std::vector<RowFork> forks(n);
    std::vector<RowVector> vectors(n);
    RowBlock block{};
    block.rule = rule_;
    block.fork_begin = static_cast<std::uint32_t>(plan_.forks.size());
    block.vector_begin = static_cast<std::uint32_t>(plan_.vectors.size());
    block.values = plan_.values.size();
    block.merged = plan_.merged.size();
    block.down_routes = plan_.down_routes.size();
    block.up_routes = plan_.up_routes.size();
    block.repeats = repeats_in_sum();
    block.chunk = lanes_in_sum() / plan_.lanes;

    assign_slots(packing, routes, forks, vectors);
    for (std::size_t v = n; v-- > 0;) {
      const PackedVector& packed = packing.vectors[v];
      RowVector& vector = vectors[v];
      forks[v].values = static_cast<std::uint32_t>(plan_.values.size() - block.values);
      forks[v].repeats = static_cast<std::uint32_t>(repeats_in_sum() - block.repeats);
      forks[v].chunk = static_cast<std::uint32_t>(lanes_in_sum() / plan_.lanes - block.chunk);
      if (!packed.fork) vector.sources = add_sources(plan_.up_routes, packed, v, routes, forks);
      add_self(packed, vector);
      forks[v].repeated = vector.repeated;
      for (int side = 0; side < 2; ++side) {
        add_side(packed, side, vector.side[side]);
        vector.side[side].routes = static_cast<std::uint8_t>(routes.to[side][v].size());
        for (const PackedRoute* route : routes.to[side][v]) add_return(*route, vectors);
      }
      plan_.vectors.push_back(vector);
    }
    for (std::size_t v = 0; v < n; ++v) {
      const PackedVector& packed = packing.vectors[v];
      if (!packed.fork) continue;
      forks[v].sources = add_sources(plan_.down_routes, packed, v, routes, forks);
      plan_.forks.push_back(forks[v]);
    }

    plan_.merged.resize((plan_.merged.size() + kMaxLanes - 1) / kMaxLanes * kMaxLanes, 1.0F);
    block.inverse_stride = plan_.merged.size() - block.merged;
    const std::size_t planes = plan_.rules[rule_].point.size() + 1;
    plan_.inverse_floats = std::max(plan_.inverse_floats, block.inverse_stride * planes + kMaxLanes);
    block.fork_end = static_cast<std::uint32_t>(plan_.forks.size());
    block.vector_end = static_cast<std::uint32_t>(plan_.vectors.size());
    plan_.blocks.push_back(block);
  }

  // Children that stay in their lanes and have a side to themselves find P in the slot that their parent left it in,
  // and leave U there.
  void assign_slots(const Packing& packing, const Routes& routes, std::vector<RowFork>& forks,
                    std::vector<RowVector>& vectors) {
    const std::size_t slot = plan_.rules[rule_].point.size() * plan_.lanes;
    std::size_t next = RowBlock::kRootSlot;
    const auto take = [&] {
      next += slot;
      if (next > kMaxSlotFloats) refuse_size();
      return static_cast<RowSlot>(next - slot);
    };
    const RowSlot roots = take(), trash = take();
    for (std::size_t v = 0; v < packing.vectors.size(); ++v) {
      for (int side = 0; side < 2; ++side) forks[v].out[side] = routes.to[side][v].empty() ? RowFork::kNone : take();
      RowVector& vector = vectors[v];
      if (packing.vectors[v].root) {
        vector.product = roots;
        vector.value = trash;
      } else if (routes.in_place(v)) {
        const PackedRoute& route = *routes.from[v][0];
        vector.product = forks[route.parent].out[route.side];
        vector.value = routes.to[route.side][route.parent].size() == 1 ? vector.product : take();
      } else {
        vector.product = vector.value = take();
      }
      forks[v].product = vector.product;
    }
    plan_.slot_floats = std::max(plan_.slot_floats, next);
  }

  using RouteLanes = std::array<std::uint8_t, kMaxLanes>;

  void put_route(AlignedVector<std::uint8_t>& to, std::uint32_t slot, const RouteLanes& lane) {
    for (std::size_t byte = 0; byte < RowRoute::kSlotBytes; ++byte)
      to.push_back(static_cast<std::uint8_t>(slot >> (8 * byte)));
    to.insert(to.end(), lane.begin(), lane.begin() + plan_.lanes);
  }

  // Where P of a vector comes from, unless it is where its only parent left it.
  std::uint8_t add_sources(AlignedVector<std::uint8_t>& to, const PackedVector& packed, std::size_t v,
                           const Routes& routes, const std::vector<RowFork>& forks) {
    if (packed.root || routes.in_place(v)) return 0;
    for (const PackedRoute* route : routes.from[v]) {
      RouteLanes lane;
      lane.fill(RowRoute::kKeep);
      for (int l = 0; l < plan_.lanes; ++l)
        if (route->child_lane[l] != PackedRoute::kNoLane) lane[route->child_lane[l]] = static_cast<std::uint8_t>(l);
      put_route(to, forks[route->parent].out[route->side], lane);
    }
    return static_cast<std::uint8_t>(routes.from[v].size());
  }

  // Where a side's U comes from.
  void add_return(const PackedRoute& route, const std::vector<RowVector>& vectors) {
    RouteLanes lane;
    lane.fill(RowRoute::kKeep);
    for (int l = 0; l < plan_.lanes; ++l)
      if (route.child_lane[l] != PackedRoute::kNoLane) lane[l] = static_cast<std::uint8_t>(route.child_lane[l]);
    put_route(plan_.up_routes, vectors[route.child].value * 2 + (route.in_place() ? 1 : 0), lane);
  }

  // Appends one value for each lane that has a node.
  template <class Of>
  void put(const PackedVector::Nodes& node, Of of) {
    for (int lane = 0; lane < plan_.lanes; ++lane)
      plan_.values.push_back(node[lane] == PackedVector::kEmpty ? 0.0F : static_cast<float>(of(lane, node[lane])));
  }

  void put_decisions(const PackedVector::Nodes& node, std::uint32_t flipped) {
    for (int lane = 0; lane < plan_.lanes; ++lane) {
      const bool empty = node[lane] == PackedVector::kEmpty;
      decisions_.add_lane(empty ? DecisionWriter::kNoNode : node[lane], flipped >> lane & 1);
      lane_player_.push_back(empty ? RowTotals::kNoPlayer : forest_.player()[nodes_[node[lane]].column]);
    }
  }

  // What the lanes whose feature stands above them need. Returns which these are.
  std::uint16_t put_repeats(const PackedVector::Nodes& node) {
    std::uint16_t repeated = 0;
    for (int lane = 0; lane < plan_.lanes; ++lane)
      if (node[lane] != PackedVector::kEmpty && facts_.node[node[lane]].repeated)
        repeated |= static_cast<std::uint16_t>(1U << lane);
    for (int lane = 0; lane < plan_.lanes; ++lane)
      if (repeated >> lane & 1) {
        decisions_.add_repeat(node[lane]);
        plan_.merged.push_back(static_cast<float>(facts_.node[node[lane]].merged));
      } else if (repeated && !plan_.packed()) {
        decisions_.add_no_repeat();
        plan_.merged.push_back(1.0F);
      }
    return repeated;
  }

  // What the t = 0 point adds to a sum of P * K at this node; there, K is z / z^2. Where z is 0 nothing reaches.
  double at_zero(std::uint32_t node) const {
    const PathFacts& facts = facts_.node[node];
    return facts.reach > 0 ? plan_.rules[rule_].weight_at_zero * facts.reach / facts.merged : 0.0;
  }

  void add_self(const PackedVector& packed, RowVector& vector) {
    put_decisions(packed.node, packed.flipped);
    put(packed.node, [&](int lane, std::uint32_t node) {
      return packed.flipped >> lane & 1 ? 1 - facts_.node[node].ratio : facts_.node[node].ratio;
    });
    if (radau())
      put(packed.node, [&](int lane, std::uint32_t node) {
        const double difference = mean_[nodes_[node].left] - mean_[nodes_[node].right];
        return at_zero(node) * (packed.flipped >> lane & 1 ? -difference : difference);
      });
    vector.repeated = put_repeats(packed.node);
  }

  void add_side(const PackedVector& packed, int side, RowSide& out) {
    PackedVector::Nodes constant, bottom;
    constant.fill(PackedVector::kEmpty);
    bottom.fill(PackedVector::kEmpty);
    for (int lane = 0; lane < plan_.lanes; ++lane) {
      if (packed.node[lane] == PackedVector::kEmpty) continue;
      const Node& node = nodes_[packed.node[lane]];
      const std::uint32_t child = (side == 1) != (packed.flipped >> lane & 1) ? node.right : node.left;
      if (needs_lane(shapes_[child].role)) continue;
      constant[lane] = child;
      out.has |= RowSide::kConstants;
      if (leaf(child)) continue;
      bottom[lane] = child;
      out.has |= RowSide::kBottoms;
    }
    if (out.has & RowSide::kConstants) put(constant, [&](int, std::uint32_t node) { return mean_[node]; });
    if (!(out.has & RowSide::kBottoms)) return;
    put_decisions(bottom, 0);
    put(bottom, [&](int, std::uint32_t node) { return facts_.node[node].ratio; });
    put(bottom, [&](int, std::uint32_t node) { return value_[nodes_[node].left] - value_[nodes_[node].right]; });
    if (radau()) put(bottom, [&](int, std::uint32_t node) { return at_zero(node); });
    out.repeated = put_repeats(bottom);
  }

  std::size_t inverse_bytes() const {
    std::size_t floats = kMaxLanes;
    for (const RowBlock& block : plan_.blocks)
      floats += block.inverse_stride * (plan_.rules[block.rule].point.size() + 1);
    return floats * sizeof(float);
  }

  void add_inverses() {
    for (RowBlock& block : plan_.blocks) {
      block.inverses = plan_.inverses.size();
      const float* merged = plan_.merged.data() + block.merged;
      for (double t : plan_.rules[block.rule].point)
        for (std::size_t i = 0; i < block.inverse_stride; ++i)
          plan_.inverses.push_back(static_cast<float>(1 / (t + merged[i] * (1 - t))));
      plan_.inverses.insert(plan_.inverses.end(), merged, merged + block.inverse_stride);
    }
    plan_.inverses.resize(plan_.inverses.size() + kMaxLanes);  // loads of a whole vector may begin at the last one
  }

  RowPlan& plan_;
  const Forest& forest_;
  const ForestFacts& facts_;
  const std::vector<Node>& nodes_;
  const std::vector<NodeShape> shapes_;
  DecisionWriter decisions_;
  std::vector<double> value_, mean_;  // of the games at hand, by node
  std::vector<Game> games_;
  std::map<std::pair<int, bool>, std::uint16_t> rule_of_;  // by number of points with t = 0, and whether that is one
  std::vector<std::int32_t> lane_player_;                  // of the sum at hand
  std::uint16_t rule_ = 0;                                 // of the block at hand
};

}  // namespace

bool RowPlan::supports(const Forest& forest, const ForestFacts& facts) {
  if (facts.most_distinct > 2 * kMaxPoints) return false;
  std::vector<bool> used(forest.n_columns());
  for (const Node& node : forest.nodes())
    if (node.kind != NodeKind::kLeaf) used[node.column] = true;
  return static_cast<std::size_t>(std::count(used.begin(), used.end(), true)) <= RowDecisions::kMaxColumns;
}

RowPlan::RowPlan(const Forest& forest, const ForestFacts& facts, int vector_lanes)
    : lanes(vector_lanes), n_columns(forest.n_columns()), n_players(forest.n_players()), n_outputs(forest.n_outputs()) {
  Compiler(*this, forest, facts).run();
}

std::size_t RowPlan::memory_bytes() const {
  return decisions.memory_bytes() + totals.memory_bytes() + sums.size() * sizeof(RowSum) +
         blocks.size() * sizeof(RowBlock) + forks.size() * sizeof(RowFork) + vectors.size() * sizeof(RowVector) +
         (values.size() + merged.size() + inverses.size()) * sizeof(float) + down_routes.size() + up_routes.size();
}

RowScratch::RowScratch(const RowPlan& plan)
    : numbers(std::max<std::size_t>(plan.decisions.columns.size(), 32)),  // two vectors of 16 are always loaded
      ranks(RowDecisions::kMaxRanked),
      nans(RowDecisions::kMaxRanked),
      left(plan.most_lanes / RowDecisions::kWord + 1),  // the last bits are read with 32 others
      along(plan.most_repeats / RowDecisions::kWord + 1),
      slots(plan.slot_floats),
      inverses(plan.packed() && plan.inverses.empty() ? plan.inverse_floats : 0),
      phi(plan.most_lanes) {}

}  // namespace xai::treeshap
