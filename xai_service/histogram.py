"""A histogram of fixed buckets: two additions for an observation, and text only when somebody asks."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Self

import numpy as np

from xai_service.types import Float64Array


class Histogram:
    """Counts observations by the least bound that is not below them. Not thread-safe: its owner has the lock.

    Args:
        bounds: upper bounds of the buckets, increasing and finite; one more bucket takes what is above the last.

    Attributes:
        bounds: as given.
        counts: observations of each bucket, one more than there are bounds.
        sum: of all finite observations.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Adds one finite value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Float64Array) -> None:
        """Adds float64 (n,) values; NaN is none, and an infinity counts in the last bucket, but not in the sum."""
        values = values[~np.isnan(values)]
        for bucket, more in enumerate(np.bincount(np.searchsorted(self.bounds, values)).tolist()):
            self.counts[bucket] += more
        self.sum += float(values[np.isfinite(values)].sum())

    def add(self, other: Histogram) -> None:
        """Adds what another one of the same bounds has seen."""
        for bucket, more in enumerate(other.counts):
            self.counts[bucket] += more
        self.sum += other.sum

    def copy(self) -> Self:
        """Returns it as it stands."""
        twin = copy.copy(self)
        twin.counts = self.counts.copy()
        return twin

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yields each bound, infinity last, and how many observations are not above it."""
        return zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)


def one_two_five(first: int, last: int) -> tuple[float, ...]:
    """Returns the bounds 1, 2 and 5 of each decade from 10^first up to 10^last, which is the last bound."""
    return (*(digit * 10.0**power for power in range(first, last) for digit in (1, 2, 5)), 10.0**last)
