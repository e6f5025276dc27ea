"""The trace that a request belongs to, as its caller names it (W3C Trace Context), for whatever runs in its thread."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar

Trace = tuple[str, str]
"""The headers as they came, unchecked: most requests send none, and of those that do only few are ever looked at."""
NONE: Trace = ("", "")
_HEADERS: ContextVar[Trace] = ContextVar("xai_trace_headers", default=NONE)
# Version ff is none; of later versions than 00 there may be more behind.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII
)


def of(metadata: Iterable[tuple[str, str | bytes]]) -> Trace:
    """Returns the trace that a request's metadata names."""
    traceparent = tracestate = ""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            traceparent = value
        elif key == "tracestate" and isinstance(value, str):
            tracestate = value
    return (traceparent, tracestate) if traceparent or tracestate else NONE


def enter(trace: Trace) -> None:
    """Makes it this thread's, until the next."""
    _HEADERS.set(trace)


def headers() -> dict[str, str]:
    """Returns the trace's headers, by name; empty where the request is of no trace, or names none that is valid."""
    traceparent, tracestate = _HEADERS.get()
    if not _TRACEPARENT.fullmatch(traceparent):
        return {}
    return {"traceparent": traceparent, "tracestate": tracestate} if tracestate else {"traceparent": traceparent}


def trace_id() -> str | None:
    """Returns the trace's id, 32 hexadecimal digits, or ``None``."""
    found = _TRACEPARENT.fullmatch(_HEADERS.get()[0])
    return found[1] if found else None
