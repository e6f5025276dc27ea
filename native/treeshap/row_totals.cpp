#include "treeshap/row_totals.h"

#include <algorithm>
#include <map>
#include <utility>

namespace xai::treeshap {

void RowTotals::add_run(std::vector<std::int32_t> player, bool with_picks) {
  Run run{};
  run.picks = picks.size();
  if (with_picks) add_picks(player, run);
  run.window_begin = windows.size();
  for (std::size_t first = 0; first < player.size(); first += kWindowLanes) add_window(player, first);
  run.window_end = windows.size();
  runs.push_back(run);
}

// Strikes out of `player` what is picked.
void RowTotals::add_picks(std::vector<std::int32_t>& player, Run& run) {
  // How many entries have at least n + 1 lanes of a player: what its accumulator n would pick.
  std::map<std::int32_t, std::array<std::uint32_t, kPickedLanes>> gain;
  for (std::size_t first = 0; first < player.size(); first += kPickedLanes) {
    std::map<std::int32_t, std::size_t> count;
    for (std::size_t lane = first; lane < first + kPickedLanes; ++lane)
      if (player[lane] != kNoPlayer) ++gain[player[lane]][count[player[lane]]++];
  }
  std::vector<std::pair<std::uint32_t, std::int32_t>> best;
  for (const auto& [of, picked] : gain)
    for (std::uint32_t n : picked)
      if (n > 0) best.emplace_back(n, of);
  std::stable_sort(best.begin(), best.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  best.resize(std::min(best.size(), kAccumulators));
  std::map<std::int32_t, std::vector<std::size_t>> accumulators;
  for (std::size_t a = 0; a < best.size(); ++a) {
    run.player[a] = static_cast<std::uint32_t>(best[a].second);
    accumulators[best[a].second].push_back(a);
  }
  for (std::size_t first = 0; first < player.size(); first += kPickedLanes) {
    std::array<std::uint8_t, kPickBytes> entry{};
    std::map<std::int32_t, std::size_t> used;
    for (std::size_t lane = 0; lane < kPickedLanes; ++lane) {
      std::int32_t& of = player[first + lane];
      if (of == kNoPlayer) continue;
      const std::vector<std::size_t>& free = accumulators[of];
      if (used[of] == free.size()) continue;
      const std::size_t a = free[used[of]++];
      entry[a] = static_cast<std::uint8_t>(lane);
      entry[kAccumulators + a / 8] |= static_cast<std::uint8_t>(1U << a % 8);
      of = kNoPlayer;
    }
    picks.insert(picks.end(), entry.begin(), entry.end());
  }
}

void RowTotals::add_window(const std::vector<std::int32_t>& player, std::size_t first) {
  std::map<std::int32_t, std::vector<std::uint16_t>> lanes;
  for (std::size_t lane = first; lane < std::min(player.size(), first + kWindowLanes); ++lane)
    if (player[lane] != kNoPlayer) lanes[player[lane]].push_back(static_cast<std::uint16_t>(lane - first));
  Window window{first, segments.size(), 0, listed.size()};
  for (const auto& [of, at] : lanes) {
    segments.push_back({static_cast<std::uint32_t>(of), static_cast<std::uint32_t>(at.size())});
    listed.insert(listed.end(), at.begin(), at.end());
  }
  window.segment_end = segments.size();
  windows.push_back(window);
}

std::size_t RowTotals::memory_bytes() const {
  return picks.size() + runs.size() * sizeof(Run) + windows.size() * sizeof(Window) +
         segments.size() * sizeof(Segment) + listed.size() * sizeof(listed[0]);
}

}  // namespace xai::treeshap
