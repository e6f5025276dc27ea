"""Which headers name a trace (W3C Trace Context, version 00), and how long it lasts."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from xai_service import trace_context

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_a_trace_is_taken_from_the_metadata_and_ends_with_the_next_request():
    trace_context.enter(trace_context.of([("user-agent", "x"), ("traceparent", PARENT), ("bin-bin", b"\xff")]))
    assert trace_context.trace_id() == TRACE
    assert trace_context.headers() == {"traceparent": PARENT}
    trace_context.enter(trace_context.of([("tracestate", "a=b"), ("traceparent", PARENT)]))
    assert trace_context.headers() == {"traceparent": PARENT, "tracestate": "a=b"}
    trace_context.enter(trace_context.of([("tracestate", "a=b")]))
    assert trace_context.trace_id() is None
    assert trace_context.headers() == {}


def test_threads_have_their_own():
    trace_context.enter(trace_context.of([("traceparent", PARENT)]))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(trace_context.trace_id()))
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        TRACE,
        PARENT.upper(),
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}0",
        f"{PARENT}\n",
        f" {PARENT}",
        PARENT[:-1],
        PARENT.replace("a", "٣"),
    ],
)
def test_what_names_no_trace_is_passed_over(wrong):
    trace_context.enter(trace_context.of([("traceparent", wrong)]))
    assert trace_context.trace_id() is None
    assert trace_context.headers() == {}


def digits(n):
    return st.sampled_from(["0" * n, "f" * n]) | st.text("0123456789abcdef", min_size=n, max_size=n)


@given(st.tuples(*map(digits, (2, 32, 16, 2))).map("-".join))
def test_opentelemetry_reads_the_same(header):
    trace_context.enter(trace_context.of([("traceparent", header)]))
    context = TraceContextTextMapPropagator().extract({"traceparent": header})
    read = trace.get_current_span(context).get_span_context()
    assert trace_context.trace_id() == (trace.format_trace_id(read.trace_id) if read.is_valid else None)
