// pybind11 bindings: check buffers, drop the GIL, map errors; nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "treeshap/additivity.h"
#include "treeshap/explainer.h"
#include "treeshap/forest.h"
#include "treeshap/interactions.h"
#include "treeshap/interventional.h"
#include "treeshap/isa.h"
#include "treeshap/worker_pool.h"

namespace py = pybind11;

namespace xai::treeshap {
namespace {

// Converted by nobody: rows of another type are the caller's error to see, and even to find out that rows need no
// conversion takes numpy half a microsecond.
using Rows = py::array;

template <class T>
std::span<const T> view(const py::array_t<T, py::array::c_style>& array, const char* name) {
  if (array.ndim() != 1) throw py::value_error(std::string(name) + " must have one dimension");
  return {array.data(), static_cast<std::size_t>(array.size())};
}

struct RowsView {
  const float* data;
  std::size_t n;
};

RowsView view_rows(const Rows& rows, int n_features) {
  const auto due = [&] { return "rows must be float32 (n, " + std::to_string(n_features) + "), C order"; };
  if (!py::isinstance<py::array_t<float, py::array::c_style>>(rows)) throw py::type_error(due());
  if (rows.ndim() != 2 || rows.shape(1) != n_features) throw py::value_error(due());
  if (!(rows.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    throw py::value_error("rows must be aligned in memory");
  return {static_cast<const float*>(rows.data()), static_cast<std::size_t>(rows.shape(0))};
}

// An array of shape `shape` that owns `values`, without a copy.
py::array_t<double> own(std::shared_ptr<std::vector<double>> values, std::vector<py::ssize_t> shape) {
  double* data = values->data();
  auto* holder = new std::shared_ptr<std::vector<double>>(std::move(values));
  py::capsule owner(holder, [](void* p) { delete static_cast<std::shared_ptr<std::vector<double>>*>(p); });
  return py::array_t<double>(std::move(shape), data, owner);
}

using Explainer = PathDependentExplainer;

std::optional<Variant> variant_named(const std::string& name) {
  if (name.empty()) return std::nullopt;
  for (Variant variant : {Variant::kScalar, Variant::kRows, Variant::kRow})
    if (name == name_of(variant)) return variant;
  throw py::value_error("variant '" + name + "' is not known");
}

// How a batch is cut into portions.
struct Cut {
  std::size_t lanes;     // a portion is a multiple of so many rows
  std::size_t at_once;   // and not more than so many: larger ones are no cheaper
  std::size_t a_worker;  // portions for each worker: several keep all busy to the end

  std::size_t portion(std::size_t rows, int workers) const {
    const std::size_t share = rows / (a_worker * static_cast<std::size_t>(workers));
    return std::clamp((share + lanes - 1) / lanes * lanes, lanes, at_once);
  }
};

// What a plan does with a batch: one variant for all of it, so that the cut does not change its bits.
template <class Explain>
struct Task {
  Explain explain;  // rows [begin, end); refers to the plan
  const char* variant;
  Cut cut;
};

template <class Plan>
auto task_of(const Plan& plan, const char* variant, Cut cut) {
  const auto run = [&plan](const float* rows, std::size_t begin, std::size_t end, double* phi, const StopToken& stop) {
    plan.explain(rows, begin, end, phi, stop);
  };
  return Task<decltype(run)>{run, variant, cut};
}

auto task_of(const Explainer& explainer, std::size_t n) {
  const Variant variant = explainer.variant_for(n);
  const auto run = [&explainer, variant](const float* rows, std::size_t begin, std::size_t end, double* phi,
                                         const StopToken& stop) {
    explainer.explain(variant, rows, begin, end, phi, stop);
  };
  return Task<decltype(run)>{run, name_of(variant), variant == Variant::kRows ? Cut{16, 256, 4} : Cut{1, 64, 4}};
}

auto task_of(const InterventionalPlan& plan, std::size_t) {
  // Each portion reads all tables, which are more than the caches hold.
  return task_of(plan, "interventional", plan.n_trees_by_table() > 0 ? Cut{16, 1024, 1} : Cut{1, 64, 4});
}

auto task_of(const InteractionsPlan& plan, std::size_t) { return task_of(plan, "interactions", Cut{1, 16, 4}); }

// (n, features, outputs), or with the features twice.
template <class Plan>
std::vector<py::ssize_t> result_shape(const Plan& plan, py::ssize_t n) {
  std::vector<py::ssize_t> shape{n, plan.n_players(), plan.n_outputs()};
  if constexpr (std::is_same_v<Plan, InteractionsPlan>) shape.insert(shape.begin() + 1, plan.n_players());
  return shape;
}

std::shared_ptr<std::vector<double>> room_for(const std::vector<py::ssize_t>& shape) {
  std::size_t size = 1;
  for (py::ssize_t length : shape) size *= static_cast<std::size_t>(length);
  return std::make_shared<std::vector<double>>(size);
}

// An explanation under way on a pool. Owns copies of the rows and the plan, so nothing dangles when it is dropped.
struct ExplainJob {
  std::shared_ptr<Job> job;
  std::shared_ptr<std::vector<double>> phi;
  std::vector<py::ssize_t> shape;
  const char* variant;

  ~ExplainJob() {
    if (job) job->cancel();
  }
  ExplainJob(std::shared_ptr<Job> j, std::shared_ptr<std::vector<double>> p, std::vector<py::ssize_t> s, const char* v)
      : job(std::move(j)), phi(std::move(p)), shape(std::move(s)), variant(v) {}
  ExplainJob(const ExplainJob&) = delete;

  bool wait(double timeout_s) const {
    py::gil_scoped_release release;
    const double seconds = std::fmin(std::fmax(timeout_s, 0.0), 1e6);  // fmax takes NaN for the smallest
    const auto timeout = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
    return job->wait_for(timeout);
  }
  py::array_t<double> result() const {
    switch (job->state()) {
      case JobState::kDone:
        return own(phi, shape);
      case JobState::kFailed:
        std::rethrow_exception(job->error());
      case JobState::kCancelled:
        throw std::runtime_error("the job was cancelled");
      case JobState::kPending:
        break;
    }
    throw std::runtime_error("the job is not over yet: wait for it first");
  }
};

template <class Plan>
std::unique_ptr<ExplainJob> submit(const std::shared_ptr<Plan>& plan, WorkerPool& pool, const Rows& rows,
                                   bool deferred) {
  const auto [data, n] = view_rows(rows, plan->n_features());
  if (n == 0) throw py::value_error("a job needs at least one row");
  auto input = std::make_shared<std::vector<float>>(data, data + rows.size());
  std::vector<py::ssize_t> shape = result_shape(*plan, rows.shape(0));
  auto phi = room_for(shape);
  const auto task = task_of(*plan, n);
  auto job = pool.submit(n, task.cut.portion(n, pool.threads()), deferred ? Priority::kDeferred : Priority::kLive,
                         [plan, task, input, phi](std::size_t begin, std::size_t end, const StopToken& stop) {
                           task.explain(input->data(), begin, end, phi->data(), stop);
                         });
  return std::make_unique<ExplainJob>(std::move(job), std::move(phi), std::move(shape), task.variant);
}

// How long Ctrl-C may go unnoticed.
constexpr std::chrono::milliseconds kSignalsEvery{50};

// Runs Python's signal handlers, and throws what one raised. Without the GIL.
void check_signals() {
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// All rows in the calling thread. A portion may take longer than kSignalsEvery, but not much: at_once rows.
template <class Task>
void run_here(const Task& task, const float* rows, std::size_t n, double* phi) {
  auto checked = std::chrono::steady_clock::now();
  for (std::size_t begin = 0; begin < n; begin += task.cut.at_once) {
    task.explain(rows, begin, std::min(begin + task.cut.at_once, n), phi, StopToken());
    if (const auto now = std::chrono::steady_clock::now(); now - checked > kSignalsEvery) {
      check_signals();
      checked = now;
    }
  }
}

// All rows on the workers. They read the caller's rows, so this does not return before they are through with them.
template <class Task>
void run_there(const Task& task, WorkerPool& pool, const float* rows, std::size_t n, double* phi) {
  const auto job = pool.submit(
      n, task.cut.portion(n, pool.threads()), Priority::kLive,
      [&](std::size_t begin, std::size_t end, const StopToken& stop) { task.explain(rows, begin, end, phi, stop); });
  while (!job->wait_for(kSignalsEvery)) {
    try {
      check_signals();
    } catch (...) {
      job->cancel();
      job->wait();
      throw;
    }
  }
  if (job->state() == JobState::kFailed) std::rethrow_exception(job->error());
  if (job->state() == JobState::kCancelled) throw std::runtime_error("the pool was closed");
}

// Attributions of all rows, the GIL dropped meanwhile: on the pool, if there is one and the rows make several portions,
// else in the calling thread. (None for a mere pointer would make pybind11 go through all arguments twice.) `squeeze`:
// one output has no axis of its own.
template <class Plan>
py::array_t<double> explain(const Plan& plan, const Rows& rows, std::optional<WorkerPool*> pool, bool squeeze) {
  const auto [data, n] = view_rows(rows, plan.n_features());
  std::vector<py::ssize_t> shape = result_shape(plan, rows.shape(0));
  if (squeeze && plan.n_outputs() == 1) shape.pop_back();
  py::array_t<double> result(std::move(shape));  // left as it is: plans write every value
  double* const phi = result.mutable_data();
  if (n != 0) {
    const auto task = task_of(plan, n);
    py::gil_scoped_release release;
    if (pool && n > task.cut.portion(n, (*pool)->threads()))
      run_there(task, **pool, data, n, phi);
    else
      run_here(task, data, n, phi);
  }
  return result;
}

// `n_outputs` base values of any plan.
template <class Plan>
py::array_t<double> base_values(const Plan& plan) {
  return own(std::make_shared<std::vector<double>>(plan.base_values()), {plan.n_outputs()});
}

using Doubles = py::array_t<double, py::array::c_style>;

// Each row's residual, whether its attributions add up, and whether all do.
py::tuple check_all(const Doubles& phi, const Doubles& base, const py::array_t<float, py::array::c_style>& margin,
                    double tolerance) {
  if (phi.ndim() != 3 || base.ndim() != 1 || margin.ndim() != 2 || margin.shape(0) != phi.shape(0) ||
      margin.shape(1) != phi.shape(2) || base.shape(0) != phi.shape(2))
    throw py::value_error(
        "attributions, base values and margins must be (n, features, outputs), (outputs,), (n, outputs)");
  const auto n = static_cast<std::size_t>(phi.shape(0)), features = static_cast<std::size_t>(phi.shape(1)),
             outputs = static_cast<std::size_t>(phi.shape(2));
  py::array_t<double> residual(phi.shape(0));
  py::array_t<bool> holds(phi.shape(0));
  double* const residuals = residual.mutable_data();
  bool* const each = holds.mutable_data();
  bool all = true;
  for (std::size_t i = 0; i < n; ++i) {
    const Additivity one = check_additivity(phi.data() + i * features * outputs, base.data(),
                                            margin.data() + i * outputs, features, outputs, tolerance);
    residuals[i] = one.residual;
    each[i] = one.holds;
    all &= one.holds;
  }
  return py::make_tuple(std::move(residual), std::move(holds), all);
}

}  // namespace

PYBIND11_MODULE(_treeshap, m) {
  m.doc() = "Native TreeSHAP kernel. Use xai_service.treeshap, which documents it.";
  py::register_exception<InvalidForest>(m, "InvalidForest", PyExc_ValueError);
  py::register_exception<MissingCovers>(m, "MissingCovers", PyExc_ValueError);
  m.def("process_isa", [] { return std::string(name_of(process_isa())); });
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (Isa isa : supported_isas()) names.emplace_back(name_of(isa));
    return names;
  });
  m.def("check_additivity", &check_all, py::arg("phi").noconvert(), py::arg("base_values").noconvert(),
        py::arg("margin").noconvert(), py::arg("tolerance"));

  py::class_<Forest, std::shared_ptr<Forest>>(m, "Forest")
      .def(py::init([](std::int64_t n_features, std::int64_t n_outputs,
                       const py::array_t<std::int64_t, py::array::c_style>& tree_begin,
                       const py::array_t<std::uint8_t, py::array::c_style>& kind,
                       const py::array_t<std::int64_t, py::array::c_style>& feature,
                       const py::array_t<double, py::array::c_style>& threshold,
                       const py::array_t<std::uint8_t, py::array::c_style>& nan_left,
                       const py::array_t<std::int64_t, py::array::c_style>& left,
                       const py::array_t<std::int64_t, py::array::c_style>& right,
                       const py::array_t<double, py::array::c_style>& cover,
                       const py::array_t<std::int64_t, py::array::c_style>& weight_begin,
                       const py::array_t<std::int64_t, py::array::c_style>& weight_output,
                       const py::array_t<double, py::array::c_style>& weight,
                       const py::array_t<double, py::array::c_style>& base,
                       const py::array_t<std::int64_t, py::array::c_style>& set_begin,
                       const py::array_t<float, py::array::c_style>& set_value,
                       const py::array_t<std::int64_t, py::array::c_style>& player) {
             const RawForest raw{n_features,
                                 n_outputs,
                                 view(tree_begin, "tree_begin"),
                                 view(kind, "kind"),
                                 view(feature, "feature"),
                                 view(threshold, "threshold"),
                                 view(nan_left, "nan_left"),
                                 view(left, "left"),
                                 view(right, "right"),
                                 view(cover, "cover"),
                                 view(weight_begin, "weight_begin"),
                                 view(weight_output, "weight_output"),
                                 view(weight, "weight"),
                                 view(base, "base"),
                                 view(set_begin, "set_begin"),
                                 view(set_value, "set_value"),
                                 view(player, "player")};
             py::gil_scoped_release release;
             return std::make_shared<Forest>(Forest::build(raw));
           }),
           py::kw_only(), py::arg("n_features"), py::arg("n_outputs"), py::arg("tree_begin").noconvert(),
           py::arg("kind").noconvert(), py::arg("feature").noconvert(), py::arg("threshold").noconvert(),
           py::arg("nan_left").noconvert(), py::arg("left").noconvert(), py::arg("right").noconvert(),
           py::arg("cover").noconvert(), py::arg("weight_begin").noconvert(), py::arg("weight_output").noconvert(),
           py::arg("weight").noconvert(), py::arg("base").noconvert(),
           py::arg("set_begin").noconvert() = py::array_t<std::int64_t>(0),
           py::arg("set_value").noconvert() = py::array_t<float>(0),
           py::arg("player").noconvert() = py::array_t<std::int64_t>(0))
      .def_property_readonly("n_features", &Forest::n_features)
      .def_property_readonly("n_players", &Forest::n_players)
      .def_property_readonly("n_outputs", &Forest::n_outputs)
      .def_property_readonly("n_trees", &Forest::n_trees)
      .def_property_readonly("n_leaves", &Forest::n_leaves)
      .def_property_readonly("n_nodes", [](const Forest& f) { return f.nodes().size(); })
      .def_property_readonly("max_depth", &Forest::max_depth)
      .def_property_readonly("has_covers", &Forest::has_covers)
      .def(
          "predict",
          [](const Forest& forest, const Rows& rows) {
            const auto [data, n] = view_rows(rows, forest.n_features());
            py::array_t<double> result({rows.shape(0), static_cast<py::ssize_t>(forest.n_outputs())});
            double* const margin = result.mutable_data();
            {
              py::gil_scoped_release release;
              for (std::size_t row = 0; row < n; ++row)
                forest.predict(data + row * forest.n_features(), margin + row * forest.n_outputs());
            }
            return result;
          },
          py::arg("rows"));

  // Destroying a pool waits for the chunks under way.
  py::class_<WorkerPool, std::shared_ptr<WorkerPool>>(m, "WorkerPool", py::release_gil_before_calling_cpp_dtor())
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("threads", &WorkerPool::threads)
      .def_property_readonly("busy", &WorkerPool::busy);

  py::class_<ExplainJob>(m, "ExplainJob")
      .def("wait", &ExplainJob::wait, py::arg("timeout_s"))
      .def("cancel", [](const ExplainJob& job) { job.job->cancel(); })
      .def("result", &ExplainJob::result)
      .def_property_readonly("variant", [](const ExplainJob& job) { return std::string(job.variant); })
      .def_property_readonly("cancelled",
                             [](const ExplainJob& job) { return job.job->state() == JobState::kCancelled; })
      .def_property_readonly("started_ns", [](const ExplainJob& job) { return job.job->started_ns(); })
      .def_property_readonly("finished_ns", [](const ExplainJob& job) { return job.job->finished_ns(); });

  py::class_<Explainer, std::shared_ptr<Explainer>>(m, "PathDependentExplainer")
      .def(py::init([](const Forest& forest, const std::string& isa, const std::string& variant) {
             const Isa chosen = isa.empty() ? process_isa() : isa_named(isa);
             const std::optional<Variant> forced = variant_named(variant);
             py::gil_scoped_release release;
             return std::make_shared<Explainer>(forest, chosen, forced);
           }),
           py::arg("forest"), py::kw_only(), py::arg("isa") = "", py::arg("variant") = "")
      .def_property_readonly("n_features", &Explainer::n_features)
      .def_property_readonly("n_players", &Explainer::n_players)
      .def_property_readonly("n_outputs", &Explainer::n_outputs)
      .def_property_readonly("memory_bytes", &Explainer::memory_bytes)
      .def_property_readonly("isa", [](const Explainer& explainer) { return std::string(name_of(explainer.isa())); })
      .def("variant_for", [](const Explainer& explainer,
                             std::size_t rows) { return std::string(name_of(explainer.variant_for(rows))); })
      .def_property_readonly("base_values", &base_values<Explainer>)
      .def("explain", &explain<Explainer>, py::arg("rows"), py::arg("pool") = std::nullopt, py::arg("squeeze") = false)
      .def("submit", &submit<Explainer>, py::arg("pool"), py::arg("rows"), py::kw_only(), py::arg("deferred") = false);

  py::class_<InterventionalPlan, std::shared_ptr<InterventionalPlan>>(m, "InterventionalPlan")
      .def(py::init([](const Forest& forest, const Rows& background, std::size_t memory_cap, const std::string& isa) {
             const auto [rows, n] = view_rows(background, forest.n_features());
             const Isa chosen = isa.empty() ? process_isa() : isa_named(isa);
             py::gil_scoped_release release;
             return std::make_shared<InterventionalPlan>(forest, rows, n, memory_cap, chosen);
           }),
           py::arg("forest"), py::arg("background"),
           py::arg("memory_cap_bytes") = InterventionalPlan::kDefaultMemoryCap, py::kw_only(), py::arg("isa") = "")
      .def_property_readonly("n_features", &InterventionalPlan::n_features)
      .def_property_readonly("n_players", &InterventionalPlan::n_players)
      .def_property_readonly("n_outputs", &InterventionalPlan::n_outputs)
      .def_property_readonly("n_trees_by_table", &InterventionalPlan::n_trees_by_table)
      .def_property_readonly("memory_bytes", &InterventionalPlan::memory_bytes)
      .def_property_readonly("isa", [](const InterventionalPlan& plan) { return std::string(name_of(plan.isa())); })
      .def_property_readonly("base_values", &base_values<InterventionalPlan>)
      .def("explain", &explain<InterventionalPlan>, py::arg("rows"), py::arg("pool") = std::nullopt,
           py::arg("squeeze") = false)
      .def("submit", &submit<InterventionalPlan>, py::arg("pool"), py::arg("rows"), py::kw_only(),
           py::arg("deferred") = false);

  py::class_<InteractionsPlan, std::shared_ptr<InteractionsPlan>>(m, "InteractionsPlan")
      .def(py::init([](const Forest& forest) {
             py::gil_scoped_release release;
             return std::make_shared<InteractionsPlan>(forest, path_facts(forest));
           }),
           py::arg("forest"))
      .def_property_readonly("n_features", &InteractionsPlan::n_features)
      .def_property_readonly("n_players", &InteractionsPlan::n_players)
      .def_property_readonly("n_outputs", &InteractionsPlan::n_outputs)
      .def_property_readonly("memory_bytes", &InteractionsPlan::memory_bytes)
      .def_property_readonly("base_values", &base_values<InteractionsPlan>)
      .def("explain", &explain<InteractionsPlan>, py::arg("rows"), py::arg("pool") = std::nullopt,
           py::arg("squeeze") = false)
      .def("submit", &submit<InteractionsPlan>, py::arg("pool"), py::arg("rows"), py::kw_only(),
           py::arg("deferred") = false);
}

}  // namespace xai::treeshap
