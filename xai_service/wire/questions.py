"""Requests for predictions as the wire knows them: what to ask the service, and how to say what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xai_service import trace_context
from xai_service.types import Arrival, PredictCall
from xai_service.waves import PredictReply
from xai_service.wire.access import caller_of

if TYPE_CHECKING:
    from xai_service.service import ExplainService


def _as_it_is(error: Exception) -> Exception:
    return error


@dataclass(slots=True)
class Question:
    """One request that was read.

    Attributes:
        call: what to ask.
        write: returns the encoded answer.
        in_their_terms: returns an error of the service as the protocol has it.
    """

    call: PredictCall
    write: Callable[[PredictReply], bytes]
    in_their_terms: Callable[[Exception], Exception] = _as_it_is

    def ask(self, service: ExplainService) -> bytes:
        """Returns the encoded answer, asked for alone. Raises its error in the protocol's terms."""
        try:
            reply = service.predict(self.call)
        except Exception as error:
            raise self.in_their_terms(error) from error
        return self.write(reply)


Read = Callable[[bytes, Arrival], Question]
"""Reads an encoded request, or raises what is wrong with it."""


def arrival_of(context: Any, at_ns: int = 0, behind: int = 0) -> Arrival:
    """Returns how a request came.

    Args:
        context: gRPC's.
        at_ns: see `Arrival`.
        behind: see `Arrival`.
    """
    remaining_s = context.time_remaining()
    return Arrival(
        None if remaining_s is None or math.isinf(remaining_s) else remaining_s,
        caller_of(context),
        at_ns,
        behind,
        trace_context.of(context.invocation_metadata()),
    )
