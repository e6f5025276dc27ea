"""How long an explanation may be waited for. Pure arithmetic on a monotonic clock that the caller reads.

The budget of a request is the least of three: the transport's deadline, the request's own ``latency_budget_ms`` and the
model's default. A reserve for recording and replying is taken off. Only the *explanation* is bound by it: the
prediction is made in any case while the transport's deadline has not passed.

What recording and replying take is learnt (`ReplyCost`): the reserve is no greater than it need be, nor than is set,
but for what many rows add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xai_service.errors import BudgetExhausted, FieldViolation, InvalidInput


@dataclass(frozen=True, slots=True)
class Deadline:
    """When to stop waiting for the explanation.

    Attributes:
        explain_until_ns: on the clock of ``now_ns``; ``None``: no limit.
        budget_ms: the budget in force, before the reserve; ``None``: no limit.
    """

    explain_until_ns: int | None
    budget_ms: float | None

    @classmethod
    def open(
        cls,
        now_ns: int,
        *,
        transport_s: float | None,
        requested_ms: float | None,
        default_ms: float | None,
        reserve_ms: float,
    ) -> Deadline:
        """Returns the deadline of a request that arrives at ``now_ns``.

        Args:
            now_ns: nanoseconds on a monotonic clock.
            transport_s: seconds left of the caller's gRPC deadline, ``None`` without one.
            requested_ms: the request's ``latency_budget_ms``, ``None`` without one.
            default_ms: the model's, ``None`` without one.
            reserve_ms: kept back for recording and replying.

        Raises:
            InvalidInput: the requested budget is not a positive, finite number.
            BudgetExhausted: the transport's deadline has passed.
        """
        if requested_ms is not None and not (math.isfinite(requested_ms) and requested_ms > 0):
            raise InvalidInput(
                FieldViolation("latency_budget_ms", f"{requested_ms} is not a positive number of milliseconds")
            )
        if transport_s is not None and transport_s <= 0:
            raise BudgetExhausted("the deadline passed before the request was looked at")
        transport_ms = None if transport_s is None else transport_s * 1e3
        limits = [ms for ms in (transport_ms, requested_ms, default_ms) if ms is not None]
        # gRPC without a deadline may say so with centuries; those are no limit either.
        budget_ms = min(limits, default=math.inf)
        if budget_ms > 1e12:
            return cls(None, None)
        return cls(now_ns + int((budget_ms - reserve_ms) * 1e6), budget_ms)

    def remaining_s(self, now_ns: int) -> float | None:
        """Returns the seconds left for the explanation, 0 when past; ``None``: no limit."""
        return None if self.explain_until_ns is None else max(0.0, (self.explain_until_ns - now_ns) / 1e9)

    def until_ns(self) -> float:
        """Returns when to stop waiting, on the monotonic clock; infinite without a limit."""
        return math.inf if self.explain_until_ns is None else self.explain_until_ns

    def remaining_us(self, now_ns: int) -> float:
        """Returns the microseconds left for the explanation, 0 when past; infinite without a limit."""
        return math.inf if self.explain_until_ns is None else max(0.0, (self.explain_until_ns - now_ns) / 1e3)


class ReplyCost:
    """Learns how long it is from a request's answers to its reply, and what each of many rows adds to it.

    Exponentially weighted means. Not locked: an update lost between threads costs one observation.
    """

    _WEIGHT = 0.1
    _MARGIN = 2.0  # a reserve is for the slow request, not for the mean one
    _MIN_ROWS = 32  # in smaller requests the commit outweighs the rows

    def __init__(self) -> None:
        self._ms = math.inf  # of few rows
        self._ms_per_row = 0.05

    def observe(self, rows: int, elapsed_ms: float) -> None:
        """Takes note that answering ``rows`` rows took ``elapsed_ms`` milliseconds."""
        if rows >= self._MIN_ROWS:
            self._ms_per_row += self._WEIGHT * (elapsed_ms / rows - self._ms_per_row)
        elif math.isinf(self._ms):
            self._ms = elapsed_ms
        else:
            self._ms += self._WEIGHT * (elapsed_ms - self._ms)

    def reserve_ms(self, rows: int, most_ms: float) -> float:
        """Returns the milliseconds to keep back for ``rows`` rows: ``most_ms`` or less, and what the rows add."""
        return min(most_ms, self._MARGIN * self._ms) + self._MARGIN * self._ms_per_row * (rows - 1)
