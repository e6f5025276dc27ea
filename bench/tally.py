"""What became of the requests of one kind: latencies, and how many were explained in time, deferred, shed.

Locust's own statistics round latencies to milliseconds below 100 and know nothing of explanations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from bench.tables import grid

_STEP = math.log(1.005)
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p99_9_ms": 0.999}


class Outcome(StrEnum):
    """How one request ended."""

    EXPLAINED = "explained"  # every row's explanation was in the reply
    PREDICTED = "predicted"  # it wanted none
    DEFERRED = "deferred"  # predicted; a row's explanation comes later
    FAILED = "failed"  # predicted; a row's explanation failed
    SHED = "shed"  # RESOURCE_EXHAUSTED
    MISSED = "missed"  # DEADLINE_EXCEEDED
    ERROR = "error"  # any other status


class Latencies:
    """Counts of latencies in buckets, each half a percent wider than the last, so that a run of any length fits."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, ms: float) -> None:
        """Counts one latency in milliseconds, > 0."""
        self._counts[math.floor(math.log(max(ms, 1e-6)) / _STEP)] += 1

    def quantile(self, q: float) -> float:
        """Returns the q-quantile in milliseconds, to within 0.25 %; NaN of nothing."""
        due, seen = max(1, math.ceil(q * len(self))), 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen >= due:
                return math.exp((bucket + 0.5) * _STEP)
        return math.nan


class Tally:
    """All requests of one kind.

    Args:
        budget_ms: within which an explanation counts as in time, from the request's intended start; 0 for kinds that
            want none.
        rows: of a request.
    """

    def __init__(self, budget_ms: float = 0.0, rows: int = 1) -> None:
        self.budget_ms, self.rows = budget_ms, rows
        self.answered, self.outcomes, self.in_time = Latencies(), Counter[Outcome](), 0
        self.first_s, self.last_s = math.inf, -math.inf

    def add(self, outcome: Outcome, intended_s: float, now_s: float) -> None:
        """Counts a request that was meant to start at ``intended_s`` and ended at ``now_s``."""
        ms = (now_s - intended_s) * 1e3
        self.outcomes[outcome] += 1
        self.first_s, self.last_s = min(self.first_s, intended_s), max(self.last_s, now_s)
        # The latency of a refusal is not that of an answer: under overload it would make the service look quick.
        if outcome not in (Outcome.SHED, Outcome.MISSED, Outcome.ERROR):
            self.answered.add(ms)
        self.in_time += outcome is Outcome.EXPLAINED and ms <= self.budget_ms

    @property
    def ended(self) -> int:
        """Requests that ended, in whatever way."""
        return self.outcomes.total()

    def share(self, outcome: Outcome) -> float | None:
        """Returns the share of requests that ended so; ``None`` of nothing."""
        return self.outcomes[outcome] / self.ended if self.ended else None

    def as_json(self, unsent: int = 0) -> dict[str, Any]:
        """Returns the figures. Shares are of the requests that ended; latencies and the rate, of those answered."""
        seconds = self.last_s - self.first_s
        quantiles = {name: self.answered.quantile(q) if len(self.answered) else None for name, q in QUANTILES.items()}
        wants_explanations = self.budget_ms > 0 and self.ended > 0
        return {
            "requests": self.ended,
            "rows_per_request": self.rows,
            "answered_per_s": len(self.answered) / seconds if seconds > 0 else None,
            **quantiles,
            "budget_ms": self.budget_ms or None,
            "explained_in_budget": self.in_time / self.ended if wants_explanations else None,
            **{f"{outcome}_share": self.share(outcome) for outcome in Outcome},
            "unsent": unsent,
        }


_COLUMNS = {
    "requests": "requests",
    "answered_per_s": "answered/s",
    **{name: name.removesuffix("_ms").replace("_", ".") + " ms" for name in QUANTILES},
    "explained_in_budget": "explained in budget",
    "deferred_share": "deferred",
    "shed_share": "shed",
    "missed_share": "missed",
    "failed_share": "failed",
    "error_share": "error",
    "unsent": "unsent",
}


def table(kinds: Sequence[dict[str, Any]]) -> str:
    """Returns the figures of all kinds (`Tally.as_json`, with "name") as text, a line for each."""
    lines = [[kind["name"], *(_cell(column, kind[column]) for column in _COLUMNS)] for kind in kinds]
    return grid(["", *_COLUMNS.values()], lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column.endswith(("_share", "_in_budget")):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
