"""Requests on their way through the service, and those of them that share a pass: a wave.

A model of some hundred trees is larger than a core's cache, and reading it costs a request more than computing with it:
eight rows in one pass cost what three cost alone. So those that are there at the same time are answered together.
Nobody waits for others to come.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xai_service.types import Explanations, PredictCall, Prediction, Timings

if TYPE_CHECKING:
    from xai_service.budget import Deadline
    from xai_service.ledger.store import Ticket
    from xai_service.model.snapshot import ModelSnapshot

FEW_ROWS = 8
"""Of a request that may be answered together with others: more make it long for those that wait beside it."""


@dataclass(frozen=True, slots=True)
class PredictReply:
    """What one request is answered, row by row in the order sent."""

    model: ModelSnapshot
    decision_ids: tuple[uuid.UUID, ...]
    prediction: Prediction
    explanations: Explanations
    timings: Timings


class Request:
    """A request on its way, and at last its reply or its error.

    What has no value at first is set on the way, unless there is an error.
    """

    __slots__ = (
        *("arrived_ns", "began_ns", "call", "deadline", "error", "explanations", "has_place", "ids", "model"),
        *("prediction", "put_off", "queue_us", "reply", "wave"),
    )
    model: ModelSnapshot
    deadline: Deadline
    wave: Wave
    ids: tuple[uuid.UUID, ...]
    prediction: Prediction
    explanations: Explanations

    def __init__(self, call: PredictCall, began_ns: int) -> None:
        self.call = call
        self.began_ns = began_ns
        self.arrived_ns = call.arrival.at_ns or began_ns
        self.queue_us = 0.0
        self.has_place = False  # among the rows that are admitted
        self.put_off = ""  # why its explanation is not begun now
        self.reply: PredictReply | None = None
        self.error: Exception | None = None

    def may_share(self) -> bool:
        """Whether it may be answered together with others: small, and of numbers only."""
        return len(self.call.rows) <= FEW_ROWS and not self.call.columns


class Wave:
    """Requests that were predicted and explained in one pass, on their way to the ledger.

    Args:
        rows: of all requests that shared the pass.
        timings: of the pass.
        explained_ns: when it ended, `time.monotonic_ns`.

    Attributes:
        requests: those of them that are answered well.
        pending: rows whose explanation comes later.
        ticket: the ledger's; ``None`` where nothing is recorded.
    """

    __slots__ = ("explained_ns", "pending", "requests", "rows", "ticket", "timings")

    def __init__(self, rows: int, timings: Timings, explained_ns: int) -> None:
        self.rows = rows
        self.timings = timings
        self.explained_ns = explained_ns
        self.requests: list[Request] = []
        self.pending = 0
        self.ticket: Ticket | None = None
