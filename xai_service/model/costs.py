"""What it costs to predict and to explain a batch: timed when a model is loaded, corrected as it serves.

A batch of n rows takes fixed + n · per row, with one such line for few rows and one for many, since the kernel explains
these by different variants. Loading spends some tens of milliseconds on finding the lines, and no more than a few rows'
time where a row alone takes longer than that.

What a machine at work adds (other requests, other processes, more than one worker) is learnt by `Pace` from the
explanations that were served.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from xai_service.errors import InvalidModel
from xai_service.types import Float32Array

FEW_ROWS = 8  # fewer than this are few: PathDependentExplainer::kManyRows
_SIZES = (1, 16, 64, 4)  # each tells whether the next is affordable; the kernel's lanes are full at 16
_TURNS = 5
_LIMIT_US = 60_000.0
_MOST_ASKED_US = 120e6


@dataclass(frozen=True, slots=True)
class Line:
    """Microseconds for a batch and for each of its rows."""

    fixed_us: float
    row_us: float

    def us(self, rows: float) -> float:
        """Returns the microseconds for so many rows."""
        return self.fixed_us + rows * self.row_us


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What a batch costs in one thread."""

    few: Line
    many: Line

    def us(self, rows: int, workers: int = 1) -> float:
        """Returns the microseconds for so many rows, where they can be shared by so many workers."""
        if rows < FEW_ROWS:
            return self.few.us(max(1.0, rows / workers))
        return self.many.us(max(float(min(rows, FEW_ROWS)), rows / workers))


@dataclass(frozen=True, slots=True)
class Costs:
    """A model's, as calibrated when it was loaded."""

    predict: BatchCost
    explain: BatchCost

    def predict_us(self, rows: int) -> float:
        """Returns the microseconds that ONNX Runtime takes for so many rows."""
        return self.predict.us(rows)

    def explain_us(self, rows: int, workers: int = 1) -> float:
        """Returns the microseconds that so many rows' attributions take on idle workers."""
        return self.explain.us(rows, workers)


class Pace:
    """How much slower explanations come than calibrated. No lock: an update lost between threads is one of many.

    An exponentially weighted mean of observed over calibrated time, in which one stall counts for little. Whatever it
    says, every `_TRY_EVERY`-th explanation that it would put off is tried, and if that is in time its word replaces the
    mean: a pace that is wrong cannot put off explanations for ever.
    """

    _WEIGHT = 0.1
    _MOST = 4.0  # of the mean: what one observation counts for at most
    _MARGIN = 1.2  # an explanation awaited in vain costs its caller the whole budget
    _TRY_EVERY = 16

    def __init__(self) -> None:
        self._factor = 1.0
        self._put_off = 0

    def estimate_us(self, calibrated_us: float) -> float:
        """Returns the microseconds to reckon with."""
        return self._MARGIN * self._factor * calibrated_us

    def fits(self, calibrated_us: float, left_us: float) -> bool:
        """Returns whether to begin an explanation when ``left_us`` are left for it."""
        if self.estimate_us(calibrated_us) <= left_us:
            self._put_off = 0
            return True
        self._put_off += 1
        return self._put_off % self._TRY_EVERY == 0

    def ready(self, calibrated_us: float, took_us: float) -> None:
        """Takes note of an explanation that came in time."""
        factor = took_us / calibrated_us
        if self._put_off:
            self._factor = factor
        else:
            self._factor += self._WEIGHT * (min(factor, self._MOST * self._factor) - self._factor)

    def late(self, calibrated_us: float, waited_us: float) -> None:
        """Takes note of one that did not: it would have taken longer than ``waited_us``."""
        factor = min(waited_us / calibrated_us, self._MOST * self._factor)
        self._factor += self._WEIGHT * max(0.0, factor - self._factor)


class Order:
    """Whether to explain while predicting or after it, by what each took of late. No lock, as in `Pace`.

    The wall time of a row, predicted and explained, is averaged for both; the lesser one is chosen, and every
    `_TRY_EVERY`-th time the other, since what is best changes with the load.
    """

    _WEIGHT = 0.1
    _MOST = 4.0  # of the mean: what one observation counts for at most
    _TRY_EVERY = 64

    def __init__(self) -> None:
        self._us: list[float | None] = [None, None]  # at once, in turn
        self._turns = 0

    def in_turn(self) -> bool:
        """Returns whether to explain after predicting, in the same thread."""
        self._turns += 1
        at_once, in_turn = self._us
        if at_once is None or in_turn is None:
            return at_once is not None
        return (in_turn < at_once) != (self._turns % self._TRY_EVERY == 0)

    def took(self, us: float, *, in_turn: bool) -> None:
        """Takes note of the microseconds that a row took."""
        mean = self._us[in_turn]
        self._us[in_turn] = us if mean is None else mean + self._WEIGHT * (min(us, self._MOST * mean) - mean)


def calibrate(
    predict: Callable[[Float32Array], object], explain: Callable[[Float32Array], object], rows: Float32Array
) -> Costs:
    """Returns what both cost, timed on batches of the rows given."""
    return Costs(timed(predict, rows), timed(explain, rows))


def calibrate_asked(predict: Callable[[Float32Array], object], evaluations: int, rows: Float32Array) -> Costs:
    """Returns what a model costs that is explained by asking it, so many times for each row.

    Raises:
        InvalidModel: explaining a row would take longer than anybody waits.
    """
    cost = timed(predict, rows)
    row_us = cost.many.row_us * evaluations
    if row_us > _MOST_ASKED_US:
        raise InvalidModel(
            f"explaining one row would take {row_us / 1e6:.0f} s, as the model is asked about {evaluations} rows for "
            "it: give fewer rows of background, or a smaller model"
        )
    line = Line(cost.few.fixed_us, row_us)
    return Costs(cost, BatchCost(line, line))


def timed(
    work: Callable[[Float32Array], object], rows: Float32Array, now_ns: Callable[[], int] = time.perf_counter_ns
) -> BatchCost:
    """Returns the cost of ``work`` by the median of a few calls for each of a few sizes, other rows in each call.

    Sizes that would pass the limit, to judge by the ones before, are left out; then rows are taken to cost the same in
    any batch.
    """
    took: dict[int, float] = {}
    left_us, row_us = _LIMIT_US, 0.0
    for size in _SIZES:
        if size > len(rows) or size * row_us > left_us:
            continue
        turns: list[float] = []
        share_us = left_us / 2
        while len(turns) < _TURNS and (not turns or turns[-1] <= share_us):
            begin = (len(turns) * size) % (len(rows) - size + 1)
            started = now_ns()
            work(rows[begin : begin + size])
            turns.append(max(1e-3, (now_ns() - started) / 1e3))
            share_us -= turns[-1]
        left_us -= sum(turns)
        took[size] = statistics.median_low(turns)
        row_us = took[size] / size
    few = _line(took, 1, 4) or Line(0.0, took[1])
    return BatchCost(few, _line(took, 16, 64) or Line(few.fixed_us, few.row_us))


def _line(took: dict[int, float], small: int, large: int) -> Line | None:
    if small not in took:
        return None
    if large not in took:
        return Line(0.0, took[small] / small)
    row_us = max(1e-3, (took[large] - took[small]) / (large - small))
    return Line(max(0.0, took[small] - small * row_us), row_us)
