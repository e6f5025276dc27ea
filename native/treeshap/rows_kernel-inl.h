// The many-rows kernel, compiled once for each instruction set. The including file defines XAI_ISA (a namespace),
// XAI_LANES (floats in a register) and XAI_PARTS (registers in a vector). The mathematics is in path_dependent.h and
// rows_plan.h.
//
// Lane i of each vector (rows_lanes-inl.h) is row i of a block. Everything here
// has internal linkage, and no template or inline function of the standard library is used: the linker might keep this
// object's copy of one, which only this instruction set can run, for the whole program.
#include <cstdint>
#include <cstring>
#include <new>

#include "treeshap/rows_kernel.h"
#include "treeshap/rows_lanes-inl.h"
#include "treeshap/rows_plan.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap::XAI_ISA {
namespace {

constexpr std::size_t kTileRows = 256;  // rows whose inputs and sums stay in cache while a tree is walked for all
constexpr std::uint32_t kSplitsBetweenPolls = 512;  // at least so many between two looks at the stop token
constexpr std::size_t kSplitsPerSum = 1024;  // splits summed in float32, roughly, before they go into the float64 sum

// What a walk needs beside the node and the products. `kNaN`: whether any value of the block is NaN.
struct Walk {
  const RowsSplit* splits;
  const RowsRepeat* repeats;
  const RowsCondition* conditions;
  const float* factors;
  const float* point;  // of the rule
  int points;
  const Vec* x;  // by column
  Vec* phi;      // by column
  const StopToken& stop;
};

template <bool kNaN>
XAI_INLINE Mask goes_left(const Comparison& at, Vec x) {
  Mask left = ~(x >= at.threshold);
  if constexpr (kNaN) left = left & (~is_nan(x) | everywhere(at.nan_left));
  return left;
}

template <bool kNaN>
XAI_INLINE Mask holds(const RowsCondition& condition, Vec x) {
  Mask along = (x >= condition.low) & ~(x >= condition.high);
  if constexpr (kNaN) along = along | (is_nan(x) & everywhere(condition.nan_along));
  return along;
}

// `x`: the values of the split's column.
template <bool kNaN>
XAI_INLINE Mask came_along(const Walk& walk, const RowsRepeat& repeat, Vec x) {
  const RowsCondition* condition = walk.conditions + repeat.conditions;
  const RowsCondition* const end = walk.conditions + repeat.conditions_end;
  Mask along = holds<kNaN>(*condition, x);
  while (++condition < end) along = along & holds<kNaN>(*condition, walk.x[condition->column]);
  return along;
}

// H of a bottom: how its value and its feature move with t.
template <bool kNaN>
XAI_INLINE Vec bottom(const Walk& walk, const RowsChild& child) {
  return choose(goes_left<kNaN>(child.at, walk.x[child.at.column]), child.if_left, child.if_right);
}

// Walks the subtree of one split. `product` holds P at each point, times the point's weight; `value` gets U. `kPoints`
// is the number of points, or 0 where it is `walk.points`, up to RowsPlan::kMaxPoints.
template <int kPoints, bool kNaN>
void visit(const Walk& walk, std::uint32_t index, const Vec* product, Vec* value) {
  constexpr int kRoom = kPoints ? kPoints : RowsPlan::kMaxPoints;
  const int points = kPoints ? kPoints : walk.points;
  const float* t = walk.point;
  const RowsSplit& split = walk.splits[index];
  const Vec x = walk.x[split.at.column];
  Vec h = choose(goes_left<kNaN>(split.at, x), 1 - split.ratio, -split.ratio);
  Vec& phi = walk.phi[split.at.column];

  if (split.twig) {
    Vec sum = product[0] + split.moment, first = product[0] * t[0];
    for (int q = 1; q < points; ++q) {
      sum += product[q];
      first += product[q] * t[q];
    }
    // P of the left child summed over the points, then of the right.
    const Vec to_left = first * h + sum * split.ratio, to_right = sum - to_left;
    Vec slope = Vec{};  // of U_left - U_right
    Vec linear = h * split.difference;
    if (split.left.kind == ChildKind::kBottom) {
      const Vec below = bottom<kNaN>(walk, split.left);
      walk.phi[split.left.at.column] += to_left * below;
      slope = below;
    }
    if (split.right.kind == ChildKind::kBottom) {
      const Vec below = bottom<kNaN>(walk, split.right);
      walk.phi[split.right.at.column] += to_right * below;
      slope -= below;
      linear += below;
    }
    phi += h * (first * slope + sum * split.difference);
    linear += slope * split.ratio;
    const Vec square = h * slope;
    for (int q = 0; q < points; ++q) value[q] = (square * t[q] + linear) * t[q] + split.mean;
    return;
  }

  const bool large = split.left.kind == ChildKind::kSplit && split.right.kind == ChildKind::kSplit &&
                     split.right.split - split.left.split > kSplitsBetweenPolls;
  if (large && walk.stop.stop_requested()) {
    for (int q = 0; q < points; ++q) value[q] = Vec{};
    return;
  }
  const float* tau = t;
  const float* kernel = nullptr;
  if (split.repeat >= 0) {
    const RowsRepeat& repeat = walk.repeats[split.repeat];
    h = choose(came_along<kNaN>(walk, repeat, x), h, Vec{});
    tau = walk.factors + repeat.factors;
    kernel = tau + points;
  }
  // Computed again where it is needed: a level of a deep tree should not take more of the first cache than two arrays.
  const auto factor = [&](int q) XAI_INLINE_LAMBDA { return h * tau[q] + split.ratio; };
  Vec below[kRoom], left[kRoom];
  const auto take = [&](const RowsChild& child, auto product_of, Vec* out) XAI_INLINE_LAMBDA {
    if (child.kind == ChildKind::kSplit) {
      for (int q = 0; q < points; ++q) below[q] = product_of(q);
      visit<kPoints, kNaN>(walk, child.split, below, out);
    } else if (child.kind == ChildKind::kBottom) {
      const Vec slope = bottom<kNaN>(walk, child);
      Vec sum = child.constant;
      for (int q = 0; q < points; ++q) {
        out[q] = slope * t[q] + child.expected;
        sum += product_of(q);
      }
      walk.phi[child.at.column] += sum * slope;
    } else {
      for (int q = 0; q < points; ++q) out[q] = child.expected;
    }
  };
  take(split.left, [&](int q) XAI_INLINE_LAMBDA { return product[q] * factor(q); }, left);
  take(split.right, [&](int q) XAI_INLINE_LAMBDA { return product[q] - product[q] * factor(q); }, value);

  Vec sum = split.constant;
  for (int q = 0; q < points; ++q) {
    Vec difference = left[q] - value[q];
    value[q] = factor(q) * difference + value[q];
    if (kernel) difference *= kernel[q];
    sum += product[q] * difference;
  }
  phi += sum * h;
}

template <int kPoints, bool kNaN>
void start(const Walk& walk, std::uint32_t root, const float* weight) {
  Vec product[kPoints ? kPoints : RowsPlan::kMaxPoints], value[kPoints ? kPoints : RowsPlan::kMaxPoints];
  for (int q = 0; q < walk.points; ++q) product[q] = weight[q];
  visit<kPoints, kNaN>(walk, root, product, value);
}

using Start = void (*)(const Walk&, std::uint32_t, const float*);

template <bool kNaN>
Start start_for(int points) {
  switch (points) {
    case 1:
      return start<1, kNaN>;
    case 2:
      return start<2, kNaN>;
    case 3:
      return start<3, kNaN>;
    case 4:
      return start<4, kNaN>;
    case 5:
      return start<5, kNaN>;
    case 6:
      return start<6, kNaN>;
    case 7:
      return start<7, kNaN>;
    case 8:
      return start<8, kNaN>;
    default:
      return start<0, kNaN>;
  }
}

// Aligned memory for vectors, freed at the end of the scope.
class Scratch {
 public:
  explicit Scratch(std::size_t vectors)
      : data_(static_cast<Vec*>(::operator new(vectors * sizeof(Vec) + 1, std::align_val_t{alignof(Vec)}))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t{alignof(Vec)}); }
  Scratch(const Scratch&) = delete;
  Vec* data() const { return data_; }

 private:
  Vec* data_;
};

inline std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

// One block's inputs, by column; rows beyond the last repeat it. Returns whether any value is NaN.
bool load(const RowsPlan& plan, const float* rows, std::size_t n, Vec* inputs) {
  Mask nan{};
  for (std::size_t column = 0; column < plan.n_used; ++column) {
    Vec x;
    for (int lane = 0; lane < kLanes; ++lane)
      x.set(lane, rows[least(lane, n - 1) * plan.n_columns + plan.used_columns[column]]);
    inputs[column] = x;
    nan = nan | is_nan(x);
  }
  return any(nan);
}

// Adds one block's float32 sums to the rows' attributions and begins anew.
void flush(const RowsPlan& plan, std::size_t n, std::int32_t output, Vec* sums, double* phi) {
  const std::size_t width = static_cast<std::size_t>(plan.n_players) * plan.n_outputs;
  for (std::size_t lane = 0; lane < least(n, kLanes); ++lane)
    for (std::size_t column = 0; column < plan.n_used; ++column)
      phi[lane * width + static_cast<std::size_t>(plan.used_players[column]) * plan.n_outputs + output] +=
          sums[column][lane];
  std::memset(static_cast<void*>(sums), 0, plan.n_used * sizeof(Vec));
}

}  // namespace

bool explain_rows(const RowsPlan& plan, const float* rows, std::size_t begin, std::size_t end, double* phi,
                  const StopToken& stop) {
  const std::size_t used = plan.n_used;
  const std::size_t width = static_cast<std::size_t>(plan.n_players) * plan.n_outputs;
  const std::size_t blocks = (least(end - begin, kTileRows) + kLanes - 1) / kLanes;
  std::memset(phi + begin * width, 0, (end - begin) * width * sizeof(double));
  // By block, then column.
  Scratch scratch(2 * blocks * used);
  Vec *const inputs = scratch.data(), *const sums = inputs + blocks * used;
  std::memset(static_cast<void*>(sums), 0, blocks * used * sizeof(Vec));
  bool has_nan[kTileRows];

  for (std::size_t tile = begin; tile < end; tile += kTileRows) {
    const std::size_t n = least(end - tile, kTileRows), n_blocks = (n + kLanes - 1) / kLanes;
    for (std::size_t block = 0; block < n_blocks; ++block)
      has_nan[block] =
          load(plan, rows + (tile + block * kLanes) * plan.n_columns, n - block * kLanes, inputs + block * used);
    std::size_t summed = 0;
    for (std::size_t tree = 0; tree < plan.n_trees; ++tree) {
      const RowsTree& game = plan.tree_data[tree];
      const RowsRule& rule = plan.rule_data[game.rule];
      const Start plain = start_for<false>(rule.points), with_nan = start_for<true>(rule.points);
      for (std::size_t block = 0; block < n_blocks; ++block) {
        const Walk walk{plan.split_data,       plan.repeat_data,    plan.condition_data,
                        plan.factor_data,      rule.point,          rule.points,
                        inputs + block * used, sums + block * used, stop};
        (has_nan[block] ? with_nan : plain)(walk, game.root, rule.weight);
        if (stop.stop_requested()) return false;
      }
      summed += game.n_splits;
      const bool last_of_output = tree + 1 == plan.n_trees || plan.tree_data[tree + 1].output != game.output;
      if (!last_of_output && summed < kSplitsPerSum) continue;
      summed = 0;
      for (std::size_t block = 0; block < n_blocks; ++block)
        flush(plan, n - block * kLanes, game.output, sums + block * used, phi + (tile + block * kLanes) * width);
    }
  }
  return true;
}

}  // namespace xai::treeshap::XAI_ISA
