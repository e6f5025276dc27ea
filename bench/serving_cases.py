"""The parts of the serving benchmark: each takes turns between those that it compares, in rounds whose order shifts.

The server is confined to one core, and the generator runs on another ("one core only"); or the server may use the
generator's core beside its own, of which a generator in C++ leaves most ("a core to spare").
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench import serving_results as r
from bench.contest import Failed
from bench.serving_lab import CONTESTANTS, WARMUP_S, Lab
from bench.serving_load import LoadFailed
from bench.serving_model import HUGE

CALLERS = (1, 16, 64)
BATCH_ROWS, BATCH_CALLERS = 100, 4
SHARES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
NORMAL, OVERLOAD = 0.7, 1.5
OVERLOAD_BUDGET_MS, NORMAL_BUDGET_MS = 20.0, 10.0
BESIDE_SHARE = 0.3
_SATURATING = (16, 64)
_OURS = (r.EXPLAINED, r.RECORDED)
_Turn = TypeVar("_Turn")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take.

    Attributes:
        rounds: turns of each contestant.
        turn_s: a turn of a closed loop.
        load_rounds, load_turn_s: of the open loops, whose tails need more calls.
        shares: of saturation that are offered.
        decisions: after which memory is weighed.
        slow_turn_s: a turn of the naive service's batches, which take half a second each.
    """

    rounds: int
    turn_s: float
    load_rounds: int
    load_turn_s: float
    shares: tuple[float, ...]
    decisions: int
    slow_turn_s: float


FULL = Pace(5, 1.0, 3, 3.0, SHARES, 100_000, 5.0)
QUICK = Pace(2, 0.3, 1, 0.8, (0.3, NORMAL, 1.0, OVERLOAD), 3_000, 1.0)


def callers(lab: Lab, pace: Pace, placements: Sequence[str]) -> None:
    """Single rows, closed loops of 1, 16 and 64 callers: all contestants, both placements."""
    turns = [(who, where, n) for where in placements for n in CALLERS for who in CONTESTANTS]
    for who, where, n in _rounds(lab, "callers", turns, pace.rounds):
        with _or_skip(lab, r.CALLERS, who):
            load = lab.load(who, where, callers=n, seconds=pace.turn_s)
            lab.results.add(r.Key(r.CALLERS, where, who, callers=n), load)


def batches(lab: Lab, pace: Pace, placements: Sequence[str]) -> None:
    """Batches of 100 rows."""
    everyone = (r.PREDICT, r.EXPLAINED, r.RECORDED, r.NAIVE)
    turns = [(who, where) for where in placements for who in everyone]
    for who, where in _rounds(lab, "batch", turns, pace.rounds):
        # Of what takes half a second a call, the first calls count too, or a turn would see hardly any.
        seconds, warmup_s = (pace.slow_turn_s, 0.0) if who == r.NAIVE else (pace.turn_s, WARMUP_S)
        with _or_skip(lab, r.BATCH, who):
            load = lab.load(*(who, where), callers=BATCH_CALLERS, rows=BATCH_ROWS, seconds=seconds, warmup_s=warmup_s)
            lab.results.add(r.Key(r.BATCH, where, who, rows=BATCH_ROWS, callers=BATCH_CALLERS), load)


def load_curve(lab: Lab, pace: Pace, placements: Sequence[str]) -> None:
    """Latency against offered load, up to and beyond saturation, which is measured anew in every round.

    Two turns more: at 70 % with a budget of 10 ms, for the share that is explained within it; and at 150 % with 20 ms
    as budget and as gRPC's deadline, for what of the admitted misses it. In the curve itself calls have no deadline, so
    that it hides no latency.
    """
    where = placements[0]
    for who in _rounds(lab, "load", _OURS, pace.load_rounds):
        with _or_skip(lab, r.LOAD, who):
            full = saturation(lab, who, where, pace.turn_s)
            lab.say(f"load: {who} is saturated by {full:,.0f} calls a second")
            points: list[tuple[str, float, float, float | None]]
            points = [(r.LOAD, share, OVERLOAD_BUDGET_MS, None) for share in pace.shares]
            points += [
                (r.BUDGET, NORMAL, NORMAL_BUDGET_MS, None),
                (r.DEADLINE, OVERLOAD, OVERLOAD_BUDGET_MS, OVERLOAD_BUDGET_MS),
            ]
            for case, share, budget_ms, timeout_ms in points:
                load = lab.load(
                    *(who, where),
                    rate=share * full,
                    seconds=pace.load_turn_s,
                    budget_ms=budget_ms,
                    timeout_ms=timeout_ms,
                )
                lab.results.add(r.Key(case, where, who, share=share), load, share * full)


def saturation(lab: Lab, who: str, where: str, turn_s: float) -> float:
    """Returns the calls a second that closed loops reach now."""
    return max(lab.load(who, where, callers=n, seconds=turn_s).rate for n in _SATURATING)


def beside(lab: Lab, pace: Pace, placements: Sequence[str]) -> None:
    """Single rows at 30 % of saturation, alone, and beside a caller that sends batch after batch of 10,000 rows."""
    full: dict[tuple[str, str], float] = {}
    turns = [(who, where, company) for who in _OURS for where in placements for company in (r.ALONE, r.WITH_BATCH)]
    for who, where, company in _rounds(lab, "beside", turns, pace.load_rounds):
        with _or_skip(lab, r.BESIDE, who):
            rate = full.get((who, where)) or BESIDE_SHARE * saturation(lab, who, where, pace.turn_s)
            full[who, where] = rate
            batch = lab.flood(who, where, HUGE) if company == r.WITH_BATCH else contextlib.nullcontext()
            with batch:
                load = lab.load(who, where, rate=rate, seconds=pace.load_turn_s, settle=company == r.ALONE)
            lab.results.add(r.Key(r.BESIDE, where, who, share=BESIDE_SHARE, company=company), load, rate)


def memory(lab: Lab, pace: Pace, placements: Sequence[str]) -> None:
    """Resident memory of a server that was just started, and as it decides row after row."""
    for who in _OURS:
        with _or_skip(lab, "memory", who), lab.fresh(who, placements[0]) as server:
            server.settle()
            found: dict[str, Any] = {"idle_mb": server.resident_mb(), "decisions": [0], "mb": [server.resident_mb()]}
            lab.results.memory[who] = found
            slice_s = pace.turn_s
            while found["decisions"][-1] < pace.decisions:
                load = lab.load(who, placements[0], server=server, callers=64, seconds=slice_s, warmup_s=0.0)
                if not load.answered:
                    raise Failed(f"no call was answered: {load.why_wrong()}")
                server.settle()
                found["decisions"].append(found["decisions"][-1] + sum(load.rows.values()))
                found["mb"].append(server.resident_mb())
                lab.say(f"memory: {who}, {found['decisions'][-1]:,} decisions, {found['mb'][-1]:.1f} MB")
                left = pace.decisions - found["decisions"][-1]
                slice_s = min(10.0, max(0.05, left / max(load.rate, 1.0)))


def _rounds(lab: Lab, name: str, turns: Sequence[_Turn], rounds: int) -> Iterator[_Turn]:
    """Yields each turn once a round, in an order that shifts from round to round."""
    for number in range(rounds):
        lab.say(f"{name}, round {number + 1} of {rounds} ...")
        shift = (number * math.ceil(len(turns) * 0.38)) % len(turns)
        yield from (*turns[shift:], *turns[:shift])


@contextlib.contextmanager
def _or_skip(lab: Lab, case: str, who: str) -> Iterator[None]:
    """Lets a contestant that fails be left out, with its reason, while the others go on."""
    try:
        yield
    except (Failed, LoadFailed) as error:
        lab.skip(case, who, str(error))


PARTS: dict[str, Callable[[Lab, Pace, Sequence[str]], None]] = {
    "callers": callers,
    "batch": batches,
    "load": load_curve,
    "beside": beside,
    "memory": memory,
}
