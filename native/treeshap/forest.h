// A validated forest: what an ONNX tree ensemble means, with nothing left to check.
//
// The file it comes from is untrusted. `Forest::build` looks at every index, every float and the shape of every tree
// once, so that whatever is computed from a Forest later needs no check of its own.
//
// Splits compare *columns*: the features of a row, then one for each set that categorical splits ask for
// (set_columns.h). What is attributed to are *players*: a feature each, unless several are declared one (the columns of
// a one-hot code).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "treeshap/set_columns.h"

namespace xai::treeshap {

// The file does not describe a forest; what() says where and why.
class InvalidForest : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The computation needs covers and the forest has none.
class MissingCovers : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How an inner node compares a row's value with its threshold, or with its set. NaN is not compared: it follows
// `nan_left`.
enum class NodeKind : std::uint8_t { kLeaf = 0, kLess = 1, kLessEqual = 2, kMember = 3 };

// What a reader hands over: nodes of each tree side by side, children as indices into these arrays. Untrusted.
struct RawForest {
  std::int64_t n_features = 0;
  std::int64_t n_outputs = 0;
  std::span<const std::int64_t>
      tree_begin;                         // n_trees + 1: tree t owns nodes [tree_begin[t], tree_begin[t+1]), root first
  std::span<const std::uint8_t> kind;     // n_nodes, a NodeKind
  std::span<const std::int64_t> feature;  // n_nodes; leaves: ignored
  std::span<const double> threshold;  // n_nodes; leaves and kMember: ignored. Rows are float32, so each is rounded to
                                      // the float32 that compares alike with all of them
  std::span<const std::uint8_t> nan_left;       // n_nodes, 0 or 1
  std::span<const std::int64_t> left;           // n_nodes, the child taken when the comparison holds; leaves: ignored
  std::span<const std::int64_t> right;          // n_nodes
  std::span<const double> cover;                // n_nodes, or empty when the file has none
  std::span<const std::int64_t> weight_begin;   // n_nodes + 1: node i owns weights [weight_begin[i], weight_begin[i+1])
  std::span<const std::int64_t> weight_output;  // n_weights, which output the weight is added to
  std::span<const double> weight;               // n_weights
  std::span<const double> base;                 // n_outputs
  std::span<const std::int64_t>
      set_begin;                         // n_nodes + 1: node i, a kMember, owns values [set_begin[i], set_begin[i+1])
  std::span<const float> set_value;      // and goes left where the row's is one of them; both empty: no sets
  std::span<const std::int64_t> player;  // n_features: which player each is, from 0; empty: each its own
};

struct Node {
  float threshold;
  std::int32_t column;
  std::uint32_t left, right;  // indices into Forest::nodes(); preorder, so left is the next node
  NodeKind kind;              // never kMember: those compare their column with 1/2
  bool nan_left;

  // Whether a row with this value in the node's column goes left. The comparison is float32, as in ONNX Runtime.
  bool goes_left(float value) const {
    if (value != value) return nan_left;
    return kind == NodeKind::kLess ? value < threshold : value <= threshold;
  }
};

struct Weight {
  std::int32_t output;
  double value;
};

class Forest {
 public:
  // Bounds on what is accepted. Real models stay far below; a hostile file is refused before it costs anything.
  static constexpr std::int64_t kMaxFeatures = 1 << 20;
  static constexpr std::int64_t kMaxOutputs = 1 << 16;
  static constexpr std::int64_t kMaxColumns = 1 << 21;
  static constexpr std::int64_t kMaxAttributions = 1 << 24;  // features times outputs: 128 MiB a row
  static constexpr std::int64_t kMaxNodes = 1 << 26;
  static constexpr int kMaxDepth = 1024;  // splits from root to leaf

  // Throws InvalidForest.
  static Forest build(const RawForest& raw);

  int n_features() const { return n_features_; }  // values of a row
  int n_columns() const { return static_cast<int>(player_.size()); }
  int n_players() const { return n_players_; }
  int n_outputs() const { return n_outputs_; }
  int max_depth() const { return max_depth_; }
  bool has_covers() const { return !cover_.empty(); }
  std::size_t n_trees() const { return roots_.size(); }
  std::size_t n_leaves() const { return n_leaves_; }

  const std::vector<Node>& nodes() const { return nodes_; }            // each tree in preorder
  const std::vector<std::uint32_t>& roots() const { return roots_; }   // index of each tree's root
  const std::vector<double>& cover() const { return cover_; }          // one for each node, or empty
  const std::vector<double>& base() const { return base_; }            // one for each output
  const std::vector<std::int32_t>& player() const { return player_; }  // by column
  // Widens rows to columns; null when rows need no widening.
  const std::shared_ptr<const SetColumns>& sets() const { return sets_; }
  std::span<const Weight> weights(std::uint32_t node) const {
    return {weights_.data() + weight_begin_[node], weights_.data() + weight_begin_[node + 1]};
  }

  // Margin of one row of n_features() values in float64: base plus the leaves reached. `margin` has n_outputs() places.
  void predict(const float* row, double* margin) const;

 private:
  Forest() = default;

  void take_players(const RawForest& raw, const std::vector<SetColumns::Set>& sets);

  int n_features_ = 0, n_players_ = 0, n_outputs_ = 0, max_depth_ = 0;
  std::size_t n_leaves_ = 0;
  std::vector<Node> nodes_;
  std::vector<std::uint32_t> roots_;
  std::vector<double> cover_;
  std::vector<double> base_;
  std::vector<std::int32_t> player_;
  std::shared_ptr<const SetColumns> sets_;
  std::vector<std::uint32_t> weight_begin_;
  std::vector<Weight> weights_;
};

// Throws MissingCovers, with the ways out, unless path-dependent attributions can be computed.
void require_covers(const Forest& forest);

}  // namespace xai::treeshap
