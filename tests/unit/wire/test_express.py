"""Calls taken from gRPC's queue: many at once, each with its own answer; and a grpcio that is built otherwise."""

from __future__ import annotations

import concurrent.futures

import grpc
import pytest

from tests.conftest import serving
from xai_service.client import Client, RequestFailed
from xai_service.errors import Unavailable
from xai_service.wire import express_call
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

PREDICT = "/xai.v1.DecisionService/Predict"


def test_calls_that_come_together_share_waves(loan_repository, loans, tmp_path, monkeypatch):
    sizes = []
    with serving(loan_repository, tmp_path / "l") as server:
        begin = server._service.begin
        monkeypatch.setattr(server._service, "begin", lambda calls: sizes.append(len(calls)) or begin(calls))
        rows = loans.held_out
        with Client(server.addresses[0]) as client, concurrent.futures.ThreadPoolExecutor(24) as threads:
            replies = list(threads.map(lambda i: client.predict(rows.iloc[i : i + 1], "loan"), range(240)))
            whole = client.predict(rows.iloc[:240], "loan")
        for i, reply in enumerate(replies):
            assert reply.margin.tobytes() == whole.margin[i].tobytes()
        assert sum(sizes) == 241
        assert max(sizes) > 1


def test_a_call_without_a_message_is_told_so(loan_server):
    with grpc.insecure_channel(loan_server) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.stream_unary(PREDICT)(iter(()), timeout=30)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "message" in failed.value.details()


def test_of_several_messages_the_first_is_answered(loan_server):
    with grpc.insecure_channel(loan_server) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.stream_unary(PREDICT)(iter([b"", b"x", b"y"]), timeout=30)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_large_message_is_read_elsewhere(loan_repository, loans, tmp_path, monkeypatch):
    with serving(loan_repository, tmp_path / "l") as server:
        submitted = []
        submit = server._gate.submit
        monkeypatch.setattr(server._gate, "submit", lambda *task: submitted.append(task) or submit(*task))
        with grpc.insecure_channel(server.addresses[0]) as channel:
            call = channel.unary_unary(PREDICT, request_serializer=pb.PredictRequest.SerializeToString)
            with pytest.raises(grpc.RpcError) as failed:
                call(pb.PredictRequest(model_name="loan", feature_names=["x" * (1 << 17)]), timeout=30)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        (task,) = submitted
        assert task[-1] is None  # not read yet
        with Client(server.addresses[0]) as client:
            assert client.predict(loans.held_out.iloc[:1], "loan").decision_ids
        assert len(submitted) == 1


def test_more_than_may_wait_are_refused_and_told_when_to_come_again(loan_repository, loans, tmp_path, monkeypatch):
    with serving(loan_repository, tmp_path / "l", max_waiting_rpcs=0) as server:
        monkeypatch.setattr("xai_service.wire.express._MOST_AT_ONCE", 0)  # nobody fits in
        with Client(server.addresses[0]) as client, pytest.raises(RequestFailed) as refused:
            client.predict(loans.held_out.iloc[:1], "loan")
        assert (refused.value.code, refused.value.retry_after_s) == ("RESOURCE_EXHAUSTED", 0.1)


@pytest.mark.parametrize("name", ["_process_event_and_continue", "_request_call"])
def test_a_grpcio_that_is_built_otherwise_is_named(monkeypatch, name):
    monkeypatch.delattr(express_call.internals, name)
    with pytest.raises(Unavailable, match=f"grpcio {grpc.__version__} .*{name}.*pip install"):
        express_call.check_internals(grpc.server(concurrent.futures.ThreadPoolExecutor(1)))


def test_so_is_one_without_them_all(monkeypatch):
    monkeypatch.setattr(express_call, "core", None)
    with pytest.raises(Unavailable, match="ReceiveMessageOperation"):
        express_call.check_internals(object())


def test_the_one_installed_is_known():
    express_call.check_internals(grpc.server(concurrent.futures.ThreadPoolExecutor(1)))
