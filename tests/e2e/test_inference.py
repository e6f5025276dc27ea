"""The Open Inference Protocol over the network, message by message: what its clients do not show."""

from __future__ import annotations

import concurrent.futures
import threading

import grpc
import numpy as np
import pytest
import xgboost as xgb
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from tests.conftest import serving
from tests.inference import Stub, arrays, matrix, request, status_of
from xai_service.client import Client
from xai_service.types import ExplanationStatus
from xai_service.wire.gen.inference import grpc_service_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def channel(loan_server):
    with grpc.insecure_channel(loan_server) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return Stub(channel)


@pytest.fixture(scope="module")
def rows(loans):
    return loans.held_out.to_numpy(np.float32)


def refused(call, code):
    """Returns the details of an error, by kind."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is code
    status = rpc_status.from_call(caught.value)
    assert status.code == code.value[0]
    assert status.message == caught.value.details()
    found = {}
    for detail in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                found[kind.__name__] = message
    return found


def test_the_answer_is_the_other_apis_to_the_bit_and_so_is_the_record(stub, loan_server, loans, rows):
    response = stub.ModelInfer(request(inputs=matrix(rows[:3])))
    got = arrays(response)
    with Client(loan_server) as client:
        reply = client.predict(rows[:3], "loan")
        decisions = [client.decision(one.decode()) for one in got["decision_id"]]
    np.testing.assert_array_equal(got["margin"], reply.margin)
    np.testing.assert_array_equal(got["probabilities"], reply.probabilities)
    np.testing.assert_array_equal(got["label"], reply.labels)
    np.testing.assert_array_equal(got["treeshap_output"][:, :-1], reply.attributions[:, :, 0].astype(np.float32))
    np.testing.assert_array_equal(got["treeshap_output"][:, -1], np.full(3, reply.base_values[0], np.float32))
    native = loans.booster.predict(xgb.DMatrix(loans.held_out.iloc[:3]), pred_contribs=True)
    np.testing.assert_allclose(got["treeshap_output"], native, rtol=0, atol=1e-5)
    for row, decision in enumerate(decisions):
        np.testing.assert_array_equal(decision.input, rows[row])
        np.testing.assert_array_equal(decision.margin, got["margin"][row])
        assert decision.explanation.status is ExplanationStatus.COMPLETE


def test_what_was_not_asked_for_is_not_explained_nor_recorded_as_explained(stub, loan_server, rows):
    response = stub.ModelInfer(request(inputs=matrix(rows[:1]), outputs=["decision_id"]))
    assert status_of(response) == "not requested"
    with Client(loan_server) as client:
        decision = client.decision(arrays(response)["decision_id"][0].decode())
    assert decision.explanation.status is ExplanationStatus.NOT_REQUESTED


def test_columns_by_name_for_a_model_of_numbers(stub, loans, rows):
    names = list(loans.features.columns)
    inputs = [(name, "FP32", rows[:2, i : i + 1]) for i, name in reversed(list(enumerate(names)))]
    got = arrays(stub.ModelInfer(request(inputs=inputs)))
    due = arrays(stub.ModelInfer(request(inputs=matrix(rows[:2]))))
    np.testing.assert_array_equal(got["treeshap_output"], due["treeshap_output"])

    details = refused(lambda: stub.ModelInfer(request(inputs=[*inputs, inputs[0]])), grpc.StatusCode.INVALID_ARGUMENT)
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == f"inputs[{len(names)}]"
    assert "was sent twice" in violation.description


def test_errors_have_details(stub, rows):
    details = refused(
        lambda: stub.ModelInfer(request(inputs=matrix(rows[:1]), outputs=["x"])), grpc.StatusCode.INVALID_ARGUMENT
    )
    assert details["ErrorInfo"].reason == "InvalidInput"
    assert details["BadRequest"].field_violations[0].field == "outputs[0].name"
    details = refused(lambda: stub.ModelInfer(request("other")), grpc.StatusCode.NOT_FOUND)
    assert details["ErrorInfo"].reason == "ModelNotFound"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "ModelReady", "RepositoryIndex", "ServerLive"])
def test_what_is_no_message_is_bad_input(stub, method):
    details = refused(lambda: getattr(stub, method)(b"\xff\xff\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT)
    assert f"is no {method}Request" in details["BadRequest"].field_violations[0].description
    assert stub.ServerLive(pb.ServerLiveRequest()).live


def test_a_stream_survives_what_is_no_message(stub, rows):
    good = request(inputs=matrix(rows[:1]), id="1")
    answers = list(stub.ModelStreamInfer(iter([b"\xff\xff\xff", good, request("other", id="2"), good])))
    assert len(answers) == 4
    failed = sorted(one.error_message for one in answers if one.error_message)
    assert failed[0].startswith("INVALID_ARGUMENT: request: is no ModelInferRequest")
    assert failed[1].startswith("NOT_FOUND: no model is named 'other'")
    (named,) = (one for one in answers if "other" in one.error_message)
    assert (named.infer_response.id, named.infer_response.model_name) == ("2", "other")
    for one in answers:
        if not one.error_message:
            assert one.infer_response.id == "1"
            assert arrays(one.infer_response)["treeshap_output"].shape == (1, rows.shape[1] + 1)


def test_a_message_too_large_is_refused_by_grpc(loan_repository, tmp_path, rows):
    with (
        serving(loan_repository, tmp_path / "l.sqlite", max_message_mib=1) as server,
        grpc.insecure_channel(server.addresses[0]) as channel,
    ):
        stub = Stub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(inputs=matrix(np.tile(rows, (20, 1)))))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert arrays(stub.ModelInfer(request(inputs=matrix(rows[:1]))))["margin"].shape == (1, 1)


def test_reflection_and_health_know_it(channel):
    reflected = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in reflected.get_services()
    service = DescriptorPool(reflected).FindServiceByName(SERVICE)
    due = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert [method.name for method in service.methods] == [method.name for method in due.methods]
    health = health_pb2_grpc.HealthStub(channel)
    serving_now = health_pb2.HealthCheckResponse.SERVING
    assert health.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status == serving_now


def test_callers_at_once_and_on_streams_get_their_own(stub, loans, rows):
    due = loans.booster.predict(xgb.DMatrix(loans.held_out), output_margin=True)

    def unary(start):
        got = arrays(stub.ModelInfer(request(inputs=matrix(rows[start : start + 3]))))
        np.testing.assert_allclose(got["margin"][:, 0], due[start : start + 3], rtol=0, atol=1e-5)

    def streamed(start):
        messages = [request(inputs=matrix(rows[i : i + 1]), id=str(i)) for i in range(start, start + 40)]
        answers = [one.infer_response for one in stub.ModelStreamInfer(iter(messages))]
        assert sorted(int(one.id) for one in answers) == list(range(start, start + 40))
        for one in answers:
            np.testing.assert_allclose(arrays(one)["margin"][0, 0], due[int(one.id)], rtol=0, atol=1e-5)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(unary, i * 5) for i in range(40)]
        calls += [threads.submit(streamed, i * 40) for i in range(6)]
        for call in calls:
            call.result()


def test_overload_is_told_with_advice(loan_repository, tmp_path, rows, monkeypatch):
    """Rows under way are bounded for this protocol too."""
    from xai_service.model.snapshot import ModelSnapshot  # noqa: PLC0415 (only patched here)

    begun, release, predict = threading.Event(), threading.Event(), ModelSnapshot.predict

    def held(self, batch):
        begun.set()
        assert release.wait(60)
        return predict(self, batch)

    settings = {"max_rows_in_flight": 10, "max_rows_per_request": 10}
    with (
        serving(loan_repository, tmp_path / "l.sqlite", **settings) as server,
        grpc.insecure_channel(server.addresses[0]) as channel,
    ):
        stub = Stub(channel)
        monkeypatch.setattr(ModelSnapshot, "predict", held)
        first = stub.ModelInfer.future(request(inputs=matrix(rows[:10])))
        assert begun.wait(60)
        details = refused(lambda: stub.ModelInfer(request(inputs=matrix(rows[:1]))), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
        (answer,) = stub.ModelStreamInfer(iter([request(inputs=matrix(rows[:1]))]))
        assert answer.error_message.startswith(code_pb2.Code.Name(code_pb2.RESOURCE_EXHAUSTED))
        release.set()
        assert len(arrays(first.result())["margin"]) == 10
