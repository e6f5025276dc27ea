"""What one run of the serving benchmark measured: loads by what was asked of whom, round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.measure import Ratio
from bench.serving_load import Latencies, Load

ECHO, PREDICT, EXPLAINED, RECORDED = "echo", "predict-only", "explained", "explained and recorded"
AIO, NAIVE = "grpc.aio echo", "naive service"
SPARE, ONE = "a core to spare", "one core only"
CALLERS, BATCH, LOAD, DEADLINE, BUDGET, BESIDE = "callers", "batch", "load", "deadline", "budget", "beside"
NOT_ASKED = "not measured in this run"
ALONE, WITH_BATCH = "alone", "beside a batch"


@dataclass(frozen=True, slots=True)
class Key:
    """One thing that was measured.

    Attributes:
        case: which part of the benchmark.
        placement: `SPARE` or `ONE`.
        contestant: who answered.
        rows: of each call.
        callers: of a closed loop; 0 for an open one.
        share: of saturation that an open loop offered; 0 for a closed one.
        company: `ALONE` or `WITH_BATCH`, in the case `BESIDE`.
    """

    case: str
    placement: str
    contestant: str
    rows: int = 1
    callers: int = 0
    share: float = 0.0
    company: str = ""


@dataclass(slots=True)
class Results:
    """One run.

    Attributes:
        loads: what the generator saw, a `Load` for each round.
        offered: calls a second that an open loop offered, round by round.
        skipped: reasons by (case, contestant); ("", contestant) for one that never took part.
        memory: of each server that was filled: ``decisions``, ``mb`` (both lists), ``idle_mb``.
        soak: of the long run; empty without one.
        agreement: largest difference to our attributions and margins, of the largest, by contestant.
    """

    loads: dict[Key, list[Load]] = field(default_factory=dict)
    offered: dict[Key, list[float]] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    soak: dict[str, Any] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def add(self, key: Key, load: Load, offered: float | None = None) -> None:
        """Adds a round."""
        self.loads.setdefault(key, []).append(load)
        if offered is not None:
            self.offered.setdefault(key, []).append(offered)

    def why_not(self, case: str, contestant: str) -> str:
        """Returns why this was not measured."""
        skipped = self.skipped
        return skipped.get(("", contestant)) or skipped.get((case, contestant)) or NOT_ASKED


def each(loads: Sequence[Load], what: Callable[[Load], float]) -> list[float]:
    """Returns a figure of each round."""
    return [what(load) for load in loads]


def p50(load: Load) -> float:
    """Median latency in µs."""
    return load.ok.quantile(0.5)


def p99(load: Load) -> float:
    """99th percentile in µs."""
    return load.ok.quantile(0.99)


def spread(values: Sequence[float]) -> Ratio | None:
    """Returns median, least and greatest of the rounds' figures, or ``None`` when one of them is none."""
    if not len(values) or not np.isfinite(values).all():
        return None
    return Ratio(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def by_round(
    left: Sequence[Load], right: Sequence[Load], what: Callable[[Load], float], combine: Callable[[float, float], float]
) -> Ratio | None:
    """Returns the spread of what two that took turns come to, combined round by round."""
    pairs = zip(each(left, what), each(right, what), strict=False)
    return spread([combine(a, b) if b else float("nan") for a, b in pairs])


def merged(loads: Sequence[Load]) -> Latencies:
    """Returns the latencies of all rounds together."""
    total = loads[0].ok
    for load in loads[1:]:
        total = total + load.ok
    return total


def missed_share(load: Load) -> float:
    """Share of the calls that were not shed (so, admitted) that were not answered well within the budget."""
    admitted = load.due - load.shed
    return (admitted - load.within_budget) / admitted if admitted else float("nan")


def explained_share(load: Load) -> float:
    """Share of all calls that were answered, with their explanation, within the budget."""
    return load.explained_within_budget / load.due if load.due else float("nan")


def shed_share(load: Load) -> float:
    """Share of all calls that the server refused for overload."""
    return load.shed / load.due if load.due else float("nan")
