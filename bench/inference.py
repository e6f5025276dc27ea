"""The Open Inference Protocol as a client speaks it, when its generated code is there."""

from __future__ import annotations

import importlib
from typing import Any

from bench.tally import Outcome
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

_ATTRIBUTIONS, _STATUS = "treeshap_output", "explanation_status"


class Protocol:
    """Makes requests of our own ones, and reads replies.

    Attributes:
        method: the call's name, how a request is serialised and how a response is read: what a gRPC channel takes.

    Raises:
        ImportError: this version of the service does not speak it.
    """

    def __init__(self) -> None:
        self._pb = _generated()
        self.method = (
            "/inference.GRPCInferenceService/ModelInfer",
            self._pb.ModelInferRequest.SerializeToString,
            self._pb.ModelInferResponse.FromString,
        )

    def request(self, ours: pb.PredictRequest) -> Any:
        """Returns the same as a ModelInferRequest: raw contents, all outputs (attributions among them)."""
        request = self._pb.ModelInferRequest(model_name=ours.model_name, model_version=ours.model_version)
        request.inputs.add(name="input", datatype="FP32", shape=ours.input.shape)
        request.raw_input_contents.append(ours.input.data)
        if ours.HasField("latency_budget_ms"):
            request.parameters["latency_budget_ms"].string_param = repr(ours.latency_budget_ms)
        return request

    def outcome_of(self, response: Any) -> Outcome:
        """Returns what a reply holds: its ``explanation_status``, or else whether attributions are there."""
        status = response.parameters[_STATUS].string_param.upper() if _STATUS in response.parameters else ""
        for name, outcome in (("DEFERRED", Outcome.DEFERRED), ("FAILED", Outcome.FAILED)):
            if name in status:
                return outcome
        explained = any(output.name == _ATTRIBUTIONS for output in response.outputs)
        return Outcome.EXPLAINED if explained else Outcome.PREDICTED


def _generated() -> Any:
    try:
        return importlib.import_module("xai_service.wire.gen.inference.grpc_service_pb2")
    except ImportError as error:
        raise ImportError(f"this version has no Open Inference Protocol ({error})") from None
