"""PredictStream of `xai.v1`: each message of a stream as Predict would answer it, from bytes to bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xai_service import _wire, trace_context
from xai_service.wire import codec
from xai_service.wire.fields import in_field, parse
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.questions import arrival_of
from xai_service.wire.status import to_message

if TYPE_CHECKING:
    from xai_service.service import ExplainService
    from xai_service.wire.streams import Answer

_RESPONSE = pb.PredictStreamResponse.DESCRIPTOR.fields_by_name["response"].number


def answer_with(service: ExplainService) -> Answer:
    """Returns what answers one encoded `PredictStreamRequest`, whatever comes of it."""

    def answer(message: bytes, context: Any) -> bytes:
        name = ""
        arrival = arrival_of(context)
        trace_context.enter(arrival.trace)
        try:
            name, request = _apart(message)
            reply = codec.write_predict(service.predict(codec.read_predict(request, arrival)))
            # What is joined is merged: the answer's fields, without taking any of them apart.
            return pb.PredictStreamResponse(id=name).SerializeToString() + in_field(_RESPONSE, reply)
        except Exception as error:  # noqa: BLE001 (one request's failure is not the stream's)
            status = to_message(error)
            failure = pb.CallError(code=status.code, message=status.message, details=status.details)
            return pb.PredictStreamResponse(id=name, error=failure).SerializeToString()

    return answer


def _apart(message: bytes) -> tuple[str, bytes]:
    usual = _wire.read_envelope(message)
    if usual is not None:
        return usual
    request = parse(pb.PredictStreamRequest, message)
    return request.id, request.request.SerializeToString()
