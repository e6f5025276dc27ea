// The one-row kernel, compiled once for each instruction set. The including file defines XAI_ISA (a namespace) and has
// included the vectors of that name, row_lanes_*-inl.h. The mathematics is in path_dependent.h, the layout in
// row_plan.h.
//
// Everything here has internal linkage, and of the standard library only what is always inlined is used: a function
// shared with other objects might be linked in the version that only this instruction set can run.
#include <algorithm>
#include <bit>

#include "treeshap/row_decisions-inl.h"
#include "treeshap/row_kernel.h"
#include "treeshap/row_plan.h"
#include "treeshap/row_totals-inl.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap::XAI_ISA {
namespace {

static_assert(std::endian::native == std::endian::little, "bits are written as words and read in other pieces");
static_assert(kPacked == (kLanes == kMaxLanes), "RowPlan::packed() says so of the plans that are walked here");

constexpr std::size_t kRouteBytes = RowRoute::kSlotBytes + kLanes;

XAI_INLINE std::uint32_t read_u32(const void* p) {
  std::uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// One block, down and up. `kPoints` is the number of points, or 0 where it is the rule's, up to RowPlan::kMaxPoints.
template <int kPoints>
class Walk {
 public:
  XAI_INLINE Walk(const RowPlan& plan, const RowBlock& block, RowScratch& scratch, const StopToken& stop)
      : plan_(plan),
        stop_(stop),
        block_(block),
        rule_points_(static_cast<int>(plan.rules[block.rule].point.size())),
        slots_(scratch.slots.data()),
        left_(reinterpret_cast<const char*>(scratch.left.data())),
        along_(reinterpret_cast<const char*>(scratch.along.data())),
        repeats_(plan.merged.data() + block.merged),
        stride_(block.inverse_stride),
        phi_(scratch.phi.data() + block.chunk * kLanes) {
    const RowRule& rule = plan.rules[block.rule];
    for (int q = 0; q < points(); ++q) {
      t_[q] = all(rule.point[q]);
      rest_[q] = all(1 - rule.point[q]);
      store(slot(RowBlock::kRootSlot) + q * kLanes, all(rule.weight[q]));
    }
    if constexpr (kPacked) {
      if (plan.inverses.empty()) fill_inverses(scratch.inverses.data());
      repeats_ = plan.inverses.empty() ? scratch.inverses.data() : plan.inverses.data() + block.inverses;
    }
  }

  // P of all vectors that have children in others, and of these children unless they put it together themselves.
  XAI_INLINE void down() {
    const std::uint8_t* routes = plan_.down_routes.data() + block_.down_routes;
    const float* const values = plan_.values.data() + block_.values;
    const RowFork* const end = plan_.forks.data() + block_.fork_end;
    const RowFork* poll = plan_.forks.data() + block_.fork_begin;
    for (const RowFork* fork = poll; fork < end; ++fork) {
      if (fork == poll) {
        if (stop_.stop_requested()) return;
        poll += kBetweenPolls;
      }
      // Front to back for the forks is back to front for the values, which no hardware guesses.
      __builtin_prefetch(values + fork[RowPlan::kAhead].values);
      Vec product[kRoom], factor[kRoom];
      float* const own = slot(fork->product);
      load_product(fork->sources, routes, own, product);
      if (fork->sources)
        for (int q = 0; q < points(); ++q) store(own + q * kLanes, product[q]);

      const Vec ratio = load(values + fork->values);
      Vec h = decision(bits_at(left_, block_.chunk + fork->chunk), ratio);
      if (fork->repeated) {
        h = came_along(block_.repeats + fork->repeats, fork->repeated, h);
        const Repeats repeats(*this, fork->repeated, repeats_ + fork->repeats);
        for (int q = 0; q < points(); ++q) factor[q] = fma(repeats.inverse(q), h * t_[q], ratio);
      } else {
        for (int q = 0; q < points(); ++q) factor[q] = fma(t_[q], h, ratio);
      }
      if (fork->out[0] != RowFork::kNone) {
        float* const out = slot(fork->out[0]);
        for (int q = 0; q < points(); ++q) store(out + q * kLanes, product[q] * factor[q]);
      }
      if (fork->out[1] != RowFork::kNone) {
        float* const out = slot(fork->out[1]);
        for (int q = 0; q < points(); ++q) store(out + q * kLanes, fnma(product[q], factor[q], product[q]));
      }
    }
  }

  // U of all vectors, and what they attribute. `kRadau`: whether there are constants for t = 0.
  template <bool kRadau>
  XAI_INLINE void up() {
    next_value_ = plan_.values.data() + block_.values;
    next_left_ = block_.chunk;
    next_along_ = block_.repeats;
    next_repeats_ = repeats_;
    next_route_ = plan_.up_routes.data() + block_.up_routes;
    next_phi_ = phi_;
    const RowVector* const end = plan_.vectors.data() + block_.vector_end;
    const RowVector* poll = plan_.vectors.data() + block_.vector_begin;
    for (const RowVector* vector = poll; vector < end; ++vector) {
      if (vector == poll) {
        if (stop_.stop_requested()) return;
        poll += kBetweenPolls;
      }
      // `weighted` is P * K but for z.
      Vec product[kRoom], factor[kRoom], weighted[kRoom], left[kRoom], right[kRoom];
      load_product(vector->sources, next_route_, slot(vector->product), product);
      const Vec ratio = next_value();
      Vec h = decision(bits_at(left_, next_left_++), ratio), sum = Vec{};
      const Vec constant = kRadau ? next_value() : Vec{};
      Vec scale;  // h * z
      float* const own_phi = next_phi_;
      next_phi_ += kLanes;
      if (vector->repeated) {
        h = came_along(next_along_, vector->repeated, h);
        const Repeats repeats = take_repeats(vector->repeated);
        scale = h * repeats.merged;
        for (int q = 0; q < points(); ++q) {
          const Vec g = repeats.inverse(q);
          factor[q] = fma(g, h * t_[q], ratio);
          weighted[q] = product[q] * (g * g);
        }
      } else {
        scale = h;
        for (int q = 0; q < points(); ++q) {
          factor[q] = fma(t_[q], h, ratio);
          weighted[q] = product[q];
        }
      }
      take_side<kRadau, false>(vector->side[0], product, factor, left);
      take_side<kRadau, true>(vector->side[1], product, factor, right);

      float* const out = slot(vector->value);
      for (int q = 0; q < points(); ++q) {
        const Vec difference = left[q] - right[q];
        store(out + q * kLanes, fma(factor[q], difference, right[q]));
        sum = q ? fma(weighted[q], difference, sum) : weighted[q] * difference;
      }
      store(own_phi, kRadau ? fma(sum, scale, constant * h) : sum * scale);
    }
  }

 private:
  static constexpr int kRoom = kPoints ? kPoints : RowPlan::kMaxPoints;

  XAI_INLINE int points() const { return kPoints ? kPoints : rule_points_; }
  XAI_INLINE float* slot(RowSlot at) const { return slots_ + at; }
  XAI_INLINE Vec next_value() {
    next_value_ += kLanes;
    return load(next_value_ - kLanes);
  }
  // `h`, but 0 in those of the lanes `repeated` that the row did not come along. Their bits begin at `at`.
  XAI_INLINE Vec came_along(std::size_t at, std::uint16_t repeated, Vec h) const {
    return keep(along_, at, static_cast<Bits>(repeated), h);
  }

  // What lanes whose player stands above them need; other lanes have z = 1.
  struct Repeats {
    XAI_INLINE Repeats(const Walk& of, std::uint16_t repeated, const float* from)
        : walk(of), at(from), spread(static_cast<Bits>(repeated)) {
      merged = spread(at + (kPacked ? walk.points() * walk.stride_ : 0));
    }
    // 1 / F. Whole vectors divide again each time: that takes no longer than to fetch what was divided before.
    XAI_INLINE Vec inverse(int q) const {
      if constexpr (kPacked) return spread(at + q * walk.stride_);
      return walk.inverse(merged, q);
    }
    const Walk& walk;
    const float* at;
    Spread spread;
    Vec merged;  // z
  };
  XAI_INLINE Repeats take_repeats(std::uint16_t repeated) {
    const int count = kPacked ? __builtin_popcount(repeated) : kLanes;
    next_along_ += count;
    next_repeats_ += count;
    return Repeats(*this, repeated, next_repeats_ - count);
  }
  XAI_INLINE Vec inverse(Vec z, int q) const { return all(1) / fma(z, rest_[q], t_[q]); }

  // 1 / F at each point, then z, of all lanes of the block that need them. To divide again for each row is
  // cheaper than to fetch what was divided before from beyond the second cache.
  XAI_INLINE void fill_inverses(float* to) const {
    const float* merged = plan_.merged.data() + block_.merged;
    for (std::size_t at = 0; at < stride_; at += kLanes) {
      const Vec z = load(merged + at);
      for (int q = 0; q < points(); ++q) store(to + q * stride_ + at, inverse(z, q));
      store(to + points() * stride_ + at, z);
    }
  }

  // P, from its slot or put together from lanes of several vectors.
  XAI_INLINE void load_product(int sources, const std::uint8_t*& routes, const float* at, Vec* product) const {
    if (!sources) {
      for (int q = 0; q < points(); ++q) product[q] = load(at + q * kLanes);
      return;
    }
    for (int q = 0; q < points(); ++q) product[q] = Vec{};
    do {
      const Permutation permutation(routes + RowRoute::kSlotBytes);
      const float* from = slot(read_u32(routes));
      for (int q = 0; q < points(); ++q) product[q] = permutation(product[q], from + q * kLanes);
      routes += kRouteBytes;
    } while (--sources);
  }

  // U that comes up from one side, and what the bottoms there attribute.
  template <bool kRadau, bool kRight>
  XAI_INLINE void take_side(const RowSide& side, const Vec* product, const Vec* factor, Vec* value) {
    const auto below = [&](int q) { return kRight ? fnma(product[q], factor[q], product[q]) : product[q] * factor[q]; };
    if (side.has & RowSide::kBottoms) {
      const Vec expected = next_value(), ratio = next_value();
      Vec moves = decision(bits_at(left_, next_left_++), ratio) * next_value(), scale = moves, sum = Vec{};
      const Vec constant = kRadau ? next_value() : Vec{};
      if (side.repeated) {
        moves = came_along(next_along_, side.repeated, moves);
        const Repeats repeats = take_repeats(side.repeated);
        scale = moves * repeats.merged;
        for (int q = 0; q < points(); ++q) {
          const Vec g = repeats.inverse(q);
          value[q] = fma(g, moves * t_[q], expected);
          sum = q ? fma(below(q), g * g, sum) : below(q) * (g * g);
        }
      } else {
        for (int q = 0; q < points(); ++q) {
          value[q] = fma(t_[q], moves, expected);
          sum = q ? sum + below(q) : below(q);
        }
      }
      store(next_phi_, kRadau ? fma(sum, scale, constant * moves) : sum * scale);
      next_phi_ += kLanes;
    } else if (side.has & RowSide::kConstants) {
      const Vec expected = next_value();
      for (int q = 0; q < points(); ++q) value[q] = expected;
    } else {
      for (int q = 0; q < points(); ++q) value[q] = Vec{};
    }
    for (int route = side.routes; route; --route) {
      const std::uint32_t from = read_u32(next_route_);
      const Permutation permutation(next_route_ + RowRoute::kSlotBytes);
      next_route_ += kRouteBytes;
      const float* child = slot(from >> 1);
      if (from & 1)
        for (int q = 0; q < points(); ++q) value[q] = permutation.in_place(value[q], child + q * kLanes);
      else
        for (int q = 0; q < points(); ++q) value[q] = permutation(value[q], child + q * kLanes);
    }
  }

  static constexpr std::ptrdiff_t kBetweenPolls = 256;  // vectors between two looks at the stop token

  const RowPlan& plan_;
  const StopToken& stop_;
  const RowBlock& block_;
  const int rule_points_;
  float* const slots_;
  const char* const left_;
  const char* const along_;
  const float* repeats_;  // z of lanes that need it; packed: at each point 1 / F, then z
  const std::size_t stride_;
  float* const phi_;
  Vec t_[kRoom], rest_[kRoom];  // t, 1 - t
  // Where the way up stands in its streams.
  const float* next_value_ = nullptr;
  std::size_t next_left_ = 0;
  std::size_t next_along_ = 0;
  const float* next_repeats_ = nullptr;
  const std::uint8_t* next_route_ = nullptr;
  float* next_phi_ = nullptr;
};

template <int kPoints>
void walk_block(const RowPlan& plan, const RowBlock& block, RowScratch& scratch, const StopToken& stop) {
  Walk<kPoints> walk(plan, block, scratch, stop);
  walk.down();
  if (plan.rules[block.rule].radau)
    walk.template up<true>();
  else
    walk.template up<false>();
}

using WalkBlock = void (*)(const RowPlan&, const RowBlock&, RowScratch&, const StopToken&);

WalkBlock walk_for(std::size_t points) {
  constexpr WalkBlock kWalks[] = {walk_block<0>, walk_block<1>, walk_block<2>, walk_block<3>, walk_block<4>,
                                  walk_block<5>, walk_block<6>, walk_block<7>, walk_block<8>};
  return kWalks[points < sizeof kWalks / sizeof *kWalks ? points : 0];
}

}  // namespace

void explain_row(const RowPlan& plan, const float* row, double* phi, RowScratch& scratch, const StopToken& stop) {
  const std::size_t outputs = plan.n_outputs;
  std::fill_n(phi, static_cast<std::size_t>(plan.n_players) * outputs, 0.0);
  const Decide decide = decide_for(plan.decisions, read_row(plan.decisions, row, scratch));
  for (std::size_t s = 0; s < plan.sums.size(); ++s) {
    const RowSum& sum = plan.sums[s];
    decide(plan.decisions, sum, scratch, stop);
    stop.throw_if_stopped();
    take_away(plan.decisions, sum, scratch);
    for (std::uint32_t b = sum.block_begin; b < sum.block_end; ++b) {
      const RowBlock& block = plan.blocks[b];
      walk_for(plan.rules[block.rule].point.size())(plan, block, scratch, stop);
    }
    stop.throw_if_stopped();
    add_up(plan.totals, plan.totals.runs[s], scratch.phi.data(), sum.lane_end - sum.lane_begin, phi + sum.output,
           outputs, stop);
  }
}

}  // namespace xai::treeshap::XAI_ISA
