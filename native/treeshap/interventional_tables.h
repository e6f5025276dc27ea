// Interventional SHAP by tables: the form for shallow trees. A row's cost does not depend on the background's size.
//
// A tree is cut into groups, small subtrees at its bottom. What a group adds to a row's attributions depends on a few
// bits of the row only: for each distinct column of the path to the group, whether the row goes along with all splits
// on it, and for each split inside the group, where the row goes. So the attributions are tabulated by these bits,
// averaged over the background once, and a row takes one entry from each group (the idea is WOODELF's, AAAI 2026, there
// leaf by leaf).
//
// To fill a table, count the background rows by their bits, and for each leaf of the group by the bits a of its
// distinct features. With o the row's bits, the leaf's game has, at the point t of the multilinear extension's
// diagonal, the value
//
//     W_t[o] = sum over a of c[a] * product over k of (t o_k + (1 - t) a_k)
//
// a tensor product of 2 x 2 matrices applied to the counts: d 2^d steps instead of the 3^d pairs of patterns that are
// compatible. Its derivative in feature i is W_t[o without i] / -(1 - t) where o_i is 0, and (W_t[o] - W_t[o without i]
// / (1 - t)) / t where it is 1; integrated over t by Gauss-Legendre with ceil(d / 2) points, without error.
//
// The bits come from bytes: a coding numbers the thresholds of up to 32 columns, up to 253 each, and a row's rank
// among them decides all their splits. A condition is then `low <= rank <= low + width`. A model that needs more has
// several codings. A group's features are spread over its coding's 32 slots when its entry is added, so that sums stay
// in registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "treeshap/forest.h"

namespace xai::treeshap {

// Up to kSlots columns and their thresholds in ascending order: a value's rank is how many of them are <= it. NaN has
// the rank kNaNRank.
struct TableCoding {
  static constexpr int kSlots = 32;
  static constexpr int kMaxThresholds = 253;  // a slot
  static constexpr std::uint8_t kNoRank = 254, kNaNRank = 255;

  int n_slots;
  std::uint32_t column[kSlots];
  std::uint32_t player[kSlots];
  std::uint32_t
      thresholds[kSlots + 1];  // slot s owns [thresholds[s], thresholds[s + 1]) of PatternTables::threshold_data
};

// Up to kGroups groups of the same shape, side by side.
struct TableChunk {
  static constexpr int kGroups = 32;
  // For each bit, kGroups bytes each: slot, low, width, and 255 where NaN goes along.
  enum Plane { kSlot, kLow, kWidth, kNaN, kPlanes };

  std::uint32_t coding;
  std::int32_t output;
  int bits;  // of a group's pattern
  int n_groups;
  bool wide;               // entries have 16 places, not 8
  bool ends_block;         // add float32 sums to the attributions, and begin anew, after this chunk
  std::size_t conditions;  // index into PatternTables::condition_data
  std::size_t group;       // of the first: index into group_data
  std::size_t table;       // of the first: index into table_data; the others' follow, 2^bits entries each
};

// Which of its coding's slots a group's entries are for: of each of its players, the first.
struct TableGroup {
  static constexpr int kNarrow = 8, kWide = 16;  // places of an entry; the last is always 0

  // By slot: its place in an entry, the last where the group has nothing for it. Four bits each: slot s = 16 w + l is
  // in word w, at bit 32 (l % 2) + 4 (l / 2), where a vector's lane l finds it by one shift of the repeated word.
  std::uint64_t places[TableCoding::kSlots / 16];
  std::uint8_t slot[kWide - 1];  // by place
  std::uint8_t n_places;
};

class PatternTables {
 public:
  static constexpr int kMaxBits = 12;
  static constexpr std::size_t kChunksInBlock = 8;

  // Takes trees of `forest`, the cheapest first, while their tables fit into `memory_cap` bytes. `background` is
  // row-major, n_background x n_columns().
  PatternTables(const Forest& forest, const float* background, std::size_t n_background, std::size_t memory_cap);
  ~PatternTables();
  PatternTables(const PatternTables&) = delete;

  std::size_t memory_bytes() const;

  // Indices into forest.roots(): trees not taken.
  const std::vector<std::uint32_t>& left_out() const { return left_out_; }

  // Plain pointers, so that kernels need no inline function of another object (see interventional_kernel-inl.h).
  int n_columns, n_players, n_outputs;
  std::size_t n_chunks;
  const TableChunk* chunk_data;  // by coding, then output
  const TableCoding* coding_data;
  const TableGroup* group_data;
  const float* threshold_data;
  const std::uint8_t* condition_data;
  const float* table_data;  // aligned to a cache line

 private:
  class Builder;
  struct Free {
    void operator()(float* data) const;
  };

  std::vector<TableChunk> chunks_;
  std::vector<TableCoding> codings_;
  std::vector<TableGroup> groups_;
  std::vector<float> thresholds_;
  std::vector<std::uint8_t> conditions_;
  std::unique_ptr<float[], Free> table_;
  std::size_t table_size_ = 0;
  std::vector<std::uint32_t> left_out_;
};

}  // namespace xai::treeshap
