// Which splits of a block of trees share a vector in the one-row variant.
//
// A vector holds one split in each lane; its left children that are splits again must be found in vectors of their own,
// as must its right children. Where most lanes have such a child, the children simply stay in their parents' lanes and
// nothing has to be moved. Where few have, the children of several vectors are packed into one, and their numbers
// travel by permutation. Complete trees thus run as "one lane, one tree", leaf-wise and deep trees densely packed, in
// one format.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "treeshap/forest.h"
#include "treeshap/path_facts.h"

namespace xai::treeshap {

constexpr int kMaxLanes = 16;

// What a node is to its parent, by the work it needs. A bottom, both of whose children are leaves, is done in closed
// form within its parent's vector; ends (leaves and bottoms below) and forks need a lane of their own.
enum class NodeRole : std::uint8_t { kLeaf, kBottom, kRepeatedBottom, kEnd, kFork };

struct NodeShape {
  NodeRole role;
  std::uint32_t lanes;  // of the subtree
};

// By index in Forest::nodes().
std::vector<NodeShape> node_shapes(const Forest& forest, const ForestFacts& facts);

inline bool needs_lane(NodeRole role) { return role >= NodeRole::kEnd; }

// Some lanes of one side of one vector, and where their children are.
struct PackedRoute {
  static constexpr std::int8_t kNoLane = -1;
  int parent, side, child;                        // vectors of the block; side 0 is the heavy one
  std::array<std::int8_t, kMaxLanes> child_lane;  // by the parent's lane
  bool in_place() const {                         // no lane moves
    for (int lane = 0; lane < kMaxLanes; ++lane)
      if (child_lane[lane] != kNoLane && child_lane[lane] != lane) return false;
    return true;
  }
};

struct PackedVector {
  static constexpr std::uint32_t kEmpty = UINT32_MAX;
  using Nodes = std::array<std::uint32_t, kMaxLanes>;  // by lane: index in Forest::nodes(), or kEmpty
  Nodes node;
  std::uint32_t flipped = 0;  // by lane: its right child is the heavy one
  bool fork = false;          // whether any lane has a child in another vector
  bool root = false;
};

struct Packing {
  std::vector<PackedVector> vectors;  // parents before children
  std::vector<PackedRoute> routes;
};

Packing pack(const Forest& forest, const ForestFacts& facts, const std::vector<NodeShape>& shapes,
             const std::vector<std::uint32_t>& roots, int lanes);

}  // namespace xai::treeshap
