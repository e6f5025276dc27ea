// What the lanes hold, added up by player (row_totals.h says how). Part of the one-row kernel: see row_kernel-inl.h.
#include "treeshap/row_totals.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap::XAI_ISA {
namespace {

// Adds the attributions of one run, `lanes` of them, to `phi`: by player, `step` apart.
void add_up(const RowTotals& totals, const RowTotals::Run& run, const float* from, std::size_t lanes, double* phi,
            std::size_t step, const StopToken& stop) {
  if constexpr (kHasPicks) {
    Vec sums[RowTotals::kAccumulators / kLanes] = {};
    const std::uint8_t* entry = totals.picks.data() + run.picks;
    for (std::size_t lane = 0; lane < lanes; lane += RowTotals::kPickedLanes, entry += RowTotals::kPickBytes)
      pick(from + lane, entry, sums);
    alignas(Vec) float total[RowTotals::kAccumulators];
    for (std::size_t a = 0; a < RowTotals::kAccumulators; a += kLanes) store(total + a, sums[a / kLanes]);
    for (std::size_t a = 0; a < RowTotals::kAccumulators; ++a) phi[run.player[a] * step] += total[a];
  }
  for (std::size_t w = run.window_begin; w < run.window_end && !stop.stop_requested(); ++w) {
    const RowTotals::Window& window = totals.windows[w];
    const float* first = from + window.first_lane;
    const std::uint16_t* lane = totals.listed.data() + window.listed_begin;
    for (std::size_t s = window.segment_begin; s < window.segment_end; ++s) {
      const RowTotals::Segment& segment = totals.segments[s];
      float sums[8] = {};  // no addition waits for the one before
      std::uint32_t i = 0;
      for (; i + 8 <= segment.count; i += 8, lane += 8) {
        std::uint64_t four[2];  // lanes at a time: a load for each would take as long as the additions
        std::memcpy(four, lane, sizeof four);
        for (int j = 0; j < 8; ++j) sums[j] += first[four[j / 4] >> (16 * (j % 4)) & 0xFFFF];
      }
      for (; i < segment.count; ++i) sums[i % 8] += first[*lane++];
      phi[segment.player * step] +=
          ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
  }
}

}  // namespace
}  // namespace xai::treeshap::XAI_ISA
