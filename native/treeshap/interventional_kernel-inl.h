// The interventional table kernel, compiled once for each instruction set. The including file defines XAI_ISA (a
// namespace) and XAI_LANES (floats in a vector). The method is in interventional_tables.h.
//
// A row costs one table entry from each group: find the group's pattern, load the entry, spread its places over the
// coding's 32 slots by a permutation held in a register, add. Sums of 32 slots stay in registers over many groups.
// Many rows: patterns by byte vectors with a lane for each row; then, for a few groups at a time, all rows. One row:
// patterns by byte vectors with a lane for each group, for a block of chunks at once, so that their entries are on the
// way from the outer caches before the first is added. Both add in the same order, and nothing is multiplied, so a
// row's bits depend on neither.
//
// Everything here has internal linkage, and no template or inline function of the standard library is used: the linker
// might keep this object's copy of one, which only this instruction set can run, for the whole program.
#include <cstdint>
#include <cstring>
#include <new>

#include "treeshap/interventional_kernel.h"
#include "treeshap/interventional_tables.h"
#include "treeshap/stop_token.h"

namespace xai::treeshap::XAI_ISA {
namespace {

constexpr int kLanes = XAI_LANES;
constexpr int kSlots = TableCoding::kSlots;
constexpr int kGroups = TableChunk::kGroups;
constexpr std::size_t kTileRows = 1024;  // rows for which each table is read once; their sums are 128 KiB
constexpr std::size_t kFewRows = 32;     // below, rows one by one are faster
constexpr int kRowsInVector = 4 * kLanes;

// Whether the machine permutes a vector by another. Without, entries are added place by place.
#if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
#define XAI_PERMUTES 1
#endif

typedef std::uint8_t Bytes __attribute__((vector_size(kRowsInVector)));
#if XAI_PERMUTES
constexpr int kGroupsInVector = 32;
#else
constexpr int kGroupsInVector = 16;
#endif
typedef std::uint8_t GroupBytes __attribute__((vector_size(kGroupsInVector)));

#define XAI_INLINE inline __attribute__((always_inline))

template <class Vector>
XAI_INLINE Vector load(const std::uint8_t* from) {
  Vector result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

template <class Vector>
XAI_INLINE Vector repeat(std::uint8_t value) {
  return Vector{} + value;
}

XAI_INLINE std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

// A value's rank among its slot's thresholds.
XAI_INLINE std::uint8_t rank_of(float value, const float* thresholds, std::uint32_t n) {
  if (value != value) return TableCoding::kNaNRank;
  std::uint32_t below = 0;  // thresholds known to be <= value
  while (n > 0) {
    const std::uint32_t half = (n + 1) / 2;
    below = value >= thresholds[below + half - 1] ? below + half : below;
    n -= half;
  }
  return static_cast<std::uint8_t>(below);
}

// Adds and begins anew the sums of one row.
XAI_INLINE void flush(const PatternTables& tables, const TableCoding& coding, std::int32_t output, float* sums,
                      double* phi) {
  for (int slot = 0; slot < coding.n_slots; ++slot) {
    phi[static_cast<std::size_t>(coding.player[slot]) * tables.n_outputs + output] += sums[slot];
    sums[slot] = 0;
  }
}

#if XAI_PERMUTES

constexpr int kParts = kSlots / kLanes;  // vectors that hold all slots
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t Index __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Narrow __attribute__((vector_size(TableGroup::kNarrow * sizeof(float))));

// An entry's places put where `place` says, in one part of the slots.
template <bool kWide>
XAI_INLINE Vec spread(const float* entry, Index place) {
  Vec low;
#if XAI_LANES == 16
  if constexpr (!kWide) {
    Narrow half;
    std::memcpy(&half, entry, sizeof half);
    low = __builtin_shufflevector(half, half, 0, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1);
    return __builtin_shuffle(low, place);
  }
  std::memcpy(&low, entry, sizeof low);
  return __builtin_shuffle(low, place);
#else
  std::memcpy(&low, entry, sizeof low);
  if constexpr (!kWide) return __builtin_shuffle(low, place);
  Vec high;
  std::memcpy(&high, entry + kLanes, sizeof high);
  return __builtin_shuffle(low, high, place);
#endif
}

// Of a group, for one part of the slots. A permutation heeds the lowest bits of a lane's index only.
XAI_INLINE Index places(const TableGroup& group, int part) {
  typedef std::uint64_t Words __attribute__((vector_size(kLanes * sizeof(float))));
  typedef std::uint32_t Shifts __attribute__((vector_size(kLanes * sizeof(float))));
#if XAI_LANES == 16
  constexpr Shifts kShifts = {0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28};
  return (Index)((Shifts)(Words{} + group.places[part]) >> kShifts);
#else
  const Shifts shifts = Shifts{0, 0, 4, 4, 8, 8, 12, 12} + static_cast<std::uint32_t>(16 * (part % 2));
  return (Index)((Shifts)(Words{} + group.places[part / 2]) >> shifts);
#endif
}

// The sums of one row.
struct Sums {
  Vec part[kParts];

  template <bool kWide>
  XAI_INLINE void add(const TableGroup& group, const float* entry) {
    for (int i = 0; i < kParts; ++i) part[i] += spread<kWide>(entry, places(group, i));
  }
};

#else

struct Sums {
  float slot[kSlots];

  template <bool kWide>
  XAI_INLINE void add(const TableGroup& group, const float* entry) {
    for (int place = 0; place < group.n_places; ++place) slot[group.slot[place]] += entry[place];
  }
};

#endif

// Many rows: adds `kCount` groups' entries, from `first` on in the chunk, to the sums of n rows. `low` and `high` hold
// the bytes of the rows' patterns, kTileRows to a group.
template <int kCount, bool kWide, bool kLong>
void add_groups(const PatternTables& tables, const TableChunk& chunk, int first, const std::uint8_t* low,
                const std::uint8_t* high, std::size_t n, Sums* sums) {
  constexpr int kStride = kWide ? TableGroup::kWide : TableGroup::kNarrow;
  const std::size_t size = static_cast<std::size_t>(kStride) << chunk.bits;
  const float* const table = tables.table_data + chunk.table + first * size;
  const TableGroup* const groups = tables.group_data + chunk.group + first;
  low += first * kTileRows;
  high += first * kTileRows;
#if XAI_PERMUTES
  Index place[kCount][kParts];
  for (int g = 0; g < kCount; ++g)
    for (int i = 0; i < kParts; ++i) place[g][i] = places(groups[g], i);
#endif
  for (std::size_t row = 0; row < n; ++row) {
    Sums row_sums = sums[row];
#pragma GCC unroll 8
    for (int g = 0; g < kCount; ++g) {
      std::size_t pattern = low[g * kTileRows + row];
      if constexpr (kLong) pattern |= static_cast<std::size_t>(high[g * kTileRows + row]) << 8;
      const float* const entry = table + g * size + pattern * kStride;
#if XAI_PERMUTES
      for (int i = 0; i < kParts; ++i) row_sums.part[i] += spread<kWide>(entry, place[g][i]);
#else
      row_sums.add<kWide>(groups[g], entry);
#endif
    }
    sums[row] = row_sums;
  }
}

template <bool kWide, bool kLong>
bool add_chunk(const PatternTables& tables, const TableChunk& chunk, const std::uint8_t* low, const std::uint8_t* high,
               std::size_t n, Sums* sums, const StopToken& stop) {
  constexpr int kTogether = kLanes == 16 ? 8 : 2;  // as many as leave their permutations in registers
  int group = 0;
  for (; group + kTogether <= chunk.n_groups; group += kTogether) {
    add_groups<kTogether, kWide, kLong>(tables, chunk, group, low, high, n, sums);
    if (stop.stop_requested()) return false;
  }
  for (; group < chunk.n_groups; ++group) add_groups<1, kWide, kLong>(tables, chunk, group, low, high, n, sums);
  return !stop.stop_requested();
}

// Patterns of n rows, for all groups of a chunk. `ranks`: kTileRows to a slot.
template <bool kNaN>
void find_patterns(const PatternTables& tables, const TableChunk& chunk, const std::uint8_t* ranks, std::size_t n,
                   std::uint8_t* low, std::uint8_t* high) {
  const std::uint8_t* const conditions = tables.condition_data + chunk.conditions;
  for (int group = 0; group < chunk.n_groups; ++group)
    for (std::size_t row = 0; row < n; row += kRowsInVector) {
      Bytes pattern[2] = {};
      for (int bit = 0; bit < chunk.bits; ++bit) {
        const std::uint8_t* const at = conditions + bit * TableChunk::kPlanes * kGroups + group;
        const Bytes rank = load<Bytes>(ranks + at[TableChunk::kSlot * kGroups] * kTileRows + row);
        Bytes in = (Bytes)((Bytes)(rank - repeat<Bytes>(at[TableChunk::kLow * kGroups])) <=
                           repeat<Bytes>(at[TableChunk::kWidth * kGroups]));
        if constexpr (kNaN)
          in |= (Bytes)(rank == repeat<Bytes>(TableCoding::kNaNRank)) & repeat<Bytes>(at[TableChunk::kNaN * kGroups]);
        pattern[bit / 8] |= in & repeat<Bytes>(static_cast<std::uint8_t>(1U << (bit % 8)));
      }
      std::memcpy(low + group * kTileRows + row, &pattern[0], sizeof(Bytes));
      if (chunk.bits > 8) std::memcpy(high + group * kTileRows + row, &pattern[1], sizeof(Bytes));
    }
}

// Scratch of a call, aligned for vectors.
struct Scratch {
  alignas(64) std::uint8_t ranks[kSlots * kTileRows];
  alignas(64) std::uint8_t low[kGroups * kTileRows];
  alignas(64) std::uint8_t high[kGroups * kTileRows];
  alignas(64) Sums sums[kTileRows];
};

// Ranks of n rows, unless stopped; returns whether there is any NaN. Rows up to the next full vector get ranks that are
// never used.
bool rank_rows(const PatternTables& tables, const TableCoding& coding, const float* rows, std::size_t n,
               std::uint8_t* ranks, const StopToken& stop) {
  bool any_nan = false;
  for (int slot = 0; slot < coding.n_slots && !stop.stop_requested(); ++slot) {
    const float* const thresholds = tables.threshold_data + coding.thresholds[slot];
    const std::uint32_t n_thresholds = coding.thresholds[slot + 1] - coding.thresholds[slot];
    const float* const column = rows + coding.column[slot];
    for (std::size_t row = 0; row < n; ++row) {
      const std::uint8_t rank = rank_of(column[row * tables.n_columns], thresholds, n_thresholds);
      ranks[slot * kTileRows + row] = rank;
      any_nan |= rank == TableCoding::kNaNRank;
    }
  }
  return any_nan;
}

bool add_tile(const PatternTables& tables, const float* rows, std::size_t n, double* phi, const StopToken& stop,
              Scratch& scratch) {
  const std::size_t width = static_cast<std::size_t>(tables.n_players) * tables.n_outputs;
  std::uint32_t coding_index = UINT32_MAX;
  bool any_nan = false;
  for (std::size_t c = 0; c < tables.n_chunks; ++c) {
    const TableChunk& chunk = tables.chunk_data[c];
    const TableCoding& coding = tables.coding_data[chunk.coding];
    if (chunk.coding != coding_index) {
      coding_index = chunk.coding;
      any_nan = rank_rows(tables, coding, rows, n, scratch.ranks, stop);
      if (stop.stop_requested()) return false;
    }
    (any_nan ? find_patterns<true> : find_patterns<false>)(tables, chunk, scratch.ranks, n, scratch.low, scratch.high);
    const bool is_long = chunk.bits > 8;
    const auto add = chunk.wide ? (is_long ? add_chunk<true, true> : add_chunk<true, false>)
                                : (is_long ? add_chunk<false, true> : add_chunk<false, false>);
    if (!add(tables, chunk, scratch.low, scratch.high, n, scratch.sums, stop)) return false;
    if (!chunk.ends_block) continue;
    for (std::size_t row = 0; row < n; ++row) {
      float sums[kSlots];
      std::memcpy(sums, &scratch.sums[row], sizeof sums);
      flush(tables, coding, chunk.output, sums, phi + row * width);
      std::memcpy(static_cast<void*>(&scratch.sums[row]), sums, sizeof sums);
    }
  }
  return true;
}

// One row: the places of its entries in one chunk, asked for from memory.
template <bool kNaN>
XAI_INLINE void find_entries(const PatternTables& tables, const TableChunk& chunk, const std::uint8_t* ranks,
                             const float** entry) {
  const std::uint8_t* const conditions = tables.condition_data + chunk.conditions;
  alignas(64) std::uint8_t pattern[2][kGroups];
#if XAI_PERMUTES
  const GroupBytes all_ranks = load<GroupBytes>(ranks);
#endif
  for (int from = 0; from < chunk.n_groups; from += kGroupsInVector) {
    GroupBytes bits[2] = {};
    for (int bit = 0; bit < chunk.bits; ++bit) {
      const std::uint8_t* const at = conditions + bit * TableChunk::kPlanes * kGroups + from;
      const GroupBytes slot = load<GroupBytes>(at + TableChunk::kSlot * kGroups);
#if XAI_PERMUTES
      const GroupBytes rank = __builtin_shuffle(all_ranks, slot);
#else
      GroupBytes rank;
      for (int group = 0; group < kGroupsInVector; ++group) rank[group] = ranks[slot[group]];
#endif
      GroupBytes in = (GroupBytes)((GroupBytes)(rank - load<GroupBytes>(at + TableChunk::kLow * kGroups)) <=
                                   load<GroupBytes>(at + TableChunk::kWidth * kGroups));
      if constexpr (kNaN)
        in |= (GroupBytes)(rank == repeat<GroupBytes>(TableCoding::kNaNRank)) &
              load<GroupBytes>(at + TableChunk::kNaN * kGroups);
      bits[bit / 8] |= in & repeat<GroupBytes>(static_cast<std::uint8_t>(1U << (bit % 8)));
    }
    std::memcpy(pattern[0] + from, &bits[0], sizeof(GroupBytes));
    std::memcpy(pattern[1] + from, &bits[1], sizeof(GroupBytes));
  }
  const int shift = chunk.wide ? 4 : 3;  // log2 of an entry's places
  for (int group = 0; group < chunk.n_groups; ++group) {
    const std::size_t index = pattern[0][group] | static_cast<std::size_t>(pattern[1][group]) << 8;
    entry[group] =
        tables.table_data + chunk.table + ((((static_cast<std::size_t>(group)) << chunk.bits) + index) << shift);
    __builtin_prefetch(entry[group]);
  }
}

bool add_row(const PatternTables& tables, const float* row, double* phi, const StopToken& stop) {
  alignas(64) std::uint8_t ranks[kSlots] = {};
  const float* entry[PatternTables::kChunksInBlock * kGroups];
  std::uint32_t coding_index = UINT32_MAX;
  bool any_nan = false;
  for (std::size_t first = 0; first < tables.n_chunks;) {
    const TableChunk* const chunks = tables.chunk_data;
    const TableCoding& coding = tables.coding_data[chunks[first].coding];
    if (chunks[first].coding != coding_index) {
      coding_index = chunks[first].coding;
      any_nan = false;
      for (int slot = 0; slot < coding.n_slots; ++slot) {
        ranks[slot] = rank_of(row[coding.column[slot]], tables.threshold_data + coding.thresholds[slot],
                              coding.thresholds[slot + 1] - coding.thresholds[slot]);
        any_nan |= ranks[slot] == TableCoding::kNaNRank;
      }
    }
    std::size_t end = first;
    do {
      const float** const of_chunk = entry + (end - first) * kGroups;
      if (any_nan)
        find_entries<true>(tables, chunks[end], ranks, of_chunk);
      else
        find_entries<false>(tables, chunks[end], ranks, of_chunk);
    } while (!chunks[end++].ends_block);
    Sums sums{};
    for (std::size_t c = first; c < end; ++c) {
      const TableGroup* const groups = tables.group_data + chunks[c].group;
      const float* const* const of_chunk = entry + (c - first) * kGroups;
      if (chunks[c].wide)
        for (int group = 0; group < chunks[c].n_groups; ++group) sums.add<true>(groups[group], of_chunk[group]);
      else
        for (int group = 0; group < chunks[c].n_groups; ++group) sums.add<false>(groups[group], of_chunk[group]);
    }
    float by_slot[kSlots];
    std::memcpy(by_slot, &sums, sizeof by_slot);
    flush(tables, coding, chunks[first].output, by_slot, phi);
    if (stop.stop_requested()) return false;
    first = end;
  }
  return true;
}

}  // namespace

bool add_from_tables(const PatternTables& tables, const float* rows, std::size_t begin, std::size_t end, double* phi,
                     const StopToken& stop) {
  const std::size_t width = static_cast<std::size_t>(tables.n_players) * tables.n_outputs;
  if (end - begin < kFewRows) {
    for (std::size_t row = begin; row < end; ++row)
      if (!add_row(tables, rows + row * tables.n_columns, phi + row * width, stop)) return false;
    return true;
  }
  void* const memory = ::operator new(sizeof(Scratch), std::align_val_t{64});
  Scratch& scratch = *static_cast<Scratch*>(std::memset(memory, 0, sizeof(Scratch)));
  bool done = true;
  for (std::size_t tile = begin; done && tile < end; tile += kTileRows)
    done = add_tile(tables, rows + tile * tables.n_columns, least(end - tile, kTileRows), phi + tile * width, stop,
                    scratch);
  ::operator delete(memory, std::align_val_t{64});
  return done;
}

}  // namespace xai::treeshap::XAI_ISA

#undef XAI_INLINE
#undef XAI_PERMUTES
