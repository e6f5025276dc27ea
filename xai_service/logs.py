"""The log of a service, on stderr: a line of text or a JSON object for each event, never with what callers sent.

Messages of this package name models, rows by number and what went wrong. What other code says in an exception may quote
values (``could not convert string to float: '…'``): of those not known to be harmless, the class is logged and where it
was raised.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import textwrap
import time
import traceback
from collections.abc import Iterator
from typing import Any

from xai_service import trace_context
from xai_service.console.messages import as_message
from xai_service.errors import InvalidInput, XaiError

# Whose messages are of files, of memory and of the kernel; InvalidInput tells callers what they sent.
_HARMLESS = (XaiError, OSError, MemoryError, RuntimeError, sqlite3.Error)


class _Formatter(logging.Formatter):
    """Times in UTC, to the millisecond; exceptions without what they may quote."""

    converter = time.gmtime  # type: ignore[assignment]  # typeshed leaves out its default argument
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return _told(ei[1])


class TextFormatter(_Formatter):
    """``time level logger: message``, the rest of an event in lines that are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # what another handler's formatter left there says all
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return textwrap.indent(super().formatException(ei), "  ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return as_message(super().formatMessage(record))


class JsonFormatter(_Formatter):
    """One object a line, in ASCII: ``time``, ``level``, ``logger``, ``message``; where there are any ``model``,
    ``trace_id`` (the caller's), ``error`` (a class) and ``stack``.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "model": getattr(record, "model", None),
            "trace_id": trace_context.trace_id(),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields["stack"] = _told(error)
        else:
            arguments = record.args if isinstance(record.args, tuple) else ()
            error = next((one for one in arguments if isinstance(one, BaseException)), None)
        fields["error"] = None if error is None else type(error).__name__
        return json.dumps({name: value for name, value in fields.items() if value is not None}, default=str)


@contextlib.contextmanager
def logging_to_stderr(level: str, form: str) -> Iterator[None]:
    """Logs while it lasts; stdout is for results.

    Args:
        level: the least severe to log: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``text`` or ``json``, which takes Python's warnings in, and silences gRPC's core, whose lines are no JSON.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if form == "json":
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        logging.captureWarnings(capture=True)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        logging.captureWarnings(capture=False)


def _told(error: BaseException | None) -> str:
    """Returns an exception's class and frames, and those of what it came of, first what came first."""
    parts: list[str] = []
    known: set[int] = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        name = type(error).__name__
        quotes = isinstance(error, InvalidInput) or not isinstance(error, _HARMLESS)
        head = f"{name} (its message may quote the request)" if quotes else as_message(f"{name}: {error}")
        parts.append("".join([*traceback.format_tb(error.__traceback__), head]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(reversed(parts))
