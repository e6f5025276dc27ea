"""The guard's turns, and the ratios of what they took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.bars import Bar
from bench.measure import Ratio

Round = dict[str, dict[str, float]]  # by the turn's name: seconds, cpu_s, requests, p50_s


@dataclass(frozen=True, slots=True)
class Turn:
    """So many requests of one kind.

    Attributes:
        name: of the kind.
        server: "xai", "unrecorded" for the same without recording, or "echo" for the plain gRPC server.
        asks: "echo", "predict" (mode NONE) or "explain".
        callers: who send at the same time, each the next when the last is answered.
        requests: in all.
        rows: of a request.
    """

    name: str
    server: str
    asks: str
    callers: int
    requests: int
    rows: int = 1

    @property
    def outcome(self) -> str | None:
        """What every reply has to be (`bench.tally.Outcome`); a deferred explanation would make the turn look cheap."""
        return {"predict": "predicted", "explain": "explained"}.get(self.asks)


TURNS = (
    Turn("echo, 1 caller", "echo", "echo", 1, 40),
    Turn("predict, 1 caller", "xai", "predict", 1, 40),
    Turn("explain, 1 caller", "xai", "explain", 1, 40),
    Turn("echo, 8 callers", "echo", "echo", 8, 160),
    Turn("predict, 8 callers", "xai", "predict", 8, 160),
    Turn("explain, 8 callers", "xai", "explain", 8, 160),
    Turn("explain, 8 callers, unrecorded", "unrecorded", "explain", 8, 160),
    Turn("predict, batch", "xai", "predict", 1, 8, rows=100),
    Turn("explain, batch", "xai", "explain", 1, 8, rows=100),
)
_ROWS = {turn.name: turn.rows for turn in TURNS}


def _latency(turn: str, one: Round) -> float:
    return one[turn]["p50_s"]


def _cpu(turn: str, one: Round) -> float:
    return one[turn]["cpu_s"] / one[turn]["requests"]


def _rows_per_s(turn: str, one: Round) -> float:
    return one[turn]["requests"] * _ROWS[turn] / one[turn]["seconds"]


@dataclass(frozen=True, slots=True)
class _Compared:
    what: str
    better: str
    of: Callable[[str, Round], float]
    numerator: str
    denominator: str


_COMPARED = (
    _Compared("p50 of one caller: predict-only / echo", "≤", _latency, "predict, 1 caller", "echo, 1 caller"),
    _Compared("p50 of one caller: explained / predict-only", "≤", _latency, "explain, 1 caller", "predict, 1 caller"),
    _Compared("CPU of the server, 8 callers: predict-only / echo", "≤", _cpu, "predict, 8 callers", "echo, 8 callers"),
    _Compared(
        "CPU of the server, 8 callers: explained / predict-only", "≤", _cpu, "explain, 8 callers", "predict, 8 callers"
    ),
    _Compared(
        "throughput, 8 callers: explained / predict-only",
        "≥",
        _rows_per_s,
        "explain, 8 callers",
        "predict, 8 callers",
    ),
    _Compared(
        "CPU of the server, 8 callers: recorded / unrecorded",
        "≤",
        _cpu,
        "explain, 8 callers",
        "explain, 8 callers, unrecorded",
    ),
    # Not by what a turn took in all: of so few requests, one that the machine held up would decide.
    _Compared("p50 of batches of 100: explained / predict-only", "≤", _latency, "explain, batch", "predict, batch"),
    _Compared("CPU of batches of 100: explained / predict-only", "≤", _cpu, "explain, batch", "predict, batch"),
)


def bars(rounds: Sequence[Round], model: str) -> list[Bar]:
    """Returns each ratio: its median over rounds and the rounds' 10th and 90th percentiles. The target is the baseline.

    Args:
        rounds: at least one, all with the same of `TURNS`; ratios of turns that were not played are left out.
        model: its title.
    """
    found = []
    for one in _COMPARED:
        if not {one.numerator, one.denominator} <= set(rounds[0]):
            continue
        values = np.array([one.of(one.numerator, r) / one.of(one.denominator, r) for r in rounds])
        low, middle, high = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9)))
        found.append(Bar(one.what, model, f"{one.better} baseline", Ratio(middle, low, high), None, ""))
    return found


def totals(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Returns what each kind took over all rounds, medians, for who wants to see absolute figures."""
    return [
        {
            "name": turn.name,
            "p50_ms": float(np.median([r[turn.name]["p50_s"] for r in rounds])) * 1e3,
            "rows_per_s": float(np.median([_rows_per_s(turn.name, r) for r in rounds])),
            "cpu_us_per_request": float(np.median([_cpu(turn.name, r) for r in rounds])) * 1e6,
        }
        for turn in TURNS
        if turn.name in rounds[0]
    ]
