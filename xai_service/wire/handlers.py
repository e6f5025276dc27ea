"""Which function answers which method, from bytes to bytes; and what answers when there is no room for another call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from xai_service import trace_context
from xai_service.errors import InvalidInput, Overloaded
from xai_service.types import Arrival
from xai_service.wire import codec, decision_stream
from xai_service.wire.fields import parse
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.questions import Question, Read
from xai_service.wire.status import to_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from xai_service.service import ExplainService
    from xai_service.telemetry import Telemetry
    from xai_service.wire.pool import LightPool
    from xai_service.wire.streams import Streams

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DecisionService"].full_name
PREDICT = f"/{SERVICE_NAME}/Predict"


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # no types there
    """Answers the methods given, while the pool has room.

    A call that is refused for want of room costs little: its message is not even received.

    Args:
        pool: where calls are worked on.
        methods: handlers by the method's full name, ``/package.Service/Method``.
        telemetry: is told of calls that are refused.
    """

    def __init__(self, pool: LightPool, methods: Mapping[str, grpc.RpcMethodHandler], telemetry: Telemetry) -> None:
        self._pool = pool
        self._methods = dict(methods)
        self._refusal = grpc.stream_unary_rpc_method_handler(_refusing(pool, telemetry))

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        """Returns what answers a call; asked by gRPC's own thread for each."""
        handler = self._methods.get(handler_call_details.method)
        if handler is None or handler.request_streaming or self._pool.has_room():  # streams have threads of their own
            return handler
        return self._refusal


def _refusing(pool: LightPool, telemetry: Telemetry) -> Callable[[Any, Any], None]:
    def refuse(_messages: Any, context: Any) -> None:
        error = Overloaded(f"{pool.waiting} calls wait already; try again")
        telemetry.refused("", None, error)
        context.abort_with_status(to_status(error))

    # A thread of its own, as those of the pool are all at work then. gRPC looks for this.
    refuse.experimental_thread_pool = ThreadPoolExecutor(1, "xai-refusals")  # type: ignore[attr-defined]
    return refuse


def unary(pool: LightPool, answer: Callable[[bytes], bytes]) -> grpc.RpcMethodHandler:
    """Returns the handler of a call of one message: what ``answer`` raises becomes the call's status.

    Messages are bytes, so that gRPC's one polling thread parses none, and one that is none is refused like other input.

    Args:
        pool: where it is worked on.
        answer: returns the encoded answer.
    """

    def handle(message: bytes, context: Any) -> bytes:
        trace_context.enter(trace_context.of(context.invocation_metadata()))
        pool.begin()
        try:
            return answer(message)
        except Exception as error:
            context.abort_with_status(to_status(error))
            raise  # abort raises; this tells the type checker so

    return grpc.unary_unary_rpc_method_handler(handle)


def reader(service: ExplainService) -> Read:
    """Returns what reads the requests of Predict."""

    def read(message: bytes, arrival: Arrival) -> Question:
        try:
            return Question(codec.read_predict(message, arrival), codec.write_predict)
        except InvalidInput as error:
            service.telemetry.refused(*codec.named_in(message), error)
            raise

    return read


def decision_methods(service: ExplainService, pool: LightPool, streams: Streams) -> dict[str, grpc.RpcMethodHandler]:
    """Returns the handlers of `xai.v1.DecisionService`, but for Predict's (`reader`)."""

    def get_decision(request: pb.GetDecisionRequest) -> pb.GetDecisionResponse:
        decision, explanation = service.decision(codec.decode_decision_id(request.decision_id))
        return pb.GetDecisionResponse(decision=codec.encode_decision(decision, explanation))

    def get_explanation(request: pb.GetExplanationRequest) -> pb.GetExplanationResponse:
        decision, explanation = service.decision(codec.decode_decision_id(request.decision_id))
        return pb.GetExplanationResponse(
            decision_id=str(decision.decision_id), explanation=codec.encode_explanation(explanation)
        )

    def list_models(_request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[codec.encode_model(entry) for entry in service.models()])

    def answered(answer: Callable[[Any], Message], kind: type[Message]) -> grpc.RpcMethodHandler:
        return unary(pool, lambda message: answer(parse(kind, message)).SerializeToString())

    methods = {
        "PredictStream": grpc.stream_stream_rpc_method_handler(streams.handler(decision_stream.answer_with(service))),
        "GetDecision": answered(get_decision, pb.GetDecisionRequest),
        "GetExplanation": answered(get_explanation, pb.GetExplanationRequest),
        "ListModels": answered(list_models, pb.ListModelsRequest),
    }
    return {f"/{SERVICE_NAME}/{name}": handler for name, handler in methods.items()}
