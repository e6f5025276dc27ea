"""The log's two forms, and what is kept out of both."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import sys
import warnings
from datetime import datetime, timedelta

import pytest

from xai_service import trace_context
from xai_service.errors import FieldViolation, InvalidInput, Unavailable
from xai_service.logs import JsonFormatter, TextFormatter, logging_to_stderr

MARKER = "271828.25"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def record(message="model %s is ready", *arguments, error=None, **extra):
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("xai_service.model", logging.ERROR, __file__, 1, message, arguments or None, exc_info)
    made.__dict__.update(extra)
    return made


def told(**given):
    line = JsonFormatter().format(record(**given))
    assert line.isascii()
    assert "\n" not in line
    return json.loads(line)


def raised(error, cause=None):
    """The error as it is caught, if need be while the other one is handled."""
    with contextlib.suppress(type(error)):
        try:
            if cause is not None:
                _raise(cause)
        except type(cause):
            _raise(error)
        _raise(error)
    return error


def _raise(error):
    raise error


@pytest.fixture(autouse=True)
def _no_trace():
    trace_context.enter(trace_context.of(()))
    yield
    trace_context.enter(trace_context.of(()))


def test_an_event_is_an_object():
    event = told(message="model loan is ready", model="loan")
    time = datetime.fromisoformat(event.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert event == {
        "level": "ERROR",
        "logger": "xai_service.model",
        "message": "model loan is ready",
        "model": "loan",
    }


def test_whatever_is_in_it_is_one_line():
    message = 'a\nb\r\u2028"\x1b[2J\ud800é'
    assert told(message=message)["message"] == message


def test_the_callers_trace_is_in_it_where_it_is_one():
    for header, expected in ((f"00-{TRACE}-b7ad6b7169203331-01", TRACE), (MARKER, None)):
        trace_context.enter(trace_context.of([("traceparent", header)]))
        assert told(message="x").get("trace_id") == expected


def test_an_error_that_is_logged_is_told_by_its_class_and_frames():
    event = told(message="it failed", error=raised(Unavailable("the disk is full")))
    assert event["error"] == "Unavailable"
    assert event["stack"].splitlines()[0].endswith("in raised")
    assert event["stack"].endswith("Unavailable: the disk is full")
    formatter = JsonFormatter()
    event = json.loads(formatter.format(record("it is refused: %s", Unavailable("the disk is full"))))
    assert (event["message"], event["error"]) == ("it is refused: the disk is full", "Unavailable")
    assert "stack" not in event


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
@pytest.mark.parametrize(
    "error",
    [
        raised(ValueError(MARKER)),
        raised(KeyError(MARKER)),
        raised(InvalidInput(FieldViolation("input", MARKER))),
        raised(Unavailable("full"), cause=TypeError(MARKER)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_may_quote_a_request_is_not_logged(formatter, error):
    line = formatter.format(record("it failed", error=error))
    assert MARKER not in line
    assert type(error).__name__ in line
    assert "in raised" in line
    assert "may quote the request" in line


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), sqlite3.OperationalError("locked"), MemoryError("bad")]
)
def test_what_cannot_is(error):
    text = TextFormatter().format(record("it failed", error=raised(error)))
    assert text.splitlines()[-1] == f"  {type(error).__name__}: {error}"


def test_no_line_of_an_event_passes_for_another_event():
    hostile = "a\n2030-01-31T12:00:00.123Z INFO xai_service: all is well"
    first, *rest = TextFormatter().format(record("x: %s", hostile, error=raised(OSError(hostile)))).splitlines()
    assert first.endswith("ERROR xai_service.model: x: a")
    assert len(rest) > 3
    assert all(line.startswith("  ") for line in rest)


def test_errors_of_each_other_are_told_once():
    one, other = ValueError("1"), RuntimeError("2")
    one.__cause__, other.__cause__ = other, one
    assert told(message="x", error=one)["stack"].count("\n") == 1


def test_every_line_is_json_while_it_lasts(capsys, monkeypatch):
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    with logging_to_stderr("info", "json"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("xai_service").debug("not this")
        logging.getLogger("xai_service").info("this")
        warnings.warn("and this", stacklevel=1)
    print("nor that", file=sys.stderr)  # noqa: T201
    *events, after = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["logger"] for line in events] == ["xai_service", "py.warnings"]
    assert after == "nor that"
