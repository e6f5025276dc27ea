"""The requests that Locust sends: real rows in turn, made beforehand, so that the generator's own cost is small."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import data
from bench.tally import Outcome
from xai_service.demo import data as loans
from xai_service.types import Float32Array
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import to_tensor

PREPARED = 500  # requests of each kind that take turns: more than fit any cache of answers
SERVICE = f"/{pb.DESCRIPTOR.services_by_name['DecisionService'].full_name}"


class NoRows(Exception):
    """Nobody said what rows to send to this model."""


def rows_for(feature_names: Sequence[str], file: Path | None = None) -> Float32Array:
    """Returns float32 (n, features) to ask a model about: ``file``'s, or real ones for the bench's and the demo's.

    Raises:
        NoRows: another model and no file, or a file of another width.
    """
    names = tuple(feature_names)
    if file is not None:
        rows = np.load(file, allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != len(names) or not len(rows):
            raise NoRows(f"{file} has the shape {rows.shape}; the model takes rows of {len(names)} features")
        return np.ascontiguousarray(rows, np.float32)
    if names == data.FLIGHT_FEATURES:
        return data.load("flights").held_out
    if names == tuple(feature.name for feature in loans.FEATURES):
        return loans.split(loans.load())[1].rows
    raise NoRows(
        f"the model's features ({', '.join(names[:5])} …) are neither the benchmark's nor the demo's: give rows "
        "with --xai-rows FILE.npy, float32 (n, features)"
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the requests of one kind ask.

    Attributes:
        mode: pb.EXPLANATION_MODE_…
        rows: of a request.
        budget_ms: 0 to name none.
    """

    mode: int
    rows: int = 1
    budget_ms: float = 0.0


def requests(model: str, version: str, rows: Float32Array, wanted: Wanted) -> Iterator[pb.PredictRequest]:
    """Returns requests without end, rows in turn: `PREPARED` of them or as many as there are, over and over."""
    starts = range(0, PREPARED * wanted.rows, wanted.rows)
    prepared = []
    for start in starts[: max(1, min(PREPARED, len(rows)))]:
        some = rows[np.arange(start, start + wanted.rows) % len(rows)]
        request = pb.PredictRequest(
            model_name=model, model_version=version, input=to_tensor(some), explanation_mode=wanted.mode
        )
        if wanted.budget_ms:
            request.latency_budget_ms = wanted.budget_ms
        prepared.append(request)
    return itertools.cycle(prepared)


def outcome_of(response: pb.PredictResponse) -> Outcome:
    """Returns what a reply holds: a request is as good as its worst row."""
    statuses = set(response.explanations.statuses)
    for status, outcome in (
        (pb.EXPLANATION_STATUS_FAILED, Outcome.FAILED),
        (pb.EXPLANATION_STATUS_DEFERRED, Outcome.DEFERRED),
        (pb.EXPLANATION_STATUS_COMPLETE, Outcome.EXPLAINED),
    ):
        if status in statuses:
            return outcome
    return Outcome.PREDICTED
