// Random forests for the native laws, as the arrays that a file would give.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "treeshap/forest.h"

namespace xai::treeshap::testing {

struct Arrays {
  std::int64_t n_features = 1, n_outputs = 1;
  std::vector<std::int64_t> tree_begin{0}, feature, left, right, weight_begin{0}, weight_output;
  std::vector<std::uint8_t> kind, nan_left;
  std::vector<double> threshold, cover, weight, base;
  std::vector<std::int64_t> set_begin, player;
  std::vector<float> set_value;

  RawForest raw() const {
    return {n_features, n_outputs,    tree_begin,    kind,   feature, threshold, nan_left,  left,  right,
            cover,      weight_begin, weight_output, weight, base,    set_begin, set_value, player};
  }
};

// Shapes and values chosen to be hard: few features (so that they repeat), thresholds that rows stand on, both kinds of
// comparison, both routes of NaN, covers of 0, leaves without weight, single-leaf trees, chains.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(random_); }
  double normal() { return std::normal_distribution<double>()(random_); }

  float value() {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    static const float values[] = {-kInfinity, -1.5F,    -0.0F, 0.0F, 1e-40F, 0.5F, std::nextafter(0.5F, 1.0F),
                                   2.0F,       kInfinity};
    return chance(0.5) ? values[below(9)] : static_cast<float>(normal());
  }

  // Half of the forests have categorical splits, half have players of several columns.
  Arrays forest(int n_features, int n_outputs, int n_trees, int depth, double split_chance) {
    Arrays a;
    a.n_features = n_features;
    a.n_outputs = n_outputs;
    set_chance_ = chance(0.5) ? 0.3 : 0.0;
    if (chance(0.5))
      for (int feature = 0; feature < n_features; ++feature)
        a.player.push_back(static_cast<std::int64_t>(below((n_features + 1) / 2)));
    for (int output = 0; output < n_outputs; ++output) a.base.push_back(normal());
    for (int tree = 0; tree < n_trees; ++tree) {
      const auto root = static_cast<std::int64_t>(a.kind.size());
      add(a, depth, split_chance);
      // A root without cover would be a forest without covers.
      if (a.kind[root] != 0 && a.cover[a.left[root]] + a.cover[a.right[root]] == 0) a.cover[a.left[root]] = 1;
      a.tree_begin.push_back(static_cast<std::int64_t>(a.kind.size()));
    }
    // Sets and weights are stored by node, and nodes above were added before their leaves.
    a.set_begin.assign(1, 0);
    for (std::uint8_t kind : a.kind) {
      if (kind == 3)
        for (std::size_t i = 1 + below(4); i-- > 0;) a.set_value.push_back(value());
      a.set_begin.push_back(static_cast<std::int64_t>(a.set_value.size()));
    }
    a.weight_begin.assign(1, 0);
    for (std::size_t node = 0; node < a.kind.size(); ++node) {
      if (a.kind[node] == 0)
        for (int output = 0; output < n_outputs; ++output)
          if (chance(0.8)) {
            a.weight_output.push_back(output);
            a.weight.push_back(normal());
          }
      a.weight_begin.push_back(static_cast<std::int64_t>(a.weight.size()));
    }
    return a;
  }

  std::vector<float> rows(int n, int n_features, double nan_chance) {
    std::vector<float> rows(static_cast<std::size_t>(n) * n_features);
    for (float& x : rows) x = chance(nan_chance) ? std::numeric_limits<float>::quiet_NaN() : value();
    return rows;
  }

 private:
  std::int64_t add(Arrays& a, int depth, double split_chance) {
    const auto self = static_cast<std::int64_t>(a.kind.size());
    const bool leaf = depth == 0 || !chance(split_chance);
    a.kind.push_back(leaf ? 0 : chance(set_chance_) ? 3 : chance(0.5) ? 1 : 2);
    a.feature.push_back(static_cast<std::int64_t>(below(a.n_features)));
    a.threshold.push_back(value());
    a.nan_left.push_back(chance(0.5));
    a.left.push_back(-1);
    a.right.push_back(-1);
    a.cover.push_back(chance(0.1) ? 0.0 : 1.0 + below(20));
    if (!leaf) {
      const std::int64_t left = add(a, depth - 1, split_chance), right = add(a, depth - 1, split_chance);
      a.left[self] = left;
      a.right[self] = right;
      a.cover[self] = a.cover[left] + a.cover[right];
    }
    return self;
  }

  std::mt19937_64 random_;
  double set_chance_ = 0;
};

}  // namespace xai::treeshap::testing
