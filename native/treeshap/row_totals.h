// How what the walk of the one-row variant leaves in its lanes gets to its players.
//
// With 16 lanes, most of it is picked by permutations: 64 accumulators are shared out among the players, and each
// takes at most one of every 32 lanes. The rest, and all of it with fewer lanes, is listed by player and added one by
// one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "treeshap/aligned.h"

namespace xai::treeshap {

struct RowTotals {
  static constexpr std::size_t kAccumulators = 64, kPickedLanes = 32;
  // Of each accumulator the lane that it picks, then one bit whether it picks any.
  static constexpr std::size_t kPickBytes = kAccumulators + kAccumulators / 8;
  static constexpr std::size_t kWindowLanes = std::size_t{1} << 16;  // what a listed lane can tell apart

  struct Segment {
    std::uint32_t player;
    std::uint32_t count;
  };
  struct Window {
    std::size_t first_lane;  // from the start of the run
    std::size_t segment_begin, segment_end;
    std::size_t listed_begin;
  };
  // Lanes that are added up together.
  struct Run {
    std::size_t picks;                                // where its part of them begins; one entry for each 32 lanes
    std::array<std::uint32_t, kAccumulators> player;  // by accumulator
    std::size_t window_begin, window_end;
  };

  AlignedVector<std::uint8_t> picks;
  std::vector<Run> runs;
  std::vector<Window> windows;
  std::vector<Segment> segments;
  std::vector<std::uint16_t> listed;  // lanes, from the start of the window

  static constexpr std::int32_t kNoPlayer = -1;

  // Adds a run of lanes of these players. `with_picks` takes a multiple of kPickedLanes of them.
  void add_run(std::vector<std::int32_t> player, bool with_picks);

  std::size_t memory_bytes() const;

 private:
  void add_picks(std::vector<std::int32_t>& player, Run& run);
  void add_window(const std::vector<std::int32_t>& player, std::size_t first);
};

}  // namespace xai::treeshap
