# ruff: noqa: PD011 - `values` is of shap.Explanation, not of pandas
from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import shap
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2

from tests.unit.fake_service import CLASSES, NAMES, SHA256, WEIGHTS, FakeService, served
from xai_service.client import AsyncClient, Client, ExplanationStatus, Method, RequestFailed, Timings
from xai_service.errors import FieldViolation
from xai_service.wire import client as module
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS = np.array([[2.0, 1.5, 30.0], [4.0, 0.25, np.nan]], np.float32)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def target(service: FakeService) -> Iterator[str]:
    with served(service) as target:
        yield target


def _sync(target: str, method: str, *args: Any, **options: Any) -> Any:
    with Client(target) as client:
        return getattr(client, method)(*args, **options)


def _async(target: str, method: str, *args: Any, **options: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(target) as client:
            return await getattr(client, method)(*args, **options)

    return asyncio.run(call())


both = pytest.mark.parametrize("call", [_sync, _async])


@both
def test_predict_returns_what_the_service_sent(call: Callable[..., Any], target: str) -> None:
    reply = call(target, "predict", ROWS, "loan")
    assert (reply.model_name, reply.model_version, reply.model_sha256) == ("loan", "10", SHA256)
    assert reply.decision_ids == ("id-0", "id-1")
    np.testing.assert_array_equal(reply.margin, np.array([[-1.0], [2.5]], np.float32))
    np.testing.assert_array_equal(reply.attributions[:, :, 0], np.array([[1.0, -3.0, 0.0], [2.0, -0.5, 0.0]]))
    np.testing.assert_allclose(reply.probabilities[:, 1], 1 / (1 + np.exp([1.0, -2.5])), rtol=1e-6)
    assert reply.labels.tolist() == [0, 1]
    assert reply.prediction is None
    assert (reply.classes, reply.feature_names) == (CLASSES, NAMES)
    assert reply.statuses == (ExplanationStatus.COMPLETE,) * 2
    assert reply.method == Method("path_dependent_treeshap", "scalar-f64", "portable")
    assert reply.timings == Timings(40, 30, 25, budget_ms=20, record_us=500, total_us=700)
    np.testing.assert_array_equal(reply.rows, ROWS)
    assert reply.margin.dtype == np.float32
    assert reply.attributions.dtype == np.float64


@both
def test_predict_sends_what_was_asked(call: Callable[..., Any], service: FakeService, target: str) -> None:
    call(target, "predict", ROWS, "loan", version="9", feature_names=NAMES, latency_budget_ms=20.5)
    call(target, "predict", ROWS.astype(np.float64), "loan")
    call(target, "predict", [[1, 2, 3]], "loan")
    first, second, third = service.requests
    assert (first.model_version, tuple(first.feature_names), first.latency_budget_ms) == ("9", NAMES, 20.5)
    assert first.input.dtype == pb.DATA_TYPE_FLOAT32
    assert first.input.data == ROWS.tobytes()
    assert second.input.dtype == pb.DATA_TYPE_FLOAT64
    assert not second.feature_names
    assert not second.HasField("latency_budget_ms")
    assert third.input.data == np.array([[1.0, 2.0, 3.0]]).tobytes()


@both
def test_columns_of_a_data_frame_are_sent_unless_names_are_given(
    call: Callable[..., Any], service: FakeService, target: str
) -> None:
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    call(target, "predict", frame, "loan")
    call(target, "predict", frame.assign(a=[1, 2]), "loan", feature_names=NAMES)
    assert [tuple(request.feature_names) for request in service.requests] == [("a", "b", "c"), NAMES]
    assert service.requests[0].input.dtype == pb.DATA_TYPE_FLOAT32


@both
@pytest.mark.parametrize(
    "rows",
    [
        [1.0, 2.0],
        3.0,
        [[["a"]]],
        [["a", "b"]],
        np.array([[1 + 2j]]),
        np.array([[1 + 2j]], object),
        np.array([["2030-01-01"]], "M8[D]"),
        np.array([[3]], "m8[s]"),
        pd.DataFrame({"a": [pd.Timestamp("2030-01-01")], "b": [1.0]}),
        pd.DataFrame({"a": [pd.NA], "b": [pd.Timestamp("2030-01-01")]}),
    ],
)
def test_what_is_no_numeric_table_is_refused_before_it_is_sent(
    call: Callable[..., Any], rows: Any, service: FakeService, target: str
) -> None:
    with pytest.raises(ValueError, match=r"rows must be a table|no real numbers"):
        call(target, "predict", rows, "loan")
    assert service.requests == []


@both
def test_a_regressor_has_predictions_and_no_classes(
    call: Callable[..., Any], service: FakeService, target: str
) -> None:
    service.regression = True
    reply = call(target, "predict", ROWS, "price")
    assert reply.probabilities is None
    assert reply.labels is None
    np.testing.assert_allclose(reply.prediction, np.exp(reply.margin))


@both
def test_rows_of_more_than_the_default_4_mib_pass(call: Callable[..., Any], target: str) -> None:
    reply = call(target, "predict", np.ones((400_000, 3), np.float32), "loan")
    assert reply.attributions.shape == (400_000, 3, 1)


@both
def test_decision(call: Callable[..., Any], target: str) -> None:
    decision = call(target, "decision", "id-7")
    assert decision.decision_id == "id-7"
    assert decision.decided_at == datetime(2026, 3, 1, 10, 20, 30, 500_000, tzinfo=UTC)
    np.testing.assert_array_equal(decision.input, np.array([2.0, 1.5, np.nan], np.float32))
    assert (decision.label, decision.threshold, decision.favourable_class) == (0, 0.5, "approved")
    assert decision.prediction is None
    assert decision.runtime == ("onnxruntime 1.32.0",)
    assert decision.timings == Timings(40, None, None, None, record_us=None, total_us=None)
    explanation = decision.explanation
    assert explanation.decision_id == "id-7"
    np.testing.assert_array_equal(explanation.attributions, [[1.0], [-3.0], [0.0]])
    assert explanation.explained_at == datetime(2026, 3, 1, 10, 20, 31, tzinfo=UTC)


@both
def test_models(call: Callable[..., Any], target: str) -> None:
    known = call(target, "models")
    assert [(one.model_name, one.model_version, one.ready) for one in known] == [
        ("loan", "9", True),
        ("loan", "10", True),
        ("broken", "1", False),
    ]
    assert known[0].feature_names == NAMES
    assert known[0].allows_missing == (False, True, True)
    assert known[2].reason == "no covers in the file"


@both
def test_explanation_polls_until_it_is_there(call: Callable[..., Any], service: FakeService, target: str) -> None:
    service.deferred_polls = 3
    explanation = call(target, "explanation", "id-1", wait_s=60)
    assert explanation.status is ExplanationStatus.COMPLETE
    assert len(service.requests) == 4


@both
def test_explanation_stops_asking_when_time_is_up(call: Callable[..., Any], service: FakeService, target: str) -> None:
    service.deferred_polls = 10**9
    at_once = call(target, "explanation", "id-1")
    assert (at_once.status, len(service.requests)) == (ExplanationStatus.DEFERRED, 1)
    later = call(target, "explanation", "id-1", wait_s=0.05)
    assert later.status is ExplanationStatus.DEFERRED
    assert later.attributions is None
    assert later.explained_at is None
    assert len(service.requests) > 2


def test_pauses_double_to_a_limit_and_never_pass_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = []
    for pause in module._pauses(1.0):
        pauses.append(pause)
        now[0] += pause
    assert pauses[:6] == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
    assert max(pauses) == 0.25
    assert sum(pauses) == pytest.approx(1.0)
    assert list(module._pauses(0.0)) == []


@both
def test_field_violations_are_handed_on(call: Callable[..., Any], service: FakeService, target: str) -> None:
    service.refuse_input()
    with pytest.raises(RequestFailed) as caught:
        call(target, "predict", ROWS, "loan")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.message == "input.shape: 3 columns are needed"
    assert caught.value.violations == (FieldViolation("input.shape", "3 columns are needed"),)
    assert caught.value.retry_after_s is None
    assert str(caught.value) == "INVALID_ARGUMENT: input.shape: 3 columns are needed"


@both
def test_the_advice_to_retry_later_is_handed_on(call: Callable[..., Any], service: FakeService, target: str) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000))
    service.fail(code_pb2.RESOURCE_EXHAUSTED, "the queue is full", error_details_pb2.ErrorInfo(reason="X"), retry)
    with pytest.raises(RequestFailed) as caught:
        call(target, "models")
    assert (caught.value.code, caught.value.retry_after_s) == ("RESOURCE_EXHAUSTED", 0.25)


@both
def test_grpcs_own_refusals_say_when_trying_again_helps(
    call: Callable[..., Any], service: FakeService, target: str
) -> None:
    for message, due in (
        ("Concurrent RPC limit exceeded!", 0.1),
        ("Received message larger than max (5000000 vs. 4194304)", None),
    ):
        service.fail(code_pb2.RESOURCE_EXHAUSTED, message)
        with pytest.raises(RequestFailed) as caught:
            call(target, "models")
        assert caught.value.retry_after_s == due


@both
def test_ids_and_versions_need_not_be_text(call: Callable[..., Any], service: FakeService, target: str) -> None:
    decision_id = uuid.UUID(int=7)
    assert call(target, "decision", decision_id).decision_id == str(decision_id)
    assert call(target, "explanation", decision_id).decision_id == str(decision_id)
    call(target, "predict", ROWS, "loan", version=9)
    assert service.requests[-1].model_version == "9"


@both
def test_damaged_details_do_not_hide_the_error(call: Callable[..., Any], service: FakeService, target: str) -> None:
    service.fail(code_pb2.NOT_FOUND, "no such decision")
    assert service.failure is not None
    service.failure.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff\xff\xff")
    with pytest.raises(RequestFailed, match="no such decision") as caught:
        call(target, "decision", "id-1")
    assert (caught.value.code, caught.value.violations) == ("NOT_FOUND", ())


@both
def test_nobody_listening_is_unavailable(call: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(RequestFailed) as caught:
        call(f"unix:{tmp_path / 'nobody'}", "models")
    assert caught.value.code == "UNAVAILABLE"


@both
def test_no_answer_in_time_is_deadline_exceeded(
    call: Callable[..., Any], service: FakeService, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_enter", lambda *_: time.sleep(0.5))
    with pytest.raises(RequestFailed) as caught:
        call(target, "predict", ROWS, "loan", timeout_s=0.05)
    assert caught.value.code == "DEADLINE_EXCEEDED"


@both
def test_an_answer_that_cannot_be_read_is_an_error_not_a_crash(
    call: Callable[..., Any], service: FakeService, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_explanation", lambda: pb.Explanation(status=pb.EXPLANATION_STATUS_COMPLETE))
    with pytest.raises(RequestFailed, match="GetExplanation cannot be read") as caught:
        call(target, "explanation", "id-1")
    assert caught.value.code == "INTERNAL"
    monkeypatch.setattr(service, "_explanation", lambda: pb.Explanation(status=77))  # type: ignore[arg-type]
    with pytest.raises(RequestFailed, match="cannot be read"):
        call(target, "explanation", "id-1")


@both
def test_unix_socket(call: Callable[..., Any], service: FakeService, tmp_path: Path) -> None:
    with served(service, f"unix:{tmp_path / 's'}") as target:
        assert len(call(target, "models")) == 3


def test_both_clients_have_the_same_methods() -> None:
    def parameters(method: Any) -> list[Any]:
        return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]

    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            assert parameters(method) == parameters(getattr(AsyncClient, name))


def test_to_shap_has_the_shapes_of_shap(target: str) -> None:
    reply = _sync(target, "predict", ROWS, "loan")
    explanation = reply.to_shap()
    assert isinstance(explanation, shap.Explanation)
    assert explanation.values.shape == (2, 3)
    assert explanation.feature_names == list(NAMES)
    np.testing.assert_array_equal(explanation.data, ROWS)
    np.testing.assert_allclose(explanation.base_values + explanation.values.sum(axis=1), reply.margin[:, 0])


def test_to_shap_of_several_outputs(service: FakeService, target: str) -> None:
    service.outputs = 2
    explanation = _sync(target, "predict", ROWS, "loan").to_shap()
    assert explanation.values.shape == (2, 3, 2)
    assert explanation.base_values.shape == (2, 2)
    assert explanation.output_names == list(CLASSES)
    np.testing.assert_array_equal(explanation.values[0], ROWS[0][:, None] * WEIGHTS[2])


def test_to_shap_of_one_decision(target: str) -> None:
    explanation = _sync(target, "decision", "id-1").to_shap()
    np.testing.assert_array_equal(explanation.values, [1.0, -3.0, 0.0])
    assert explanation.base_values == 1.0
    np.testing.assert_array_equal(explanation.data, np.array([2.0, 1.5, np.nan], np.float32))


def test_to_shap_names_rows_without_an_explanation(service: FakeService, target: str) -> None:
    service.predict_deferred = True
    reply = _sync(target, "predict", ROWS, "loan")
    assert reply.statuses == (ExplanationStatus.DEFERRED, ExplanationStatus.COMPLETE)
    with pytest.raises(ValueError, match=r"1 of 2 rows, \[0\]: 1 of the rows not ready"):
        reply.to_shap()
    many = dataclasses.replace(reply, statuses=(ExplanationStatus.DEFERRED,) * 1000)
    with pytest.raises(ValueError, match=r"1000 of 1000 rows, \[0, 1, .*, 9\] and 990 more: ") as caught:
        many.to_shap()
    assert len(str(caught.value)) < 200
    service.deferred_polls = 1
    with pytest.raises(ValueError, match="decision id-1 has no explanation: deferred in the queue"):
        _sync(target, "decision", "id-1").to_shap()


def test_to_shap_without_shap_says_what_to_install(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = _sync(target, "predict", ROWS, "loan")

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install shap"):
        reply.to_shap()


def test_the_client_can_share_a_process_with_tritons() -> None:
    """Which brings the messages of the Open Inference Protocol itself, and no process can hold them twice."""
    code = (
        "import xai_service.client\n"
        "from google.protobuf import descriptor_pool\n"
        "try: descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError: print('not there')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "not there\n"
