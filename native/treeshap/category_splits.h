// A forest's categorical splits, as sets.
//
// ONNX has no sets before opset 5 of ai.onnx.ml. Converters write "is it one of these" as a chain of splits that ask
// for one value each: all have the same true child, and each is the false child of the one before. Taken node by node,
// a chain would be many decisions, and its true child would have many parents. Here it is one split, at its first node.
#pragma once

#include <cstdint>
#include <vector>

#include "treeshap/set_columns.h"

namespace xai::treeshap {

struct RawForest;

struct CategorySplit {
  std::int32_t column;  // of Forest: where the set's bit stands
  std::int64_t right;   // the child taken by values that are not in the set
  bool nan_left;        // NaN fails every comparison of the chain, and leaves it where the first flag says so
  std::vector<std::int64_t> absorbed;  // the chain's other nodes
};

class CategorySplits {
 public:
  // `raw` has been checked node by node, not yet as a graph. Throws InvalidForest where chains share nodes.
  explicit CategorySplits(const RawForest& raw);

  // Distinct and ascending: set i has column n_features + i.
  const std::vector<SetColumns::Set>& sets() const { return sets_; }

  // The split at a kMember node, null where another absorbs the node.
  const CategorySplit* find(std::int64_t node) const {
    return split_of_[node] == kNone ? nullptr : &splits_[split_of_[node]];
  }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  std::vector<SetColumns::Set> sets_;
  std::vector<CategorySplit> splits_;
  std::vector<std::uint32_t> split_of_;  // by node; empty where there are no categorical splits
};

}  // namespace xai::treeshap
