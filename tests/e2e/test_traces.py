"""Spans of real requests: whose trace they continue, when they say things happened, and what they do not say."""

from __future__ import annotations

import json
import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.conftest import serving
from tests.inference import Stub, matrix, unhurried
from tests.inference import request as inference_request
from xai_service import tracing
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "vendor=value"))


@pytest.fixture
def spans(monkeypatch):
    """What is sent, in the order in which it ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("xai_service.service.open_tracer", lambda _: tracing.RequestTracer(provider))
    return exporter.get_finished_spans


@pytest.fixture
def channel(spans, loan_repository, tmp_path):  # noqa: ARG001 (the tracer has to be there first)
    """To a real server."""
    with (
        serving(loan_repository, tmp_path / "l") as server,
        grpc.insecure_channel(server.addresses[0]) as channel,
    ):
        yield channel


@pytest.fixture
def predict(channel):
    """Calls it with a trace's headers."""
    stub = pb_grpc.DecisionServiceStub(channel)

    def call(rows, metadata=(), **fields):
        fields = {"model_name": "loan", "latency_budget_ms": 60_000, **fields}
        return stub.Predict(pb.PredictRequest(input=to_tensor(rows), **fields), timeout=30, metadata=metadata)

    return call


@pytest.fixture
def rows(loans):
    return loans.held_out.to_numpy(np.float32)


def test_a_request_continues_its_callers_trace(predict, spans, rows):
    before = time.time_ns()
    reply = predict(rows[:2], SAMPLED)
    after = time.time_ns()
    by_name = {span.name: span for span in spans()}
    assert set(by_name) == {"predict", "explain", "record", "xai.request"}
    request = by_name.pop("xai.request")
    assert trace.format_span_id(request.parent.span_id) == SPAN
    assert request.context.trace_state.get("vendor") == "value"
    assert request.kind is trace.SpanKind.SERVER
    assert {trace.format_trace_id(span.context.trace_id) for span in spans()} == {TRACE}
    for span in by_name.values():
        assert span.parent.span_id == request.context.span_id
        assert before <= request.start_time <= span.start_time <= span.end_time <= request.end_time <= after
    for name, span in (*by_name.items(), ("total", request)):
        told = getattr(reply.timings, f"{name}_us")
        assert (span.end_time - span.start_time) / 1e3 == pytest.approx(told, abs=0.01)
    predicted, explained, recorded = (by_name[name] for name in ("predict", "explain", "record"))
    both = min(predicted.end_time, explained.end_time) - max(predicted.start_time, explained.start_time)
    assert max(both, 0) / 1e3 == pytest.approx(reply.timings.overlap_us, abs=0.01)
    assert max(predicted.end_time, explained.end_time) <= recorded.start_time
    assert request.attributes == {
        "xai.model": "loan",
        "xai.version": "1",
        "xai.rows": 2,
        "xai.decision_id": reply.decision_ids[0],
        "xai.explanation": ("complete",),
        "xai.budget_ms": reply.timings.budget_ms,
        "xai.queue_us": request.attributes["xai.queue_us"],
        "xai.overlap_us": reply.timings.overlap_us,
    }


def test_so_does_one_in_the_open_inference_protocol(channel, spans, rows):
    stub = Stub(channel)
    asked = unhurried(inference_request(inputs=matrix(rows[:1])))
    stub.ModelInfer(asked, timeout=30, metadata=SAMPLED)
    assert _continued(spans()) == 1
    answers = stub.ModelStreamInfer(iter([asked] * 3), timeout=30, metadata=SAMPLED)
    assert [answer.error_message for answer in answers] == [""] * 3
    assert _continued(spans()) == 4


def test_and_each_of_a_stream(channel, spans, rows):
    stub = pb_grpc.DecisionServiceStub(channel)
    request = pb.PredictRequest(model_name="loan", latency_budget_ms=60_000, input=to_tensor(rows[:1]))
    asked = [pb.PredictStreamRequest(id=str(number), request=request) for number in range(3)]
    answers = list(stub.PredictStream(iter(asked), timeout=30, metadata=SAMPLED))
    assert [answer.WhichOneof("answer") for answer in answers] == ["response"] * 3
    assert _continued(spans()) == 3


def _continued(spans):
    """How many requests there are, each of which has to continue the caller's trace."""
    requests = [span for span in spans if span.name == "xai.request"]
    assert {trace.format_span_id(span.parent.span_id) for span in requests} == {SPAN}
    assert {trace.format_trace_id(span.context.trace_id) for span in spans} == {TRACE}
    return len(requests)


def test_without_an_explanation_there_is_no_span_of_one(predict, spans, rows):
    predict(rows[:1], explanation_mode=pb.EXPLANATION_MODE_NONE)
    assert [span.name for span in spans()] == ["predict", "record", "xai.request"]
    assert spans()[-1].parent is None  # a trace of its own
    assert spans()[-1].attributes["xai.explanation"] == ("not requested",)


def test_what_the_caller_does_not_sample_is_not_sent(predict, spans, rows):
    predict(rows[:1], (("traceparent", f"00-{TRACE}-{SPAN}-00"),))
    assert spans() == ()


def test_a_header_that_is_none_begins_a_trace(predict, spans, rows):
    predict(rows[:1], (("traceparent", "nonsense"),))
    assert spans()[-1].parent is None


def test_an_error_is_told_by_its_class_and_never_by_what_was_sent(predict, spans, rows):
    marker = 271828.25
    wrong = np.full_like(rows[:1], marker)
    wrong[0, 0] = np.inf
    for model in ("loan", "absent"):
        with pytest.raises(grpc.RpcError):
            predict(wrong, SAMPLED, model_name=model)
    predict(np.where(np.isnan(rows[:1]), rows[:1], marker), SAMPLED)
    refused, unknown = spans()[:2]
    assert refused.status.status_code is trace.StatusCode.ERROR
    assert refused.attributes == {"xai.model": "loan", "xai.version": "1", "error.type": "InvalidInput"}
    assert unknown.attributes == {"xai.model": "", "xai.version": "", "error.type": "ModelNotFound"}
    assert refused.events == unknown.events == ()
    assert "271828" not in json.dumps([span.to_json() for span in spans()])


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.requests = queue.SimpleQueue()

    def Export(self, request, context):  # noqa: ARG002, N802 (gRPC's names)
        self.requests.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def test_spans_reach_the_collector_that_the_environment_names(loans, loan_repository, tmp_path, monkeypatch):
    collector, server = _Collector(), grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment=test")
    try:
        with (
            serving(loan_repository, tmp_path / "l", traces="otlp") as service,
            grpc.insecure_channel(service.addresses[0]) as channel,
        ):
            row = to_tensor(loans.held_out.iloc[:1].to_numpy(np.float32))
            stub = pb_grpc.DecisionServiceStub(channel)
            stub.Predict(pb.PredictRequest(model_name="loan", input=row), timeout=30, metadata=SAMPLED)
        (resource_spans,) = collector.requests.get(timeout=30).resource_spans
    finally:
        server.stop(None).wait()
    resource = {one.key: one.value.string_value for one in resource_spans.resource.attributes}
    assert (resource["service.name"], resource["deployment"]) == ("xai-service", "test")
    sent = [span for scope in resource_spans.scope_spans for span in scope.spans]
    assert {"xai.request", "predict", "record"} <= {span.name for span in sent}
    assert {span.trace_id.hex() for span in sent} == {TRACE}


def test_a_collector_that_is_not_there_hinders_nobody(loans, loan_repository, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with (
        serving(loan_repository, tmp_path / "l", traces="otlp") as service,
        grpc.insecure_channel(service.addresses[0]) as channel,
    ):
        row = to_tensor(loans.held_out.iloc[:1].to_numpy(np.float32))
        stub = pb_grpc.DecisionServiceStub(channel)
        for _ in range(3):
            stub.Predict(pb.PredictRequest(model_name="loan", input=row), timeout=30, metadata=SAMPLED)


def test_off_loads_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    assert tracing.open_tracer("off") is None
    with pytest.raises(tracing.Unavailable, match=r"pip install 'xai-service\[otel\]'"):
        tracing.open_tracer("otlp")


def test_variables_that_cannot_be_understood_are_told(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(tracing.Unavailable, match=r"as the OTEL_\* variables say: .*soon"):
        tracing.open_tracer("otlp")
