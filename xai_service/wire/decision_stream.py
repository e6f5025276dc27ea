"""PredictStream of `xai.v1`: each message of a stream as Predict would answer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xai_service.wire import codec
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.status import to_message

if TYPE_CHECKING:
    from xai_service.service import ExplainService
    from xai_service.wire.streams import Answer


def answer_with(service: ExplainService) -> Answer:
    """Returns what answers one `PredictStreamRequest`, whatever comes of it."""

    def answer(message: Any, context: Any) -> pb.PredictStreamResponse:
        try:
            call = codec.decode_predict(message.request, codec.time_remaining(context.time_remaining()))
            return pb.PredictStreamResponse(id=message.id, response=codec.encode_predict(service.predict(call)))
        except Exception as error:  # noqa: BLE001 (one request's failure is not the stream's)
            status = to_message(error)
            failure = pb.CallError(code=status.code, message=status.message, details=status.details)
            return pb.PredictStreamResponse(id=message.id, error=failure)

    return answer
