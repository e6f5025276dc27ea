#include "treeshap/interventional_tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <set>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "treeshap/interventional_groups.h"
#include "treeshap/quadrature.h"

namespace xai::treeshap {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What a group costs beside its table: its conditions and places, what building it holds for a while, and the price in
// bytes at which a larger table is worth one lookup less.
constexpr std::size_t kGroupOverhead = 1024;
// Bits counted at most while the tables are built: a bound on the time, some seconds, for hostile sizes.
constexpr std::size_t kMaxCounting = std::size_t{1} << 33;
// A row's entries lie all over the tables: with huge pages the processor finds them without walking page tables.
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kMargin = 16;  // floats after the last entry, so that a vector may be loaded from any

}  // namespace

void PatternTables::Free::operator()(float* data) const {
  ::operator delete[](static_cast<void*>(data), std::align_val_t{kHugePage});
}

// Cuts the trees, numbers the thresholds, lays the groups out and fills their tables.
class PatternTables::Builder {
 public:
  Builder(PatternTables& plan, const Forest& forest, const float* background, std::size_t n_background)
      : plan_(plan), forest_(forest), background_(background), n_background_(n_background) {}

  void run(std::size_t memory_cap) {
    choose_trees(memory_cap);
    for (std::size_t begin = 0; begin < groups_.size();) {
      const std::size_t end = add_coding(begin);
      rank_background(plan_.codings_.back());
      for (; begin < end; ++begin) order_bits(groups_[begin], plan_.codings_.back());
    }
    lay_out();
    fill();
  }

 private:
  // A group's effect on one output: where its entries go.
  struct Instance {
    std::uint32_t group;
    std::int32_t output;
    std::size_t table = 0;
  };

  bool leaf(std::uint32_t node) const { return forest_.nodes()[node].kind == NodeKind::kLeaf; }

  std::set<std::int32_t> outputs_of(std::size_t tree) const {
    const auto end =
        static_cast<std::uint32_t>(tree + 1 < forest_.n_trees() ? forest_.roots()[tree + 1] : forest_.nodes().size());
    std::set<std::int32_t> outputs;
    for (std::uint32_t node = forest_.roots()[tree]; node < end; ++node)
      for (const Weight& weight : forest_.weights(node)) outputs.insert(weight.output);
    return outputs;
  }

  void choose_trees(std::size_t memory_cap) {
    struct Candidate {
      std::size_t bytes, counting;
      std::uint32_t tree;
    };
    const GroupLimits limits{kMaxBits, TableGroup::kWide - 1, TableGroup::kNarrow - 1, kGroupOverhead};
    std::vector<Candidate> candidates;
    for (std::uint32_t tree = 0; tree < forest_.n_trees(); ++tree) {
      if (leaf(forest_.roots()[tree])) continue;  // the same for all rows: it is in the base value
      const TreeCut cut(forest_, forest_.roots()[tree], limits);
      const std::size_t n_outputs = outputs_of(tree).size();
      if (cut.bytes() == TreeCut::kNever || cut.bytes() > memory_cap / std::max<std::size_t>(n_outputs, 1))
        plan_.left_out_.push_back(tree);
      else
        candidates.push_back({cut.bytes() * n_outputs, cut.n_groups() * kMaxBits * n_background_, tree});
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.bytes < b.bytes; });
    std::vector<std::uint32_t> taken;
    std::size_t left = memory_cap, counting = kMaxCounting;
    for (const Candidate& candidate : candidates) {
      const bool fits = candidate.bytes <= left && candidate.counting <= counting;
      (fits ? taken : plan_.left_out_).push_back(candidate.tree);
      if (!fits) continue;
      left -= candidate.bytes;
      counting -= candidate.counting;
    }
    std::sort(plan_.left_out_.begin(), plan_.left_out_.end());
    std::sort(taken.begin(), taken.end());
    for (std::uint32_t tree : taken) {
      const auto first = static_cast<std::uint32_t>(groups_.size());
      TreeCut(forest_, forest_.roots()[tree], limits).append_to(groups_);
      for (std::int32_t output : outputs_of(tree))
        for (std::uint32_t group = first; group < groups_.size(); ++group) instances_.push_back({group, output});
    }
  }

  // Makes one coding for as many groups from `begin` on as fit; returns where they end.
  std::size_t add_coding(std::size_t begin) {
    std::map<std::int32_t, std::set<float>> bounds;  // by column
    std::size_t end = begin;
    for (; end < groups_.size(); ++end) {
      std::vector<std::pair<std::int32_t, float>> added;
      bool fits = true;
      for (const GroupBit& bit : groups_[end].bits) {
        std::set<float>& of_column = bounds[bit.column];
        if (bit.along.low > -kInfinity && of_column.insert(bit.along.low).second)
          added.emplace_back(bit.column, bit.along.low);
        if (!std::isnan(bit.along.high) && of_column.insert(bit.along.high).second)
          added.emplace_back(bit.column, bit.along.high);
        fits &= of_column.size() <= TableCoding::kMaxThresholds;
      }
      fits &= bounds.size() <= TableCoding::kSlots;
      if (fits) continue;
      for (const auto& [column, bound] : added) bounds[column].erase(bound);
      for (const GroupBit& bit : groups_[end].bits)
        if (const auto found = bounds.find(bit.column); found != bounds.end() && found->second.empty())
          bounds.erase(found);
      break;
    }
    TableCoding coding{};
    for (const auto& [column, of_column] : bounds) {
      coding.column[coding.n_slots] = static_cast<std::uint32_t>(column);
      coding.player[coding.n_slots] = static_cast<std::uint32_t>(forest_.player()[column]);
      coding.thresholds[coding.n_slots++] = static_cast<std::uint32_t>(plan_.thresholds_.size());
      plan_.thresholds_.insert(plan_.thresholds_.end(), of_column.begin(), of_column.end());
    }
    for (int slot = coding.n_slots; slot <= TableCoding::kSlots; ++slot)
      coding.thresholds[slot] = static_cast<std::uint32_t>(plan_.thresholds_.size());
    coding_of_.resize(end, static_cast<std::uint32_t>(plan_.codings_.size()));
    plan_.codings_.push_back(coding);
    return end;
  }

  static bool wide(const Group& group) { return group.players.size() >= TableGroup::kNarrow; }

  void lay_out() {
    const auto shape = [&](const Instance& i) {
      const Group& group = groups_[i.group];
      return std::tuple(coding_of_[i.group], i.output, wide(group), group.bits.size());
    };
    std::stable_sort(instances_.begin(), instances_.end(),
                     [&](const Instance& a, const Instance& b) { return shape(a) < shape(b); });
    std::size_t table = 0, in_block = 0;
    for (std::size_t begin = 0; begin < instances_.size();) {
      std::size_t end = begin;
      while (end < instances_.size() && end - begin < TableChunk::kGroups &&
             shape(instances_[end]) == shape(instances_[begin]))
        ++end;
      const Group& first = groups_[instances_[begin].group];
      TableChunk chunk{};
      chunk.coding = coding_of_[instances_[begin].group];
      chunk.output = instances_[begin].output;
      chunk.bits = static_cast<int>(first.bits.size());
      chunk.n_groups = static_cast<int>(end - begin);
      chunk.wide = wide(first);
      chunk.conditions = plan_.conditions_.size();
      chunk.group = plan_.groups_.size();
      chunk.table = table;
      const bool goes_on = end < instances_.size() && coding_of_[instances_[end].group] == chunk.coding &&
                           instances_[end].output == chunk.output;
      chunk.ends_block = !goes_on || ++in_block == kChunksInBlock;
      if (chunk.ends_block) in_block = 0;
      add_conditions(chunk, begin);
      for (std::size_t i = begin; i < end; ++i) {
        add_group(groups_[instances_[i].group], plan_.codings_[chunk.coding]);
        instances_[i].table = table;
        table += static_cast<std::size_t>(chunk.wide ? TableGroup::kWide : TableGroup::kNarrow) << chunk.bits;
      }
      plan_.chunks_.push_back(chunk);
      begin = end;
    }
    plan_.table_size_ = table + kMargin;
    void* const memory = ::operator new[](plan_.table_size_ * sizeof(float), std::align_val_t{kHugePage});
    plan_.table_.reset(static_cast<float*>(memory));
#if defined(__linux__)
    if (plan_.table_size_ * sizeof(float) >= kHugePage)
      madvise(memory, plan_.table_size_ * sizeof(float), MADV_HUGEPAGE);  // a wish: nothing depends on it
#endif
    std::fill_n(plan_.table_.get(), plan_.table_size_, 0.0F);
  }

  static std::uint8_t slot_of(const TableCoding& coding, std::int32_t column) {
    return static_cast<std::uint8_t>(
        std::lower_bound(coding.column, coding.column + coding.n_slots, static_cast<std::uint32_t>(column)) -
        coding.column);
  }

  // A condition on ranks.
  struct RankBit {
    std::uint8_t slot, low, width, nan;
  };

  RankBit rank_bit(const TableCoding& coding, const GroupBit& bit) const {
    const std::uint8_t slot = slot_of(coding, bit.column);
    const float* const first = plan_.thresholds_.data() + coding.thresholds[slot];
    const float* const last = plan_.thresholds_.data() + coding.thresholds[slot + 1];
    const auto [low, high, nan_along] = bit.along;
    const auto nan = static_cast<std::uint8_t>(nan_along ? 255 : 0);
    const auto from = low == -kInfinity ? 0 : std::lower_bound(first, last, low) - first + 1;
    const auto to = std::isnan(high) ? TableCoding::kMaxThresholds : std::lower_bound(first, last, high) - first;
    if (std::isnan(low) || from > to) return {slot, TableCoding::kNoRank, 0, nan};
    return {slot, static_cast<std::uint8_t>(from), static_cast<std::uint8_t>(to - from), nan};
  }

  void add_conditions(const TableChunk& chunk, std::size_t begin) {
    constexpr int kGroups = TableChunk::kGroups;
    plan_.conditions_.resize(chunk.conditions + static_cast<std::size_t>(chunk.bits) * TableChunk::kPlanes * kGroups);
    for (int bit = 0; bit < chunk.bits; ++bit) {
      std::uint8_t* const planes = &plan_.conditions_[chunk.conditions + bit * TableChunk::kPlanes * kGroups];
      for (int group = 0; group < kGroups; ++group) {
        const RankBit rank = group < chunk.n_groups ? rank_bit(plan_.codings_[chunk.coding],
                                                               groups_[instances_[begin + group].group].bits[bit])
                                                    : RankBit{0, TableCoding::kNoRank, 0, 0};
        planes[TableChunk::kSlot * kGroups + group] = rank.slot;
        planes[TableChunk::kLow * kGroups + group] = rank.low;
        planes[TableChunk::kWidth * kGroups + group] = rank.width;
        planes[TableChunk::kNaN * kGroups + group] = rank.nan;
      }
    }
  }

  void add_group(const Group& group, const TableCoding& coding) {
    TableGroup places{};
    const int last = (wide(group) ? TableGroup::kWide : TableGroup::kNarrow) - 1;
    std::array<std::uint64_t, TableCoding::kSlots> place_of;
    place_of.fill(last);
    for (std::int32_t player : group.players) {
      const std::uint32_t* const end = coding.player + coding.n_slots;
      const auto slot = std::find(coding.player, end, static_cast<std::uint32_t>(player)) - coding.player;
      place_of[slot] = places.n_places;
      places.slot[places.n_places++] = static_cast<std::uint8_t>(slot);
    }
    for (int slot = 0; slot < TableCoding::kSlots; ++slot)
      places.places[slot / 16] |= place_of[slot] << (32 * (slot % 2) + 4 * (slot % 16 / 2));
    plan_.groups_.push_back(places);
  }

  void fill() {
    for (std::size_t points = 1; points <= (kMaxBits + 1) / 2; ++points)
      rules_.push_back(gauss_legendre(static_cast<int>(points)));
    std::stable_sort(instances_.begin(), instances_.end(),
                     [](const Instance& a, const Instance& b) { return a.group < b.group; });
    std::uint32_t coding = UINT32_MAX;
    for (std::size_t begin = 0; begin < instances_.size();) {
      std::size_t end = begin;
      const std::uint32_t index = instances_[begin].group;
      while (end < instances_.size() && instances_[end].group == index) ++end;
      if (coding_of_[index] != coding) rank_background(plan_.codings_[coding = coding_of_[index]]);
      tabulate(groups_[index], plan_.codings_[coding], {instances_.data() + begin, end - begin});
      begin = end;
    }
  }

  void rank_background(const TableCoding& coding) {
    ranks_.resize(coding.n_slots * n_background_);
    for (int slot = 0; slot < coding.n_slots; ++slot) {
      const float* const first = plan_.thresholds_.data() + coding.thresholds[slot];
      const float* const last = plan_.thresholds_.data() + coding.thresholds[slot + 1];
      for (std::size_t row = 0; row < n_background_; ++row) {
        const float value = background_[row * forest_.n_columns() + coding.column[slot]];
        ranks_[slot * n_background_ + row] =
            std::isnan(value) ? TableCoding::kNaNRank
                              : static_cast<std::uint8_t>(std::upper_bound(first, last, value) - first);
      }
    }
  }

  // Which background rows go along: 1 or 0.
  void find_along(const TableCoding& coding, const GroupBit& bit) {
    along_.resize(n_background_);
    const RankBit at = rank_bit(coding, bit);
    const std::uint8_t* const ranks = ranks_.data() + at.slot * n_background_;
    for (std::size_t row = 0; row < n_background_; ++row) {
      const bool in = static_cast<std::uint8_t>(ranks[row] - at.low) <= at.width;
      const bool nan = (ranks[row] == TableCoding::kNaNRank) & (at.nan != 0);
      along_[row] = in | nan;
    }
  }

  // Puts first the bits that differ most between rows. Then the entries that rows take stand close together, and what
  // of them is often taken stays in the inner caches.
  void order_bits(Group& group, const TableCoding& coding) {
    const std::size_t n_bits = group.bits.size();
    std::vector<std::pair<std::size_t, int>> order(n_bits);  // how many rows of the background the bit sets apart
    for (std::size_t bit = 0; bit < n_bits; ++bit) {
      find_along(coding, group.bits[bit]);
      const std::size_t along = std::accumulate(along_.begin(), along_.end(), std::size_t{0});
      order[bit] = {std::max(along, n_background_ - along), static_cast<int>(bit)};
    }
    std::sort(order.begin(), order.end());
    std::vector<GroupBit> bits;
    std::vector<int> moved_to(n_bits);
    for (const auto& [apart, bit] : order) {
      moved_to[bit] = static_cast<int>(bits.size());
      bits.push_back(group.bits[bit]);
    }
    group.bits = std::move(bits);
    for (GroupLeaf& leaf : group.leaves)
      for (GroupLeaf::Step& step : leaf.steps) step.bit = moved_to[step.bit];
  }

  // Background rows by their pattern.
  void count(const Group& group, const TableCoding& coding) {
    pattern_.assign(n_background_, 0);
    for (std::size_t bit = 0; bit < group.bits.size(); ++bit) {
      find_along(coding, group.bits[bit]);
      for (std::size_t row = 0; row < n_background_; ++row)
        pattern_[row] |= static_cast<std::uint16_t>(along_[row] << bit);
    }
    counts_.assign(std::size_t{1} << group.bits.size(), 0);
    for (std::uint16_t pattern : pattern_) ++counts_[pattern];
  }

  void tabulate(const Group& group, const TableCoding& coding, std::span<const Instance> instances) {
    count(group, coding);
    const std::size_t n_patterns = std::size_t{1} << group.bits.size(), n_players = group.players.size();
    sums_.assign(instances.size() * n_patterns * n_players, 0.0);
    for (const GroupLeaf& leaf : group.leaves) {
      find_players(group, leaf);
      leaf_counts_.assign(std::size_t{1} << places_.size(), 0.0);
      for (std::size_t pattern = 0; pattern < n_patterns; ++pattern)
        leaf_counts_[leaf_pattern_[pattern]] += static_cast<double>(counts_[pattern]);
      integrate();
      for (std::size_t i = 0; i < instances.size(); ++i) {
        double value = 0;
        for (const Weight& weight : forest_.weights(leaf.node))
          if (weight.output == instances[i].output) value += weight.value;
        if (value == 0) continue;
        value /= static_cast<double>(n_background_);
        for (std::size_t k = 0; k < places_.size(); ++k) {
          double* const sums = sums_.data() + (i * n_players + places_[k]) * n_patterns;
          const double* const gains = gains_.data() + (k << places_.size());
          for (std::size_t pattern = 0; pattern < n_patterns; ++pattern)
            sums[pattern] += value * gains[leaf_pattern_[pattern]];
        }
      }
    }
    const std::size_t stride = wide(group) ? TableGroup::kWide : TableGroup::kNarrow;
    for (std::size_t i = 0; i < instances.size(); ++i)
      for (std::size_t place = 0; place < n_players; ++place)
        for (std::size_t pattern = 0; pattern < n_patterns; ++pattern)
          plan_.table_[instances[i].table + pattern * stride + place] =
              static_cast<float>(sums_[(i * n_players + place) * n_patterns + pattern]);
  }

  // The leaf's distinct players, as places in the group's, and for each pattern of the group the leaf's.
  void find_players(const Group& group, const GroupLeaf& leaf) {
    const auto place_of = [&](std::size_t bit) {
      return static_cast<std::size_t>(
          std::lower_bound(group.players.begin(), group.players.end(), forest_.player()[group.bits[bit].column]) -
          group.players.begin());
    };
    const auto index_of = [&](std::size_t place) {
      const auto found = std::find(places_.begin(), places_.end(), place);
      const auto index = static_cast<std::size_t>(found - places_.begin());
      if (found == places_.end()) places_.push_back(place);
      return index;
    };
    // What the leaf's pattern loses when a bit is 0, and when it is 1.
    std::uint32_t loses[kMaxBits][2] = {};
    places_.clear();
    for (std::size_t bit = 0; bit < group.bits.size(); ++bit)
      if (group.bits[bit].on_path) loses[bit][0] = 1U << index_of(place_of(bit));
    for (const GroupLeaf::Step& step : leaf.steps)
      loses[step.bit][step.left ? 0 : 1] = 1U << index_of(place_of(step.bit));
    leaf_pattern_.resize(std::size_t{1} << group.bits.size());
    leaf_pattern_[0] = (1U << places_.size()) - 1;
    for (std::size_t bit = 0; bit < group.bits.size(); ++bit)
      for (std::size_t pattern = 0; pattern < std::size_t{1} << bit; ++pattern) {
        leaf_pattern_[pattern | std::size_t{1} << bit] = leaf_pattern_[pattern] & ~loses[bit][1];
        leaf_pattern_[pattern] &= ~loses[bit][0];
      }
  }

  // From leaf_counts_, what a leaf of value 1 gives each of its players, by the row's pattern:
  // gains_[player][pattern].
  void integrate() {
    const std::size_t players = places_.size(), size = std::size_t{1} << players;
    const Quadrature& rule = rules_[(players + 1) / 2 - 1];
    gains_.assign(players * size, 0.0);
    for (std::size_t q = 0; q < rule.point.size(); ++q) {
      const double t = rule.point[q], weight = rule.weight[q];
      value_ = leaf_counts_;
      for (std::size_t half = 1; half < size; half *= 2)
        for (std::size_t base = 0; base < size; base += 2 * half)
          for (std::size_t o = base; o < base + half; ++o) {
            const double without = value_[o], with = value_[o + half];
            value_[o] = (1 - t) * with;
            value_[o + half] = t * without + with;
          }
      const double lost = weight / (1 - t), won = weight / t, both = weight / (t * (1 - t));
      for (std::size_t k = 0; k < players; ++k) {
        double* const gains = gains_.data() + k * size;
        const std::size_t half = std::size_t{1} << k;
        for (std::size_t base = 0; base < size; base += 2 * half)
          for (std::size_t o = base; o < base + half; ++o) {
            gains[o] -= lost * value_[o];
            gains[o + half] += won * value_[o + half] - both * value_[o];
          }
      }
    }
  }

  PatternTables& plan_;
  const Forest& forest_;
  const float* background_;
  std::size_t n_background_;
  std::vector<Group> groups_;
  std::vector<std::uint32_t> coding_of_;  // by group
  std::vector<Instance> instances_;
  std::vector<Quadrature> rules_;            // by number of points, less 1
  std::vector<std::uint8_t> ranks_;          // of the background: [slot][row]
  std::vector<std::uint8_t> along_;          // of the bit at hand, by background row
  std::vector<std::uint16_t> pattern_;       // of the group at hand, by background row
  std::vector<std::uint32_t> counts_;        // by pattern of the group at hand
  std::vector<double> sums_;                 // [instance][player][pattern]
  std::vector<std::size_t> places_;          // of the leaf's players among the group's
  std::vector<std::uint32_t> leaf_pattern_;  // by pattern of the group
  std::vector<double> leaf_counts_, value_, gains_;
};

PatternTables::PatternTables(const Forest& forest, const float* background, std::size_t n_background,
                             std::size_t memory_cap)
    : n_columns(forest.n_columns()), n_players(forest.n_players()), n_outputs(forest.n_outputs()) {
  Builder(*this, forest, background, n_background).run(memory_cap);
  n_chunks = chunks_.size();
  chunk_data = chunks_.data();
  coding_data = codings_.data();
  group_data = groups_.data();
  threshold_data = thresholds_.data();
  condition_data = conditions_.data();
  table_data = table_.get();
}

PatternTables::~PatternTables() = default;

std::size_t PatternTables::memory_bytes() const {
  return table_size_ * sizeof(float) + conditions_.size() + groups_.size() * sizeof(TableGroup) +
         chunks_.size() * sizeof(TableChunk) + codings_.size() * sizeof(TableCoding) +
         thresholds_.size() * sizeof(float);
}

}  // namespace xai::treeshap
