"""All metrics of a service, read when somebody asks. docs/operations.md lists them, a test checks.

Labels are bounded: models and versions are those of the repository, reasons are error classes, features the first of
each model.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnxruntime

from xai_service import __version__, _treeshap
from xai_service.errors import Unavailable
from xai_service.histogram import Histogram
from xai_service.metrics.process import process_families
from xai_service.metrics.text import Family
from xai_service.service import ExplainService
from xai_service.telemetry import DURATION_BOUNDS_US, ModelKey, ModelStats

MAX_VERSIONS = 1000  # of which it is said whether they are ready
MAX_FEATURES_OF_MODEL = 1000
MAX_FEATURES = 10_000  # of all models together
_US = 1e6  # in a second
_Models = Sequence[tuple[ModelKey, ModelStats]]


def families(service: ExplainService) -> Iterator[Family]:
    """Yields every metric of the service and of its process."""
    models = service.telemetry.models()
    yield from _triton(models)
    yield from _kserve(models)
    yield from _requests(service, models)
    yield from _deferred(service)
    yield from _ledger(service)
    yield from _repository(service)
    yield from _features(service)
    yield Family("xai_build_info", "gauge", "1; what runs is in the labels.").add(
        1,
        {
            "version": __version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "isa": _treeshap.process_isa(),
        },
    )
    yield from process_families()


def _labels(key: ModelKey) -> dict[str, str]:
    return {"model": key[0], "version": key[1]}


def _triton(models: _Models) -> Iterator[Family]:
    """Under the names of Triton, without its label `gpu_uuid`: what its dashboards draw."""

    def counter(name: str, text: str, of: Callable[[ModelStats], float]) -> Family:
        family = Family(name, "counter", text)
        for key, stats in models:
            family.add(of(stats), _labels(key))
        return family

    yield counter("nv_inference_request_success", "Requests answered.", lambda one: one.answered)
    yield counter(
        "nv_inference_request_failure", "Requests that ended with an error.", lambda one: sum(one.refused.values())
    )
    yield counter("nv_inference_count", "Rows answered.", lambda one: one.rows)
    yield counter("nv_inference_exec_count", "Runs of the model: one for each request.", lambda one: one.answered)
    yield counter(
        "nv_inference_request_duration_us", "Time of requests answered, in all.", lambda one: round(one.total.sum)
    )
    yield counter(
        "nv_inference_queue_duration_us", "Time they waited to be admitted.", lambda one: round(one.queue.sum)
    )
    yield counter(
        "nv_inference_compute_infer_duration_us", "Time of their predictions.", lambda one: round(one.predict.sum)
    )


def _kserve(models: _Models) -> Iterator[Family]:
    """Under the names of KServe, which knows models but not their versions."""
    for stage in ("predict", "explain"):
        family = Family(f"request_{stage}_seconds", "histogram", f"Time to {stage}, of all versions.")
        by_name: dict[str, Histogram] = {}
        for (model, _), stats in models:
            if model:
                by_name.setdefault(model, Histogram(DURATION_BOUNDS_US)).add(getattr(stats, stage))
        for model, histogram in by_name.items():
            family.add_histogram(histogram, {"model_name": model}, unit=_US)
        yield family


def _requests(service: ExplainService, models: _Models) -> Iterator[Family]:
    def durations(stage: str, text: str) -> Family:
        family = Family(f"xai_{stage}_duration_seconds", "histogram", text)
        for key, stats in models:
            if key[0]:
                family.add_histogram(getattr(stats, "total" if stage == "request" else stage), _labels(key), unit=_US)
        return family

    yield durations("request", "Requests answered, from arrival to reply.")
    yield durations("queue", "From arrival to admission.")
    yield durations("predict", "ONNX Runtime.")
    yield durations("explain", "The kernel, of explanations that were ready for the reply.")
    yield durations("overlap", "How long both ran at the same time.")
    yield durations("record", "Until the decisions were durable.")

    rows = Family("xai_rows_total", "counter", "Rows answered, each a decision.")
    explained = Family("xai_explanations_total", "counter", "Rows answered, by what the reply said of the explanation.")
    residual = Family(
        "xai_additivity_residual", "histogram", "By how much base value and attributions miss the margin."
    )
    refused = Family("xai_requests_refused_total", "counter", "Requests that ended with an error, by its class.")
    for key, stats in models:
        for reason, count in stats.refused.items():
            refused.add(count, {**_labels(key), "reason": reason})
        if key[0]:
            rows.add(stats.rows, _labels(key))
            for status, count in stats.explanations.items():
                explained.add(count, {**_labels(key), "status": status.name.lower()})
            residual.add_histogram(stats.residual, _labels(key))
    yield from (rows, explained, residual, refused)
    yield Family("xai_requests_in_flight", "gauge", "Requests under way.").add(service.telemetry.in_flight)
    yield Family("xai_rows_in_flight", "gauge", "Rows admitted and under way.").add(service.rows_in_flight())


def _deferred(service: ExplainService) -> Iterator[Family]:
    with contextlib.suppress(Unavailable):  # the ledger cannot be read now
        depth = service.pending_explanations()
        yield Family("xai_deferred_depth", "gauge", "Decisions that wait for their explanation.").add(depth)
    finished = Family("xai_deferred_finished_total", "counter", "Explanations finished after the reply, by status.")
    for status, count in service.explained_later().items():
        finished.add(count, {"status": status.name.lower()})
    yield finished


def _ledger(service: ExplainService) -> Iterator[Family]:
    ledger = service.ledger
    yield Family("xai_ledger_queued_entries", "gauge", "Entries waiting to be durable.").add(ledger.queued)
    with contextlib.suppress(Unavailable):
        entries = ledger.last_sequence()
        yield Family(
            "xai_ledger_entries_total", "counter", "Entries stored: decisions, and explanations that came later."
        ).add(entries)
    yield Family("xai_ledger_commit_duration_seconds", "histogram", "A commit, of all that waited.").add_histogram(
        ledger.commit_us.copy(), unit=_US
    )
    yield Family("xai_ledger_commit_entries", "histogram", "Entries of a commit.").add_histogram(
        ledger.commit_entries.copy()
    )


def _repository(service: ExplainService) -> Iterator[Family]:
    entries = service.models()
    ready = [entry.snapshot is not None for entry in entries]
    yield (
        Family("xai_models", "gauge", "Versions in the repository, by whether they are served.")
        .add(sum(ready), {"state": "ready"})
        .add(len(ready) - sum(ready), {"state": "refused"})
    )
    each = Family("xai_model_ready", "gauge", f"Whether a version is served; of the first {MAX_VERSIONS}.")
    for entry, is_ready in list(zip(entries, ready, strict=True))[:MAX_VERSIONS]:
        each.add(int(is_ready), {"model": entry.name, "version": entry.version})
    yield each
    looks, reloads = service.looks
    yield Family("xai_repository_looks_total", "counter", "Looks at the repository since the start.").add(looks)
    yield Family("xai_repository_reloads_total", "counter", "Looks that loaded a version.").add(reloads)


def _features(service: ExplainService) -> Iterator[Family]:
    """What the rows served looked like: a drift shows here. Of strings, the codes of their categories."""
    known = Family("xai_features", "gauge", "Features of a version that was asked; of some there are no statistics.")
    values = Family("xai_feature_values_total", "counter", "Finite values served.")
    missing = Family("xai_feature_missing_total", "counter", "Missing values served.")
    moments = {
        "mean": Family("xai_feature_mean", "gauge", "Mean of the finite values served."),
        "stddev": Family("xai_feature_stddev", "gauge", "Their standard deviation, of the population."),
        "minimum": Family("xai_feature_min", "gauge", "The least of them."),
        "maximum": Family("xai_feature_max", "gauge", "The greatest of them."),
    }
    room = MAX_FEATURES
    for model, profile in service.profiles():
        labels = {"model": model.manifest.name, "version": model.manifest.version}
        known.add(len(model.feature_names), labels)
        names = model.feature_names[: min(room, MAX_FEATURES_OF_MODEL)]
        room -= len(names)
        columns = {name: getattr(profile, name).tolist() for name in ("mean", "minimum", "maximum")}
        columns["stddev"] = np.sqrt(profile.variance).tolist()
        counts, absent = profile.count.tolist(), profile.missing.tolist()
        for i, name in enumerate(names):
            feature = {**labels, "feature": name}
            values.add(counts[i], feature)
            missing.add(absent[i], feature)
            if counts[i]:
                for moment, family in moments.items():
                    family.add(columns[moment][i], feature)
    yield from (known, values, missing, *moments.values())
