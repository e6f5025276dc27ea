// The one-row variant of path-dependent TreeSHAP: lanes are splits of many trees.
//
// The mathematics is that of path_dependent.h, in float32 with float64 sums across blocks of trees, and with these
// savings that leave it exact:
//
// Radau. A polynomial of even degree d - 1 (d odd) needs (d + 1) / 2 Gauss-Legendre points, but Gauss-Radau's rule with
// as many has t = 0 among them, where every factor is a cover ratio and nothing depends on the row: what that point
// adds is a constant of the model. So (d - 1) / 2 points are walked. One case is excepted: at a later split on a
// feature whose earlier ratio was 0 (z = 0), tau = t / F is 1 at every t > 0, and must be so in the limit at t = 0,
// where the row's decision then counts. Trees with such a split keep to Gauss-Legendre.
//
// Bottoms. Below a bottom (a split with two leaves a, b) nothing is shared any more: U = E + tau * H with
// E = b + r (a - b) and H = h (a - b), and its feature gets H * (sum of P * K). It takes no lane of its own; its
// parent's vector does that on the side.
//
// Means. Each tree's leaves are counted from the tree's mean, which changes no attribution and spares float32 the
// digits.
//
// A row is explained in three steps. All its decisions are taken first (row_decisions.h). Then each block of trees is
// walked, down to form P and up to form U, a vector of splits at a time, in the packing of row_packing.h; what a vector
// attributes is left in its lanes. Last, the lanes are added up by feature (row_totals.h).
//
// On its way a vector takes what it needs from several streams, each read from front to back:
//
//     values   r | what t = 0 adds, with Radau | for each side that has leaves or bottoms: E; for bottoms also r, a - b
//     and
//              what t = 0 adds
//     left     one word for the splits, one for each side that has bottoms: whether the row goes left
//     along    for each lane whose feature stands above it, in the same order: whether the row came along
//     merged   for the same lanes: z. Packed, also 1 / (t + z (1 - t)) at each point before it (`inverses`)
//     routes   where P comes from, where each side's U comes from
//
// What is for lanes whose feature stands above them is packed where an instruction set can put packed floats and bits
// into their lanes at once (AVX-512); else it comes in whole vectors, with z = 1 in the other lanes.
//
// All but the routes are in the order of the way up, children before parents; on the way down forks say where theirs
// are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "treeshap/aligned.h"
#include "treeshap/forest.h"
#include "treeshap/path_facts.h"
#include "treeshap/row_decisions.h"
#include "treeshap/row_packing.h"
#include "treeshap/row_totals.h"

namespace xai::treeshap {

// P or U of a vector at all points of the rule, in the scratch: where it begins, in floats.
using RowSlot = std::uint32_t;

struct RowSide {
  static constexpr std::uint8_t kConstants = 1;  // some lanes have a leaf or a bottom here
  static constexpr std::uint8_t kBottoms = 2;    // some a bottom
  std::uint8_t has;
  std::uint8_t routes;     // how many vectors the others' U comes from
  std::uint16_t repeated;  // by lane: its bottom's feature stands above it
};

// A vector on the way up.
struct RowVector {
  RowSlot product, value;  // where P stands, unless it has sources; where U goes
  std::uint16_t repeated;  // by lane: its feature stands above it
  std::uint8_t sources;    // vectors that P comes from, when it is put together only now
  RowSide side[2];
};

// A vector with children in other vectors, on the way down.
struct RowFork {
  static constexpr RowSlot kNone = UINT32_MAX;
  RowSlot product;
  RowSlot out[2];                        // where the sides' P goes, or kNone
  std::uint32_t values, repeats, chunk;  // where its part of the streams begins: values; lanes; words
  std::uint16_t repeated;
  std::uint8_t sources;
};

// A route moves lanes between vectors: a slot (4 bytes), then for each lane the lane that it comes from, or kKeep. On
// the way up the slot is doubled, plus one when no lane changes place.
struct RowRoute {
  static constexpr std::size_t kSlotBytes = 4;
  static constexpr std::uint8_t kKeep = 0x80;
};

struct RowRule {
  std::vector<float> point, weight;  // without t = 0
  bool radau;                        // whether there are constants for it
  double weight_at_zero;
};

// Trees of one rule and output whose P and U are in the first cache together.
struct RowBlock {
  static constexpr RowSlot kRootSlot = 0;  // P of all roots; U of all roots, which nobody reads, is next to it
  std::uint16_t rule;
  std::uint32_t fork_begin, fork_end, vector_begin, vector_end;
  std::size_t values, merged, inverses, down_routes, up_routes;  // where its part of the streams begins
  std::size_t inverse_stride;                                    // from one point's inverses to the next's
  std::size_t repeats, chunk;                                    // the same, from the start of its sum
};

// Blocks of one output whose attributions are added up together.
struct RowSum {
  std::int32_t output;
  std::uint32_t block_begin, block_end;
  std::size_t lane_begin, lane_end, repeat_begin, repeat_end;  // of the decisions, in whole words
  std::size_t beside_begin;  // within the repeats: what is asked of players' other columns
  std::size_t beside;        // its part of RowDecisions::taken_from
};

struct RowPlan {
  static constexpr int kMaxPoints = 32;     // 65 distinct players on a path
  static constexpr std::size_t kAhead = 8;  // forks that may be looked at behind the last

  // Whether each tree's paths and the columns used are few enough; the scalar kernel takes the others.
  static bool supports(const Forest& forest, const ForestFacts& facts);

  // For vectors of `lanes` floats, 4, 8 or 16: an instruction set's kRowLanes (row_kernel.h). `forest` has covers and
  // is supported. Throws InvalidForest when the plan would be unreasonably large.
  RowPlan(const Forest& forest, const ForestFacts& facts, int lanes);

  std::size_t memory_bytes() const;
  bool packed() const { return lanes == kMaxLanes; }  // as the instruction set's kPacked says

  int lanes, n_columns, n_players, n_outputs;
  RowDecisions decisions;
  std::vector<RowRule> rules;
  std::vector<RowSum> sums;  // each a run of `totals`
  std::vector<RowBlock> blocks;
  std::vector<RowFork> forks;      // by block; parents before children
  std::vector<RowVector> vectors;  // by block; children before parents
  AlignedVector<float> values;
  AlignedVector<float> merged;  // z; each block's is padded to whole vectors
  // Packed only; empty where the plan outgrows the second cache: then each block's are computed again.
  AlignedVector<float> inverses;
  AlignedVector<std::uint8_t> down_routes, up_routes;
  RowTotals totals;

  std::size_t slot_floats = 0, inverse_floats = 0;  // the most that any block needs
  std::size_t most_lanes = 0, most_repeats = 0;     // that any sum needs
};

// One thread's working memory for a plan.
struct RowScratch {
  explicit RowScratch(const RowPlan& plan);

  AlignedVector<float> numbers;              // the row's, by index in RowDecisions::columns
  AlignedVector<std::uint8_t> ranks, nans;   // likewise; nans: all bits set
  AlignedVector<std::uint64_t> left, along;  // decisions of the sum at hand
  AlignedVector<float> slots, inverses;      // of the block at hand
  AlignedVector<float> phi;                  // by lane of the sum at hand
};

}  // namespace xai::treeshap
