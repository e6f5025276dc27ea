// Laws of the native code, without Python, so that sanitizers see all of it: every variant on every instruction set
// against the float64 kernel, additivity, bits, stopping, and the worker pool under contention.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "random_forest.h"
#include "treeshap/explainer.h"
#include "treeshap/quadrature.h"
#include "treeshap/worker_pool.h"

namespace xai::treeshap::testing {
namespace {

std::atomic<int> checks{0};

// This machine's, and AVX-512 where its kernels were compiled lane by lane.
std::vector<Isa> isas_under_test() {
#if defined(XAI_EMULATED_AVX512)
  return {Isa::kPortable, Isa::kAvx512};
#else
  return supported_isas();
#endif
}

#define CHECK(condition, ...)                                           \
  do {                                                                  \
    ++checks;                                                           \
    if (!(condition)) {                                                 \
      std::printf("%s:%d: %s fails: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                         \
      std::printf("\n");                                                \
      std::exit(1);                                                     \
    }                                                                   \
  } while (false)

void rules_integrate_polynomials() {
  for (int size = 1; size <= 64; ++size) {
    const Quadrature legendre = gauss_legendre(size);
    for (int degree = 0; degree < 2 * size; ++degree) {
      double sum = 0;
      for (int i = 0; i < size; ++i) sum += legendre.weight[i] * std::pow(legendre.point[i], degree);
      CHECK(std::fabs(sum - 1.0 / (degree + 1)) < 1e-13, "Legendre %d, degree %d: %.17g", size, degree, sum);
    }
    if (size < 2) continue;
    const Quadrature radau = gauss_radau(size);
    CHECK(radau.point[0] == 0, "Radau %d", size);
    for (int degree = 0; degree < 2 * size - 1; ++degree) {
      double sum = 0;
      for (int i = 0; i < size; ++i) sum += radau.weight[i] * std::pow(radau.point[i], degree);
      CHECK(std::fabs(sum - 1.0 / (degree + 1)) < 1e-13, "Radau %d, degree %d: %.17g", size, degree, sum);
    }
  }
}

struct Shape {
  int n_features, n_outputs, n_trees, depth;
  double split_chance, nan_chance;
};

// The float32 variants against the float64 one, and all of them against the margin.
void variants_agree(std::uint64_t seed, const Shape& shape) {
  Generator generator(seed);
  const Arrays arrays =
      generator.forest(shape.n_features, shape.n_outputs, shape.n_trees, shape.depth, shape.split_chance);
  const Forest forest = Forest::build(arrays.raw());
  if (!forest.has_covers() && forest.max_depth() > 0) return;  // all covers 1: rightly taken for none
  const int n = 37;
  const std::vector<float> rows = generator.rows(n, shape.n_features, shape.nan_chance);
  const std::size_t width = static_cast<std::size_t>(forest.n_players()) * shape.n_outputs;
  const StopToken stop;

  const PathDependentExplainer exact(forest, Isa::kPortable, Variant::kScalar);
  std::vector<double> expected(n * width), margin(shape.n_outputs);
  exact.explain(Variant::kScalar, rows.data(), 0, n, expected.data(), stop);
  double scale = 1e-30;
  for (double weight : arrays.weight) scale = std::fmax(scale, std::fabs(weight));
  scale *= shape.n_trees;
  for (int row = 0; row < n; ++row) {
    forest.predict(rows.data() + row * shape.n_features, margin.data());
    for (int output = 0; output < shape.n_outputs; ++output) {
      double sum = exact.base_values()[output];
      for (int player = 0; player < forest.n_players(); ++player)
        sum += expected[row * width + player * shape.n_outputs + output];
      CHECK(std::fabs(sum - margin[output]) < 1e-11 * scale, "seed %lu, row %d: %.17g, margin %.17g", seed, row, sum,
            margin[output]);
    }
  }
  for (Isa isa : isas_under_test())
    for (Variant variant : {Variant::kRows, Variant::kRow}) {
      const PathDependentExplainer explainer(forest, isa, variant);
      std::vector<double> together(n * width, 7), alone(n * width, 7);
      explainer.explain(variant, rows.data(), 0, n, together.data(), stop);
      for (std::size_t i = 0; i < together.size(); ++i)
        CHECK(std::fabs(together[i] - expected[i]) < 2e-6 * scale, "%s on %s, seed %lu, at %zu: %.9g for %.9g",
              name_of(variant), name_of(isa), seed, i, together[i], expected[i]);
      for (int row = 0; row < n; ++row) explainer.explain(variant, rows.data(), row, row + 1, alone.data(), stop);
      CHECK(std::memcmp(together.data(), alone.data(), together.size() * sizeof(double)) == 0,
            "%s on %s, seed %lu: a row's bits depend on its neighbours", name_of(variant), name_of(isa), seed);
    }
}

void stopping_stops() {
  Generator generator(3);
  const Forest forest = Forest::build(generator.forest(20, 1, 200, 9, 1.0).raw());
  const std::vector<float> rows = generator.rows(500, 20, 0.0);
  std::vector<double> phi(500 * 20);
  for (Isa isa : isas_under_test())
    for (Variant variant : {Variant::kScalar, Variant::kRows, Variant::kRow}) {
      const PathDependentExplainer explainer(forest, isa, variant);
      StopToken stop;
      stop.request_stop();
      bool stopped = false;
      try {
        explainer.explain(variant, rows.data(), 0, 500, phi.data(), stop);
      } catch (const Stopped&) {
        stopped = true;
      }
      CHECK(stopped, "%s on %s", name_of(variant), name_of(isa));
    }
}

// Jobs from several threads on one pool, some cancelled, some dropped, live and deferred.
void the_pool_survives_contention() {
  Generator generator(5);
  const Forest forest = Forest::build(generator.forest(10, 1, 30, 6, 0.9).raw());
  const auto explainer = std::make_shared<PathDependentExplainer>(forest, process_isa(), std::nullopt);
  const auto rows = std::make_shared<std::vector<float>>(generator.rows(300, 10, 0.1));
  std::vector<double> expected(300 * 10);
  explainer->explain(explainer->variant_for(300), rows->data(), 0, 300, expected.data(), StopToken());
  std::atomic<int> done{0}, cancelled{0};
  {
    WorkerPool pool(3);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
      callers.emplace_back([&, caller] {
        for (int i = 0; i < 50; ++i) {
          const auto phi = std::make_shared<std::vector<double>>(300 * 10);
          const auto job = pool.submit(
              300, 1 + (caller * 37 + i * 11) % 120, i % 3 ? Priority::kLive : Priority::kDeferred,
              [=](std::size_t begin, std::size_t end, const StopToken& stop) {
                explainer->explain(explainer->variant_for(300), rows->data(), begin, end, phi->data(), stop);
              });
          if (i % 5 == 4) continue;  // dropped
          if (i % 5 == 3) job->cancel();
          job->wait();
          if (job->state() == JobState::kDone) {
            CHECK(*phi == expected, "caller %d, job %d", caller, i);
            ++done;
          } else {
            CHECK(job->state() == JobState::kCancelled, "caller %d, job %d", caller, i);
            ++cancelled;
          }
        }
      });
    for (std::thread& caller : callers) caller.join();
    // The pool closes with jobs still queued.
    for (int i = 0; i < 20; ++i)
      pool.submit(300, 7, Priority::kDeferred, [=](std::size_t, std::size_t, const StopToken& stop) {
        while (!stop.stop_requested()) std::this_thread::yield();
      });
  }
  CHECK(done >= 4 * 30, "%d done, %d cancelled", done.load(), cancelled.load());
}

void a_failing_job_says_so() {
  WorkerPool pool(2);
  const auto job = pool.submit(100, 1, Priority::kLive, [](std::size_t begin, std::size_t, const StopToken&) {
    if (begin == 50) throw std::runtime_error("row 50");
  });
  job->wait();
  CHECK(job->state() == JobState::kFailed && job->error(), "state %d", static_cast<int>(job->state()));
}

// A cancelled job, running or queued, lets go of everything: its work, its place in the queue, its handle.
void a_cancelled_job_leaves_nothing() {
  WorkerPool pool(1);
  for (Priority priority : {Priority::kLive, Priority::kDeferred}) {
    const auto owned = std::make_shared<int>(0);
    std::atomic<bool> begun{false};
    const auto running =
        pool.submit(1'000'000'000, 1, priority, [owned, &begun](std::size_t, std::size_t, const StopToken& stop) {
          begun = true;
          while (!stop.stop_requested()) std::this_thread::yield();
          throw Stopped();
        });
    const auto queued =
        pool.submit(1'000'000'000, 1, priority, [owned](std::size_t, std::size_t, const StopToken&) { ++*owned; });
    while (!begun) std::this_thread::yield();
    queued->cancel();
    running->cancel();
    running->wait();  // a chunk at a time it would take minutes to give them up
    queued->wait();
    CHECK(running->state() == JobState::kCancelled && queued->state() == JobState::kCancelled, "%d %d",
          static_cast<int>(running->state()), static_cast<int>(queued->state()));
    CHECK(*owned == 0 && owned.use_count() == 1, "%d runs, %ld owners", *owned, owned.use_count());
    // The worker that ran the last one looks at the queue once more before it forgets it.
    pool.submit(1, 1, priority, [](std::size_t, std::size_t, const StopToken&) {})->wait();
    CHECK(running.use_count() == 1 && queued.use_count() == 1, "%ld and %ld handles", running.use_count(),
          queued.use_count());
  }
}

}  // namespace
}  // namespace xai::treeshap::testing

int main(int argc, char** argv) {
  using namespace xai::treeshap::testing;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  rules_integrate_polynomials();
  const Shape shapes[] = {
      {5, 1, 4, 4, 0.8, 0.1}, {3, 2, 3, 7, 0.9, 0.3},     {40, 1, 6, 6, 0.95, 0.0}, {12, 3, 2, 9, 0.85, 0.05},
      {1, 1, 3, 3, 0.9, 0.2}, {200, 1, 20, 5, 0.9, 0.02}, {25, 1, 1, 12, 0.8, 0.1}, {6, 1, 40, 1, 1.0, 0.1},
  };
  std::uint64_t seed = 0;
  for (int round = 0; round < rounds; ++round)
    for (const Shape& shape : shapes) variants_agree(++seed, shape);
  stopping_stops();
  the_pool_survives_contention();
  a_failing_job_says_so();
  a_cancelled_job_leaves_nothing();
  std::printf("%d passed, 0 failed\n", checks.load());
}
