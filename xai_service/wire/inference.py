"""The Open Inference Protocol, spoken to clients of KServe and Triton: decode, call the service, encode.

Handlers take and give bytes, as those of `xai.v1` do.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from xai_service import __version__, trace_context
from xai_service.errors import FieldViolation, InvalidInput, ModelError, NotFound
from xai_service.wire.fields import in_field, parse
from xai_service.wire.gen.inference import grpc_service_pb2 as pb
from xai_service.wire.handlers import unary
from xai_service.wire.inference_codec import decode_infer, encode_infer, in_their_terms
from xai_service.wire.inference_models import InferenceSignature, encode_config, encode_index, encode_metadata
from xai_service.wire.inference_statistics import Duration, InferenceStatistics
from xai_service.wire.questions import Question, arrival_of
from xai_service.wire.status import to_status
from xai_service.wire.streams import Streams

if TYPE_CHECKING:
    from xai_service.model.snapshot import ModelSnapshot
    from xai_service.service import ExplainService
    from xai_service.types import Arrival
    from xai_service.waves import PredictReply
    from xai_service.wire.pool import LightPool

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE_NAME: str = _DESCRIPTOR.full_name
MODEL_INFER = f"/{SERVICE_NAME}/ModelInfer"
EXTENSIONS = ("model_configuration", "parameters", "schedule_policy", "statistics")
"""By Triton's names. Of `model_repository` there is the index alone."""


def methods(servicer: InferenceServicer, pool: LightPool, streams: Streams) -> dict[str, grpc.RpcMethodHandler]:
    """Returns the handlers of the protocol's methods by full name, but for ModelInfer's (`InferenceServicer.read`).

    Args:
        servicer: answers them.
        pool: where they are worked on.
        streams: which ModelStreamInfer shares with other streams.
    """
    handlers = {
        method.name: unary(pool, _messages(getattr(servicer, method.name), method))
        for method in _DESCRIPTOR.methods
        if method.name not in ("ModelInfer", "ModelStreamInfer")
    }
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(streams.handler(servicer.answer_streamed))
    return {f"/{SERVICE_NAME}/{name}": handler for name, handler in handlers.items()}


class InferenceServicer:
    """What each method answers, message by message; the two that infer, which are asked most, take and return bytes."""

    def __init__(self, service: ExplainService) -> None:
        self._service = service
        self._statistics = InferenceStatistics()
        # By weak reference: what is known of a model goes with it.
        self._signatures: weakref.WeakKeyDictionary[ModelSnapshot, InferenceSignature] = weakref.WeakKeyDictionary()

    def ServerLive(self, request: Any) -> Any:  # noqa: ARG002, N802 (the protocol's names)
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any) -> Any:  # noqa: ARG002, N802
        return pb.ServerReadyResponse(ready=any(entry.snapshot is not None for entry in self._service.models()))

    def ModelReady(self, request: Any) -> Any:  # noqa: N802
        try:
            self._model(request.name, request.version)
        except (NotFound, ModelError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any) -> Any:  # noqa: ARG002, N802
        return pb.ServerMetadataResponse(name="xai-service", version=__version__, extensions=EXTENSIONS)

    def ModelMetadata(self, request: Any) -> Any:  # noqa: N802
        model = self._model(request.name, request.version)
        return encode_metadata(model, self._signature(model), self._service.models())

    def ModelConfig(self, request: Any) -> Any:  # noqa: N802
        model = self._model(request.name, request.version)
        return encode_config(model, self._signature(model))

    def RepositoryIndex(self, request: Any) -> Any:  # noqa: N802
        return encode_index(self._service.models(), ready=request.ready)

    def ModelStatistics(self, request: Any) -> Any:  # noqa: N802
        if request.name:
            self._model(request.name, request.version)  # raises where there is none
        entries = [
            entry
            for entry in self._service.models()
            if entry.snapshot is not None
            and request.name in ("", entry.name)
            and request.version in ("", entry.version)
        ]
        return pb.ModelStatisticsResponse(model_stats=[self._counts(entry.name, entry.version) for entry in entries])

    def read(self, data: bytes, arrival: Arrival) -> Question:
        """Reads an encoded request of ModelInfer."""
        return self._question(parse(pb.ModelInferRequest, data), arrival)

    def answer_streamed(self, data: bytes, context: Any) -> bytes:
        """Returns the serialized answer to one request of a stream, whatever came of it."""
        request = pb.ModelInferRequest()
        arrival = arrival_of(context)
        trace_context.enter(arrival.trace)
        try:
            request = parse(pb.ModelInferRequest, data)
            # What is joined is merged: a message that holds this one, without taking it apart.
            return in_field(_INFER_RESPONSE, self._question(request, arrival).ask(self._service))
        except Exception as error:  # noqa: BLE001 (one request's failure is not the stream's)
            status = to_status(error)
            answer = pb.ModelStreamInferResponse(error_message=f"{status.code.name}: {status.details}")
            answer.infer_response.id = request.id
            answer.infer_response.model_name = request.model_name
            answer.infer_response.model_version = request.model_version
            failed: bytes = answer.SerializeToString()
            return failed

    def _question(self, request: Any, arrival: Arrival) -> Question:
        started_ns = time.monotonic_ns()
        model = self._model(request.model_name, request.model_version, "model_name")
        name, version = model.manifest.name, model.manifest.version

        def failed(error: Exception) -> Exception:
            self._statistics.failed(name, version, time.monotonic_ns() - started_ns)
            return in_their_terms(error) if isinstance(error, InvalidInput) else error

        try:
            signature = self._signature(model)
            call = decode_infer(request, signature, arrival)
        except Exception as error:
            raise failed(error) from error
        decoded_ns = time.monotonic_ns()

        def write(reply: PredictReply) -> bytes:
            inferred_ns = time.monotonic_ns()
            asked, served = signature, version
            if reply.model is not model:  # it was replaced meanwhile
                asked, served = self._signature(reply.model), reply.model.manifest.version
            response = encode_infer(reply, call.outputs, request.id, asked)
            self._statistics.answered(
                name,
                served,
                len(reply.decision_ids),
                decode_ns=decoded_ns - started_ns,
                infer_ns=inferred_ns - decoded_ns,
                encode_ns=time.monotonic_ns() - inferred_ns,
            )
            return response

        return Question(call.predict, write, failed)

    def _model(self, name: str, version: str, field: str = "name") -> ModelSnapshot:
        if not name:
            raise InvalidInput(FieldViolation(field, "is empty; name the model"))
        return self._service.model(name, version or None)

    def _signature(self, model: ModelSnapshot) -> InferenceSignature:
        return self._signatures.get(model) or self._signatures.setdefault(model, InferenceSignature.of(model))

    def _counts(self, name: str, version: str) -> Any:
        counts = self._statistics.of(name, version)

        def duration(one: Duration) -> Any:
            return pb.StatisticDuration(count=one.count, ns=one.ns) if one.count else None

        return pb.ModelStatistics(
            name=name,
            version=version,
            last_inference=counts.last_ms,
            inference_count=counts.rows,
            execution_count=counts.success.count,
            inference_stats=pb.InferStatistics(
                success=duration(counts.success),
                fail=duration(counts.fail),
                queue=duration(counts.queue),
                compute_input=duration(counts.decode),
                compute_infer=duration(counts.infer),
                compute_output=duration(counts.encode),
            ),
        )


def _messages(answer: Callable[[Any], Any], method: Any) -> Callable[[bytes], bytes]:
    kind = getattr(pb, method.input_type.name)
    return lambda data: answer(parse(kind, data)).SerializeToString()


_INFER_RESPONSE = pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
