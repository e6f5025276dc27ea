"""Times contestants in turns, and what follows from the times: medians, spreads and ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.contest import Failed
from xai_service.types import Float64Array

_PROBE_CALLS = 3
_MAX_CALLS = 4_000


class Timed(Protocol):
    """What can be timed: `bench.contest.Remote`."""

    name: str
    on_cpu: float

    def time(self, *, rows: int, calls: int, start: int) -> Float64Array:
        """Returns the microseconds per row of each call."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One contestant's times, in microseconds per row.

    Attributes:
        rounds: one array for each round, a number for each call.
        rows: rows of a call.
        on_cpu: share of the turns in which the process had its core, the median: less than 1 on a busy machine.
    """

    rounds: tuple[Float64Array, ...]
    rows: int
    on_cpu: float = 1.0

    @property
    def n(self) -> int:
        """Calls timed."""
        return sum(map(len, self.rounds))

    @property
    def medians(self) -> Float64Array:
        """The rounds' medians."""
        return np.array([np.median(times) for times in self.rounds])

    def quantile(self, q: float) -> float:
        """A quantile of all calls."""
        return float(np.quantile(np.concatenate(self.rounds), q))

    @property
    def median(self) -> float:
        """The median of all calls."""
        return self.quantile(0.5)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two series that took turns: the median of the rounds' ratios, and their 10th and 90th percentiles."""

    value: float
    low: float
    high: float


def ratio(numerator: Series, denominator: Series) -> Ratio:
    """Returns how many times the denominator's time the numerator takes, round by round."""
    ratios = numerator.medians / denominator.medians
    return Ratio(float(np.median(ratios)), float(np.quantile(ratios, 0.1)), float(np.quantile(ratios, 0.9)))


def interleave(
    contestants: Sequence[Timed],
    *,
    rows: int,
    rounds: int,
    turn_s: float,
    longest_call_s: float,
    failed: Callable[[str, str], None],
) -> dict[str, Series]:
    """Times calls of ``rows`` rows, a turn for each contestant in every round, in an order that shifts.

    Args:
        contestants: a contestant that fails is left out, and ``failed`` told its name and why.
        rows: of a call; fewer for a contestant whose call would take longer than ``longest_call_s``.
        rounds: at least 1.
        turn_s: how long a turn is meant to take: it decides the number of calls, at least one.
        longest_call_s: as above.
        failed: told the name and the reason.
    """
    plans: dict[str, tuple[int, int]] = {}
    for contestant in contestants:
        try:
            plans[contestant.name] = _plan(contestant, rows, turn_s, longest_call_s)
        except Failed as error:
            failed(contestant.name, str(error))
    times: dict[str, list[Float64Array]] = {name: [] for name in plans}
    on_cpu: dict[str, list[float]] = {name: [] for name in plans}
    start = dict.fromkeys(plans, 0)
    for turn in range(rounds):
        shift = turn % len(contestants) if contestants else 0
        for contestant in (*contestants[shift:], *contestants[:shift]):
            name = contestant.name
            if name not in times:
                continue
            call_rows, calls = plans[name]
            try:
                times[name].append(contestant.time(rows=call_rows, calls=calls, start=start[name]))
            except Failed as error:
                failed(name, str(error))
                del times[name]
                continue
            on_cpu[name].append(contestant.on_cpu)
            start[name] += call_rows * calls + 7  # so that batches begin elsewhere each time
    return {
        name: Series(tuple(series), plans[name][0], float(np.median(on_cpu[name]))) for name, series in times.items()
    }


def _plan(contestant: Timed, rows: int, turn_s: float, longest_call_s: float) -> tuple[int, int]:
    """Returns the rows of a call and the calls of a turn. Libraries that precompute are tried with more rows first."""
    size = 1
    while True:
        calls = _PROBE_CALLS if size == 1 else 1
        per_row_s = float(np.min(contestant.time(rows=size, calls=calls, start=0))) / 1e6
        if size == rows or per_row_s * rows <= longest_call_s:
            break
        larger = min(rows, size * 10)
        if per_row_s * larger > longest_call_s:
            return size, 1
        size = larger
    if size != rows:  # it fits, and what a row costs in a full call is not known yet
        per_row_s = float(np.min(contestant.time(rows=rows, calls=1, start=0))) / 1e6
    return rows, int(np.clip(turn_s / (per_row_s * rows), 1, _MAX_CALLS))


def best(series: Mapping[str, Series], names: Sequence[str]) -> str | None:
    """Returns which of these contestants has the lowest median, or ``None`` when none was timed."""
    return min((name for name in names if name in series), key=lambda name: series[name].median, default=None)
