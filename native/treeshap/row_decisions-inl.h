// The decisions of one row (row_decisions.h says how). Part of the one-row kernel: see row_kernel-inl.h.
#include "treeshap/row_plan.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap::XAI_ISA {
namespace {

// Fills in what decisions need to know of the row. Returns whether it has a NaN that matters.
bool read_row(const RowDecisions& plan, const float* row, RowScratch& scratch) {
  bool any_nan = false;
  for (std::size_t c = 0; c < plan.columns.size(); ++c) {
    const float x = row[plan.columns[c]];
    any_nan |= x != x;
    scratch.numbers[c] = x;
    if (!plan.ranked) continue;
    const float* cuts = plan.cuts.data() + c * RowDecisions::kCutRow;
    const int sixteens = count_not_above(cuts, x);
    const int rest = count_not_above(cuts + RowDecisions::kCutsBefore + 16 * sixteens, x);
    scratch.ranks[c] = static_cast<std::uint8_t>(16 * sixteens + rest);
    scratch.nans[c] = x != x ? 0xFF : 0;
  }
  return any_nan;
}

XAI_INLINE std::uint64_t choose(std::uint64_t which, std::uint64_t yes, std::uint64_t no) {
  return (which & yes) | (~which & no);
}

// Once in some ten microseconds. Only a sum of very many lanes, a huge tree's, comes to a second time.
XAI_INLINE bool time_to_poll(std::size_t lane) { return lane % (RowDecisions::kWord * 512) == 0; }

// What decides leaves the rest undecided when it is stopped.
template <int kColumns, bool kNaN>
void decide_by_rank(const RowDecisions& plan, const RowSum& sum, RowScratch& scratch, const StopToken& stop) {
  constexpr std::size_t kWord = RowDecisions::kWord;
  const Table<kColumns> ranks(scratch.ranks.data()), nans(scratch.nans.data());
  for (std::size_t at = sum.lane_begin; at < sum.lane_end; at += kWord) {
    if (time_to_poll(at) && stop.stop_requested()) return;
    const std::uint8_t* column = plan.rank_column.data() + at;
    std::uint64_t left = ranks.at_most(column, plan.rank_bound.data() + at) ^ plan.flipped[at / kWord];
    if constexpr (kNaN) left = choose(nans.set(column), plan.nan_left[at / kWord], left);
    scratch.left[(at - sum.lane_begin) / kWord] = left;
  }
  for (std::size_t at = sum.repeat_begin; at < sum.repeat_end; at += kWord) {
    if (time_to_poll(at) && stop.stop_requested()) return;
    const std::uint8_t* column = plan.repeat_rank_column.data() + at;
    std::uint64_t along = ranks.within(column, plan.repeat_rank_low.data() + at, plan.repeat_rank_width.data() + at);
    if constexpr (kNaN) along = choose(nans.set(column), plan.nan_along[at / kWord], along);
    scratch.along[(at - sum.repeat_begin) / kWord] = along;
  }
}

template <bool kFew, bool kNaN>
void decide_by_value(const RowDecisions& plan, const RowSum& sum, RowScratch& scratch, const StopToken& stop) {
  constexpr std::size_t kWord = RowDecisions::kWord;
  const Numbers<kFew> numbers(scratch.numbers.data());
  for (std::size_t at = sum.lane_begin; at < sum.lane_end; at += kWord) {
    if (time_to_poll(at) && stop.stop_requested()) return;
    std::uint64_t right = 0, nan = 0;
    for (std::size_t part = 0; part < kWord; part += kLanes) {
      const Vec x = numbers.look_up(plan.value_column.data() + at + part);
      right |= not_less(x, load(plan.value_bound.data() + at + part)) << part;
      if constexpr (kNaN) nan |= unordered(x) << part;
    }
    const std::uint64_t left = ~right ^ plan.flipped[at / kWord];
    scratch.left[(at - sum.lane_begin) / kWord] = kNaN ? choose(nan, plan.nan_left[at / kWord], left) : left;
  }
  for (std::size_t at = sum.repeat_begin; at < sum.repeat_end; at += kWord) {
    if (time_to_poll(at) && stop.stop_requested()) return;
    std::uint64_t along = 0, nan = 0;
    for (std::size_t part = 0; part < kWord; part += kLanes) {
      const Vec x = numbers.look_up(plan.repeat_value_column.data() + at + part);
      const std::uint64_t above = not_less(x, load(plan.repeat_value_low.data() + at + part));
      along |= (above & ~not_less(x, load(plan.repeat_value_high.data() + at + part))) << part;
      if constexpr (kNaN) nan |= unordered(x) << part;
    }
    scratch.along[(at - sum.repeat_begin) / kWord] = kNaN ? choose(nan, plan.nan_along[at / kWord], along) : along;
  }
}

// Of players with several columns: a row came along when it did in all of them.
XAI_INLINE void take_away(const RowDecisions& plan, const RowSum& sum, RowScratch& scratch) {
  constexpr std::size_t kWord = RowDecisions::kWord;
  const std::uint32_t* from = plan.taken_from.data() + sum.beside;
  const std::size_t end = (sum.repeat_end - sum.repeat_begin) / kWord;
  for (std::size_t word = (sum.beside_begin - sum.repeat_begin) / kWord; word < end; ++word, from += kWord)
    for (std::uint64_t failed = ~scratch.along[word]; failed; failed &= failed - 1) {
      const std::uint32_t bit = from[__builtin_ctzll(failed)];
      scratch.along[bit / kWord] &= ~(std::uint64_t{1} << bit % kWord);
    }
}

using Decide = void (*)(const RowDecisions&, const RowSum&, RowScratch&, const StopToken&);

Decide decide_for(const RowDecisions& plan, bool any_nan) {
  const std::size_t columns = plan.columns.size();
  if (plan.ranked) {
    if (columns <= 32) return any_nan ? decide_by_rank<32, true> : decide_by_rank<32, false>;
    if (columns <= 64) return any_nan ? decide_by_rank<64, true> : decide_by_rank<64, false>;
    return any_nan ? decide_by_rank<128, true> : decide_by_rank<128, false>;
  }
  if (columns <= 32) return any_nan ? decide_by_value<true, true> : decide_by_value<true, false>;
  return any_nan ? decide_by_value<false, true> : decide_by_value<false, false>;
}

}  // namespace
}  // namespace xai::treeshap::XAI_ISA
