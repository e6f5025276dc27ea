#include "treeshap/category_splits.h"

#include <algorithm>
#include <string>

#include "treeshap/forest.h"

namespace xai::treeshap {
namespace {

bool is_member(const RawForest& raw, std::int64_t node) {
  return raw.kind[node] == static_cast<std::uint8_t>(NodeKind::kMember);
}

// Whether the chain that `node` is part of goes on at its false child.
bool goes_on(const RawForest& raw, std::int64_t node) {
  const std::int64_t next = raw.right[node];
  return is_member(raw, next) && raw.feature[next] == raw.feature[node] && raw.left[next] == raw.left[node];
}

}  // namespace

CategorySplits::CategorySplits(const RawForest& raw) {
  const auto n = static_cast<std::int64_t>(raw.kind.size());
  std::vector<bool> absorbed(n, false);
  bool any = false;
  for (std::int64_t node = 0; node < n; ++node)
    if (is_member(raw, node)) {
      any = true;
      if (goes_on(raw, node)) absorbed[raw.right[node]] = true;
    }
  if (!any) return;

  std::vector<SetColumns::Set> of_split;
  std::vector<bool> taken(n, false);
  split_of_.assign(n, kNone);
  for (std::int64_t node = 0; node < n; ++node) {
    if (!is_member(raw, node) || absorbed[node]) continue;
    split_of_[node] = static_cast<std::uint32_t>(splits_.size());
    CategorySplit split{0, 0, false, {}};
    SetColumns::Set set{static_cast<std::int32_t>(raw.feature[node]), {}};
    for (std::int64_t link = node;; link = raw.right[link]) {
      if (taken[link]) throw InvalidForest("node " + std::to_string(link) + " is part of two chains of categories");
      taken[link] = true;
      if (link != node) split.absorbed.push_back(link);
      set.values.insert(set.values.end(), raw.set_value.begin() + raw.set_begin[link],
                        raw.set_value.begin() + raw.set_begin[link + 1]);
      split.nan_left |= raw.nan_left[link] != 0;
      split.right = raw.right[link];
      if (!goes_on(raw, link)) break;
    }
    std::sort(set.values.begin(), set.values.end());
    set.values.erase(std::unique(set.values.begin(), set.values.end()), set.values.end());
    splits_.push_back(std::move(split));
    of_split.push_back(std::move(set));
  }
  sets_ = of_split;
  std::sort(sets_.begin(), sets_.end());
  sets_.erase(std::unique(sets_.begin(), sets_.end()), sets_.end());
  for (std::size_t i = 0; i < splits_.size(); ++i)
    splits_[i].column = static_cast<std::int32_t>(
        raw.n_features + (std::lower_bound(sets_.begin(), sets_.end(), of_split[i]) - sets_.begin()));
}

}  // namespace xai::treeshap
