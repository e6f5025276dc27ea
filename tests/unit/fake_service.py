"""A `DecisionService` in this process whose answers can be worked out by hand: a linear model, scored in float32."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import from_tensor, to_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("income", "debt", "age")
CLASSES = ("denied", "approved")
SHA256 = "ab" * 32
LOADED_AT = Timestamp(seconds=1772359200)  # 2026-03-01 10:00 UTC
WEIGHTS = {1: np.array([[0.5], [-2.0], [0.0]]), 2: np.array([[0.5, 0.0], [-2.0, 1.0], [0.0, 3.0]])}
METHOD = pb.Method(algorithm="path_dependent_treeshap", variant="scalar-f64", isa="portable")


class FakeService(pb_grpc.DecisionServiceServicer):
    """What it was asked is in ``requests``; how it answers is set by the other attributes."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.failure: status_pb2.Status | None = None  # raised by every call
        self.deferred_polls = 0  # how often GetExplanation still says DEFERRED
        self.predict_deferred = False
        self.outputs = 1
        self.regression = False
        self.models = [
            pb.ModelStatus(
                model_name="loan",
                model_version=version,
                ready=True,
                model_sha256=SHA256,
                feature_names=NAMES,
                classes=CLASSES,
                allows_missing=[False, True, True],
                task="binary_classification",
                signed_by="cd" * 32,
                loaded_at=LOADED_AT,
                reason=reason,
            )
            for version, reason in (("9", ""), ("10", "its files changed"))
        ] + [pb.ModelStatus(model_name="broken", model_version="1", reason="no covers in the file")]

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:  # noqa: N802
        self._enter(request, context)
        rows = from_tensor(request.input, "input").astype(np.float32)
        phi = self._phi(rows)
        margin = phi.sum(axis=1, dtype=np.float64).astype(np.float32) + np.float32(1.0)
        response = pb.PredictResponse(
            model_name=request.model_name,
            model_version=request.model_version or "10",
            model_sha256=SHA256,
            decision_ids=[f"id-{row}" for row in range(len(rows))],
            margin=to_tensor(margin),
            feature_names=NAMES,
            explanations=pb.Explanations(
                statuses=[pb.EXPLANATION_STATUS_COMPLETE] * len(rows),
                attributions=to_tensor(phi),
                base_values=to_tensor(np.ones(self.outputs)),
                additivity_residual=to_tensor(np.zeros(len(rows))),
                method=METHOD,
            ),
            timings=pb.Timings(predict_us=40, explain_us=30, overlap_us=25, record_us=500, total_us=700, budget_ms=20),
        )
        if self.predict_deferred:
            response.explanations.statuses[0] = pb.EXPLANATION_STATUS_DEFERRED
            response.explanations.detail = "1 of the rows not ready within 20 ms"
            phi[0] = np.nan
            response.explanations.attributions.CopyFrom(to_tensor(phi))
        if self.regression:
            response.prediction.CopyFrom(to_tensor(np.exp(margin)))
        else:
            good = 1 / (1 + np.exp(-margin[:, :1]))
            response.probabilities.CopyFrom(to_tensor(np.hstack([1 - good, good])))
            response.labels.CopyFrom(to_tensor((good[:, 0] > 0.5).astype(np.int64)))
            response.classes.extend(CLASSES)
        return response

    def GetDecision(self, request: pb.GetDecisionRequest, context: grpc.ServicerContext) -> pb.GetDecisionResponse:  # noqa: N802
        self._enter(request, context)
        row = np.array([2.0, 1.5, np.nan], np.float32)
        decision = pb.Decision(
            decision_id=request.decision_id,
            model_name="loan",
            model_version="10",
            model_sha256=SHA256,
            feature_names=NAMES,
            input=to_tensor(row),
            margin=to_tensor(np.array([-1.0], np.float32)),
            probabilities=to_tensor(np.array([0.73, 0.27], np.float32)),
            label=0,
            classes=CLASSES,
            threshold=0.5,
            favourable_class="approved",
            explanation=self._explanation(),
            timings=pb.Timings(predict_us=40),
            runtime=["onnxruntime 1.32.0"],
        )
        decision.decided_at.FromJsonString("2026-03-01T10:20:30.5Z")
        return pb.GetDecisionResponse(decision=decision)

    def GetExplanation(  # noqa: N802
        self, request: pb.GetExplanationRequest, context: grpc.ServicerContext
    ) -> pb.GetExplanationResponse:
        self._enter(request, context)
        explanation = self._explanation()
        self.deferred_polls = max(0, self.deferred_polls - 1)
        return pb.GetExplanationResponse(decision_id=request.decision_id, explanation=explanation)

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:  # noqa: N802
        self._enter(request, context)
        return pb.ListModelsResponse(models=self.models)

    def _enter(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if self.failure is not None:
            context.abort_with_status(rpc_status.to_status(self.failure))

    def _phi(self, rows: Any) -> Any:
        return np.nan_to_num(rows.astype(np.float64))[:, :, None] * WEIGHTS[self.outputs][None]

    def _explanation(self) -> pb.Explanation:
        if self.deferred_polls:
            return pb.Explanation(
                status=pb.EXPLANATION_STATUS_DEFERRED,
                detail="in the queue",
                base_values=to_tensor(np.ones(1)),
                method=METHOD,
            )
        explanation = pb.Explanation(
            status=pb.EXPLANATION_STATUS_COMPLETE,
            attributions=to_tensor(np.array([[1.0], [-3.0], [0.0]])),
            base_values=to_tensor(np.ones(1)),
            additivity_residual=1e-9,
            method=METHOD,
        )
        explanation.explained_at.FromJsonString("2026-03-01T10:20:31Z")
        return explanation

    def fail(self, code: int, message: str, *details: Any) -> None:
        """Makes every call fail with google.rpc.Status details."""
        self.failure = status_pb2.Status(code=code, message=message)
        for detail in details:
            self.failure.details.add().Pack(detail)

    def refuse_input(self) -> None:
        """Fails as the service does for a wrong field."""
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field="input.shape", description="3 columns are needed")
        self.fail(code_pb2.INVALID_ARGUMENT, "input.shape: 3 columns are needed", bad)


@contextlib.contextmanager
def served(service: FakeService, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serves ``service`` and gives the target to dial."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    pb_grpc.add_DecisionServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
