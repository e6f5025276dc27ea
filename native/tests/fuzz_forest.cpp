// Feeds hostile forests for a bounded time: mutations of valid arrays and plain noise. Whatever Forest::build accepts
// must compile and explain on every instruction set without a fault, and whatever it refuses must be refused by
// InvalidForest. Run it under sanitizers: `make native-test` does.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "random_forest.h"
#include "treeshap/explainer.h"
#include "treeshap/interactions.h"
#include "treeshap/interventional.h"

namespace xai::treeshap::testing {
namespace {

std::int64_t hostile_integer(Generator& generator, std::int64_t around) {
  static const std::int64_t extremes[] = {0, -1, 1, INT64_MAX, INT64_MIN, INT32_MAX, INT32_MIN, 1LL << 32, 1LL << 20};
  if (generator.chance(0.5) || around > INT32_MAX || around < INT32_MIN) return extremes[generator.below(9)];
  return around + static_cast<std::int64_t>(generator.below(7)) - 3;
}

double hostile_number(Generator& generator) {
  static const double extremes[] = {0.0, -0.0, -1.0, 1e308, -1e308, 1e-320, INFINITY, -INFINITY, NAN, 3.4e38, 1e39};
  return extremes[generator.below(11)];
}

template <class T>
void resize(Generator& generator, std::vector<T>& values) {
  values.resize(generator.chance(0.5) ? generator.below(values.size() + 2) : values.size() + generator.below(3));
}

void mutate(Generator& generator, Arrays& a) {
  const auto integer = [&](std::vector<std::int64_t>& values) {
    if (generator.chance(0.1)) resize(generator, values);
    if (values.empty()) return;
    std::int64_t& value = values[generator.below(values.size())];
    value = hostile_integer(generator, value);
  };
  const auto number = [&](std::vector<double>& values) {
    if (generator.chance(0.1)) resize(generator, values);
    if (!values.empty()) values[generator.below(values.size())] = hostile_number(generator);
  };
  switch (generator.below(16)) {
    case 0:
      a.n_features = hostile_integer(generator, a.n_features);
      break;
    case 1:
      a.n_outputs = hostile_integer(generator, a.n_outputs);
      break;
    case 2:
      integer(a.tree_begin);
      break;
    case 3:
      integer(a.feature);
      break;
    case 4:
      integer(a.left);
      break;
    case 5:
      integer(a.right);
      break;
    case 6:
      integer(a.weight_begin);
      break;
    case 7:
      integer(a.weight_output);
      break;
    case 8:
      number(a.cover);
      break;
    case 9:
      number(a.weight);
      break;
    case 10:
      number(a.base);
      break;
    case 11:
      if (!a.kind.empty()) a.kind[generator.below(a.kind.size())] = static_cast<std::uint8_t>(generator.below(256));
      if (generator.chance(0.1)) resize(generator, a.kind);
      break;
    case 12:
      integer(a.set_begin);
      break;
    case 13:
      integer(a.player);
      break;
    case 14:
      if (!a.set_value.empty())
        a.set_value[generator.below(a.set_value.size())] = static_cast<float>(hostile_number(generator));
      if (generator.chance(0.1)) resize(generator, a.set_value);
      break;
    default:
      if (!a.threshold.empty()) a.threshold[generator.below(a.threshold.size())] = hostile_number(generator);
      if (generator.chance(0.1)) resize(generator, a.nan_left);
  }
}

}  // namespace
}  // namespace xai::treeshap::testing

int main(int argc, char** argv) {
  using namespace xai::treeshap;
  using namespace xai::treeshap::testing;
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  long accepted = 0, refused = 0;
  for (std::uint64_t seed = 1; std::chrono::steady_clock::now() < end; ++seed) {
    Generator generator(seed);
    Arrays arrays = generator.forest(1 + generator.below(8), 1 + generator.below(3), 1 + generator.below(4),
                                     generator.below(7), 0.8);
    for (std::size_t i = generator.below(4); i-- > 0;) mutate(generator, arrays);
    try {
      const Forest forest = Forest::build(arrays.raw());
      // Wide ones were accepted on purpose, up to 128 MiB a row; explaining each would only test the machine's memory.
      if (forest.n_features() * forest.n_outputs() > 1 << 16) continue;
      const std::vector<float> rows = generator.rows(3, forest.n_features(), 0.2);
      const std::size_t n_players = forest.n_players(), n_outputs = forest.n_outputs();
      std::vector<double> phi(3 * n_players * n_outputs);
      for (Isa isa : supported_isas())
        for (std::size_t memory_cap : {std::size_t{0}, std::size_t{1} << 20})
          InterventionalPlan(forest, rows.data(), 2, memory_cap, isa)
              .explain(rows.data(), 0, 3, phi.data(), StopToken());
      for (Isa isa : supported_isas())
        for (std::optional<Variant> variant : {std::optional<Variant>(), std::optional(Variant::kScalar)}) {
          const PathDependentExplainer explainer(forest, isa, variant);
          for (std::size_t n : {std::size_t{3}, PathDependentExplainer::kManyRows})  // the variants of few and of many
            explainer.explain(explainer.variant_for(n), rows.data(), 0, 3, phi.data(), StopToken());
        }
      if (n_players * n_players * n_outputs <= 1 << 16) {
        std::vector<double> pairs(3 * n_players * n_players * n_outputs);
        InteractionsPlan(forest, path_facts(forest)).explain(rows.data(), 0, 3, pairs.data(), StopToken());
      }
      ++accepted;
    } catch (const InvalidForest&) {
      ++refused;
    } catch (const MissingCovers&) {
      ++refused;
    }
  }
  std::printf("%ld forests accepted, %ld refused\n", accepted, refused);
  if (accepted == 0 || refused == 0) {
    std::printf("0 passed, 1 failed\n");  // it tested only one side
    return 1;
  }
  std::printf("%ld passed, 0 failed\n", accepted + refused);
}
