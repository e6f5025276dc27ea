"""Health, reflection, overload, concurrency, sockets and drain."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import subprocess
import sys
import threading
import uuid

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from tests.conftest import serving
from xai_service.client import AsyncClient, Client, RequestFailed
from xai_service.errors import Unavailable
from xai_service.ledger.store import Ledger
from xai_service.types import ExplanationStatus
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor


def _health(channel, service=""):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def test_health_and_reflection(loan_server):
    with grpc.insecure_channel(loan_server) as channel:
        assert _health(channel) == health_pb2.HealthCheckResponse.SERVING
        assert _health(channel, "xai.v1.DecisionService") == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            _health(channel, "nobody")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        reflected = ProtoReflectionDescriptorDatabase(channel)
        assert "xai.v1.DecisionService" in reflected.get_services()
        file = reflected.FindFileContainingSymbol("xai.v1.DecisionService")
        methods = {m.name for m in file.service[0].method}
        assert methods == {"Predict", "PredictStream", "GetDecision", "GetExplanation", "ListModels"}


def test_overload_is_refused_with_a_hint_when_to_try_again(loans, loan_repository, tmp_path):
    with (
        serving(loan_repository, tmp_path / "l", max_rows_in_flight=400, max_rows_per_request=400) as server,
        Client(server.addresses[0]) as client,
        concurrent.futures.ThreadPoolExecutor(12) as threads,
    ):
        rows, refusals = loans.held_out.iloc[:300], []

        def ask(_):
            try:
                return len(client.predict(rows, "loan").decision_ids)
            except RequestFailed as failed:
                refusals.append(failed)
                return 0

        answers = list(threads.map(ask, range(60)))
        assert answers.count(0) + answers.count(300) == 60
        assert answers.count(0) > 0
        assert answers.count(300) > 0
        assert {refusal.code for refusal in refusals} == {"RESOURCE_EXHAUSTED"}
        assert all("limit of 400" in refusal.message and refusal.retry_after_s > 0 for refusal in refusals)
        assert len(client.predict(rows, "loan").decision_ids) == 300  # and it recovers at once


def test_grpcs_own_bounds_are_told_apart(loans, loan_repository, tmp_path):
    """Too many requests: try again. One too large: do not."""
    settings = {"rpc_threads": 1, "max_waiting_rpcs": 0, "max_message_mib": 1}
    with (
        serving(loan_repository, tmp_path / "l", **settings) as server,
        Client(server.addresses[0]) as client,
        concurrent.futures.ThreadPoolExecutor(8) as threads,
    ):
        refusals = []

        def ask(_):
            try:
                client.predict(loans.held_out.iloc[:300], "loan")
            except RequestFailed as failed:
                refusals.append(failed)

        list(threads.map(ask, range(40)))
        assert refusals
        for refusal in refusals:
            assert (refusal.code, refusal.retry_after_s) == ("RESOURCE_EXHAUSTED", 0.1)
        with pytest.raises(RequestFailed, match="larger than max") as failed:
            client.predict(np.zeros((10_000, loans.features.shape[1]), np.float32), "loan")
        assert (failed.value.code, failed.value.retry_after_s) == ("RESOURCE_EXHAUSTED", None)


def test_retry_info_is_googles(loans, loan_repository, tmp_path):
    with serving(loan_repository, tmp_path / "l", max_rows_in_flight=5, max_rows_per_request=5) as server:
        server._service._admission._rows = 5  # as if five rows were under way
        row = loans.held_out.iloc[:1].to_numpy(np.float32)
        request = pb.PredictRequest(model_name="loan", input=to_tensor(row))
        with grpc.insecure_channel(server.addresses[0]) as channel:
            stub = pb_grpc.DecisionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as failed:
                stub.Predict(request, timeout=10)
        info = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(info) for detail in rpc_status.from_call(failed.value).details)
        assert info.retry_delay.ToNanoseconds() > 0


def test_callers_at_once_get_their_own_bits(loans, loan_server):
    """A row's answer depends on the row, the model and the method, which is told; ids are distinct and UUIDv7."""
    rows = loans.held_out.iloc[:64]
    with Client(loan_server) as client:
        batch = client.predict(rows, "loan")
        halves = [client.predict(rows.iloc[:32], "loan"), client.predict(rows.iloc[32:], "loan")]
        one_by_one = [client.predict(rows.iloc[i : i + 1], "loan") for i in range(64)]

        def ask(i):
            return client.predict(rows.iloc[i : i + 1], "loan")

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            alone = list(threads.map(ask, range(64)))
    assert {half.method for half in halves} == {batch.method}
    assert b"".join(half.attributions.tobytes() for half in halves) == batch.attributions.tobytes()
    for i, (reply, quiet) in enumerate(zip(alone, one_by_one, strict=True)):
        assert reply.margin.tobytes() == batch.margin[i].tobytes()
        # Those that came together may have been explained as a batch is.
        like = {quiet.method: quiet.attributions, batch.method: batch.attributions[i : i + 1]}
        assert reply.attributions.tobytes() == like[reply.method].tobytes()
        # Two methods, each within 1e-6 of the row's largest attribution.
        bound = 2e-6 * np.abs(batch.attributions[i]).max()
        np.testing.assert_allclose(reply.attributions[0], batch.attributions[i], rtol=0, atol=bound)
    ids = [*batch.decision_ids, *(reply.decision_ids[0] for reply in alone)]
    assert len(set(ids)) == 128
    assert {uuid.UUID(i).version for i in ids} == {7}


def test_what_is_recorded_is_what_was_answered(loans, loan_server):
    rows = loans.held_out.iloc[:3]
    with Client(loan_server) as client:
        reply = client.predict(rows, "loan")
        for i, decision_id in enumerate(reply.decision_ids):
            decision = client.decision(decision_id)
            assert decision.decision_id == decision_id
            assert decision.input.tobytes() == rows.iloc[i].to_numpy(np.float32).tobytes()
            assert decision.margin.tobytes() == reply.margin[i].tobytes()
            assert decision.probabilities.tobytes() == reply.probabilities[i].tobytes()
            assert decision.label == reply.labels[i]
            assert decision.classes == ("denied", "approved")
            assert decision.favourable_class == "approved"
            assert decision.model_sha256 == reply.model_sha256
            assert decision.explanation.status is ExplanationStatus.COMPLETE
            assert decision.explanation.attributions.tobytes() == reply.attributions[i].tobytes()


def test_asyncio_client_against_the_real_server(loans, loan_server):
    async def ask():
        async with AsyncClient(loan_server) as client:
            replies = await asyncio.gather(*(client.predict(loans.held_out.iloc[i : i + 1], "loan") for i in range(20)))
            return [await client.decision(reply.decision_ids[0]) for reply in replies]

    decisions = asyncio.run(ask())
    assert len({decision.decision_id for decision in decisions}) == 20


def test_several_listeners_and_a_taken_port(loans, loan_repository, tmp_path):
    socket = f"unix:{tmp_path}/s.sock"
    with serving(loan_repository, tmp_path / "l", listen=("127.0.0.1:0", socket)) as server:
        for address in server.addresses:
            with Client(address) as client:
                assert client.predict(loans.held_out.iloc[:1], "loan").labels is not None
        with (
            pytest.raises(Unavailable, match="cannot listen"),
            serving(loan_repository, tmp_path / "other", listen=(server.addresses[0],)),
        ):
            pass


def test_sigterm_drains_and_loses_no_request(loans, loan_repository, tmp_path):
    address = f"unix:{tmp_path}/s.sock"
    options = ["--repository", loan_repository, "--ledger", tmp_path / "l.sqlite", "--listen", address]
    process = subprocess.Popen(
        [sys.executable, "-m", "xai_service.cli", "serve", "--json", *options], stdout=subprocess.PIPE, text=True
    )
    assert "listening" in process.stdout.readline()
    answered, refused, stop = [], [], threading.Event()

    def ask(i):
        with Client(address) as client:
            while not stop.is_set():
                try:
                    answered.extend(client.predict(loans.held_out.iloc[i : i + 50], "loan").decision_ids)
                except RequestFailed as failed:
                    refused.append(failed)
                    return

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        callers = [threads.submit(ask, i) for i in range(4)]
        while len(answered) < 2000 and not refused:
            stop.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        stop.set()
        for caller in callers:
            caller.result()
    process.stdout.close()
    # Refused before it was begun (gRPC says CANCELLED to a call that it had taken but not handed out), never broken off
    # half-way: what is in the ledger is what was answered.
    assert {failed.code for failed in refused} <= {"UNAVAILABLE", "CANCELLED"}
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.count() == len(answered)
    with serving(loan_repository, tmp_path / "l.sqlite") as server, Client(server.addresses[0]) as client:
        for decision_id in answered[:: max(1, len(answered) // 200)] + answered[-4:]:
            assert client.decision(decision_id).decision_id == decision_id
