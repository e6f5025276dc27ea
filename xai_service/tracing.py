"""OpenTelemetry spans of requests, made when they have ended from the stamps that they carry (extra ``otel``).

A request's span continues the trace that its caller sent (`xai_service.trace_context`); ``predict``, ``explain`` and
``record`` are its children, with the times at which they really began and ended. Nothing is measured for them: where it
is not sampled it pays for that decision, and without a tracer for nothing.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from xai_service import __version__, trace_context
from xai_service.errors import Unavailable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from xai_service.waves import PredictReply

_CLOSE_S = 2.0
_Nanoseconds = tuple[int, int]


class RequestTracer:
    """Makes spans. Thread-safe.

    Args:
        provider: what they are made by; shut down by `close`. Its sampler decides, by default as the caller's flag.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra, loaded by who uses it
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("xai_service", __version__)

    def done(self, reply: PredictReply) -> None:
        """Makes the spans of a request that has its reply."""
        timings, prediction, manifest = reply.timings, reply.prediction, reply.model.manifest
        if timings.arrived_ns is None or timings.total_us is None:
            return
        ended_ns = timings.arrived_ns + int(timings.total_us * 1e3)
        to_epoch = time.time_ns() - time.monotonic_ns()
        request = self._request((manifest.name, manifest.version), (timings.arrived_ns, ended_ns), to_epoch)
        if not request.is_recording():
            return
        request.set_attribute("xai.rows", len(reply.decision_ids))
        request.set_attribute("xai.decision_id", str(reply.decision_ids[0]))
        request.set_attribute("xai.explanation", sorted({one.value for one in reply.explanations.statuses}))
        for name, value in (
            ("xai.budget_ms", timings.budget_ms),
            ("xai.queue_us", timings.queue_us),
            ("xai.overlap_us", timings.overlap_us),
        ):
            if value is not None:
                request.set_attribute(name, value)
        stages: dict[str, _Nanoseconds] = {"predict": (prediction.started_ns, prediction.finished_ns)}
        if timings.explain_started_ns is not None and timings.explain_us is not None:
            stages["explain"] = (
                timings.explain_started_ns,
                timings.explain_started_ns + int(timings.explain_us * 1e3),
            )
        if timings.record_us is not None:
            stages["record"] = (ended_ns - int(timings.record_us * 1e3), ended_ns)
        within = self._trace.set_span_in_context(request)
        for name, (started_ns, finished_ns) in stages.items():
            stage = self._tracer.start_span(name, within, start_time=started_ns + to_epoch)
            stage.end(finished_ns + to_epoch)
        request.end(ended_ns + to_epoch)

    def refused(self, model: tuple[str, str], reason: str, began_ns: int, ended_ns: int) -> None:
        """Makes the span of a request that ended with an error. Its message is not in it: it may quote the request.

        Args:
            model: name and version, empty where the request named none that is known.
            reason: the error's class.
            began_ns: `time.monotonic_ns` of its beginning.
            ended_ns: and of its end.
        """
        to_epoch = time.time_ns() - time.monotonic_ns()
        request = self._request(model, (began_ns, ended_ns), to_epoch)
        if request.is_recording():
            request.set_attribute("error.type", reason)
            request.set_status(self._trace.Status(self._trace.StatusCode.ERROR, reason))
        request.end(ended_ns + to_epoch)

    def close(self) -> None:
        """Sends what is held and ends, but waits for that no longer than two seconds."""
        # The SDK's own timeouts are not kept: it would try for ten seconds to reach a collector that is not there.
        ending = threading.Thread(target=self._provider.shutdown, name="xai-traces-end", daemon=True)
        ending.start()
        ending.join(_CLOSE_S)

    def _request(self, model: tuple[str, str], stamps: _Nanoseconds, to_epoch: int) -> Any:
        return self._tracer.start_span(
            "xai.request",
            self._propagator.extract(trace_context.headers()),
            kind=self._trace.SpanKind.SERVER,
            attributes={"xai.model": model[0], "xai.version": model[1]},
            start_time=stamps[0] + to_epoch,
        )


def open_tracer(traces: str) -> RequestTracer | None:
    """Returns what the setting ``traces`` asks for: ``None`` for ``off``, for ``otlp`` an exporter as OTEL_* say.

    Raises:
        Unavailable: the extra is not installed, or a variable cannot be understood.
    """
    if traces == "off":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - as above
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable(f"traces need the extra: pip install 'xai-service[otel]' ({error})") from error
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    try:
        resource = Resource.create({} if named else {SERVICE_NAME: "xai-service"})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise Unavailable(f"traces cannot be set up as the OTEL_* variables say: {error}") from error
    return RequestTracer(provider)
