"""When requests are meant to start. Pure arithmetic: it takes ``now``, and neither sleeps nor looks at a clock.

Callers that arrive at a constant rate do not wait for one another. A load generator has a bounded number of them, so
when the service falls behind, a request starts later than it was meant to. Timed from its actual start it would look
quick, and the queue that it stood in would be nowhere in the figures. So each is timed from its *intended* start, and
those whose time came while nobody was free to send them are counted.
"""

from __future__ import annotations

import math


class Arrivals:
    """One sequence of intended starts, from which all callers of a kind take the next: start, start + 1/rate, …

    Args:
        rate_per_s: arrivals a second; 0 for callers that each send when their last request is answered (a closed loop).
        start_s: when the first is meant to start, on the clock that ``now`` is read from.

    Raises:
        ValueError: the rate is negative or not finite.
    """

    def __init__(self, rate_per_s: float, start_s: float) -> None:
        if not 0 <= rate_per_s < math.inf:
            raise ValueError(
                f"an arrival rate of {rate_per_s} a second: it must be 0 (a closed loop) or more, and finite"
            )
        self.rate_per_s, self.start_s, self.taken = rate_per_s, start_s, 0

    def take(self, now_s: float) -> float:
        """Returns when the next request is meant to start: later than ``now_s``, or earlier when callers are behind."""
        number, self.taken = self.taken, self.taken + 1
        # Not by adding 1/rate each time: its rounding would add up.
        return self.start_s + number / self.rate_per_s if self.rate_per_s else now_s

    def unsent(self, now_s: float) -> int:
        """Returns how many were meant to have started before ``now_s`` that nobody has taken."""
        if not self.rate_per_s or now_s <= self.start_s:
            return 0
        return max(0, math.ceil((now_s - self.start_s) * self.rate_per_s) - self.taken)
