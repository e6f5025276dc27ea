"""Full disks, kill -9, and callers that vanish, dawdle or flood: nothing acknowledged is lost, others are served.

Run as a program, this file serves on a disk of its own: a limit on file sizes, which holds for a whole process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import xgboost as xgb
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.conftest import serving
from xai_service.client import Client, RequestFailed
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.service import ExplainService
from xai_service.telemetry import UNKNOWN
from xai_service.types import ExplanationStatus
from xai_service.wire import server as wire_server
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor

LONG_S = 60.0  # only waited out when a test fails
N_FEATURES = 43
ROWS = np.random.default_rng(11).normal(size=(6000, N_FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A small wide model ``m`` without a budget of its own."""
    folder = tmp_path_factory.mktemp("repository")
    booster = xgb.train({"max_depth": 3, "nthread": 1}, xgb.DMatrix(ROWS[:500], ROWS[:500, :5].sum(axis=1)), 10)
    pack(booster, ROWS[:100], name="m", out=folder)
    return folder


@contextlib.contextmanager
def service(repository, tmp_path, **settings):
    settings = {"default_budget_ms": 0.0, **settings}
    with (
        serving(repository, tmp_path / "ledger.sqlite", **settings) as server,
        Client(server.addresses[0], timeout_s=LONG_S) as client,
    ):
        client.predict(ROWS[:1], "m")
        yield server, client


class Held:
    """Predictions that wait until they are let go."""

    def __init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Event()


@pytest.fixture
def held(monkeypatch):
    hold, predict = Held(), ModelSnapshot.predict

    def waiting(self, rows):
        if len(rows) == 2:  # requests of two rows only
            hold.begun.release()
            hold.go.wait(LONG_S)
        return predict(self, rows)

    monkeypatch.setattr(ModelSnapshot, "predict", waiting)
    is_short = ExplainService.is_short  # what takes long is not predicted in gRPC's own thread
    monkeypatch.setattr(ExplainService, "is_short", lambda self, call: len(call.rows) != 2 and is_short(self, call))
    yield hold
    hold.go.set()


def stub(address):
    """A stub on a connection of its own, and that connection."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channel = grpc.insecure_channel(address, options=options)
    return pb_grpc.DecisionServiceStub(channel), channel


def two_rows():
    return pb.PredictRequest(model_name="m", input=to_tensor(ROWS[:2]))


def unread_watch():
    """A health watch as HTTP/2's bytes, whose window is 0: nothing can be sent to it (RFC 9113, 6.5.2)."""

    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def literal(text):
        return bytes([len(text)]) + text.encode()

    headers = {":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Watch", ":authority": "here"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    block = b"".join(b"\0" + literal(name) + literal(value) for name, value in headers.items())
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, struct.pack(">HI", 4, 0))  # SETTINGS: INITIAL_WINDOW_SIZE = 0
        + frame(1, 4, 1, block)  # HEADERS, END_HEADERS
        + frame(0, 1, 1, bytes(5))  # DATA, END_STREAM: an empty message
    )


def eventually(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# Callers that vanish.


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
def test_a_caller_that_vanishes_leaves_nothing_occupied(repository, tmp_path, held, how):
    with service(repository, tmp_path, rpc_threads=3, max_rows_per_request=6, max_rows_in_flight=6) as (server, client):
        predict, channel = stub(server.addresses[0])
        calls = [predict.Predict.future(two_rows(), timeout=1.0 if how == "deadline" else LONG_S) for _ in range(3)]
        for _ in calls:
            assert held.begun.acquire(timeout=LONG_S)
        assert server._service._admission._rows == 6
        if how == "cancel":
            for call in calls:
                call.cancel()
        elif how == "disconnect":
            channel.close()
        for call in calls:
            with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
                call.result(LONG_S)
        held.go.set()
        eventually(lambda: server._service._admission._rows == 0)
        assert len(client.predict(ROWS[:6], "m").decision_ids) == 6
        channel.close()


def half_a_message(address, n_bytes=500):
    """A raw connection on which a call of Predict has begun whose message of 1,000 bytes never ends."""

    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def literal(name, value):
        return name + bytes([len(value)]) + value

    headers = b"\x83\x86"  # :method POST, :scheme http (RFC 7541, appendix A)
    headers += literal(b"\x04", b"/xai.v1.DecisionService/Predict") + literal(b"\x01", b"localhost")
    headers += literal(b"\x0f\x10", b"application/grpc") + literal(b"\x00\x02te", b"trailers")
    connection = socket.create_connection(address.rsplit(":", 1))
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(1, 4, 1, headers)
        + (frame(0, 0, 1, b"\0" + (1000).to_bytes(4, "big") + bytes(n_bytes)) if n_bytes else b"")
    )
    return connection


def threads_at_work(server):
    """The calls that hold a thread or wait for one, those amid whose message it waits included."""
    return len(server._server._state.rpc_states)


def test_half_messages_hold_no_one_up_while_a_thread_is_left_and_nothing_once_they_are_gone(repository, tmp_path):
    with service(repository, tmp_path, rpc_threads=4) as (server, client):
        eventually(lambda: threads_at_work(server) == 0)
        connections = [half_a_message(server.addresses[0]) for _ in range(3)]
        eventually(lambda: threads_at_work(server) == 3)
        assert len(client.predict(ROWS[:5], "m").decision_ids) == 5
        connections += [half_a_message(server.addresses[0]) for _ in range(5)]
        eventually(lambda: threads_at_work(server) == 8)
        for connection in connections:
            connection.close()
        assert len(client.predict(ROWS[:5], "m").decision_ids) == 5
        eventually(lambda: threads_at_work(server) == 0)


def test_more_half_messages_than_threads_hold_no_one_up(repository, tmp_path):
    with service(repository, tmp_path, rpc_threads=2) as (server, client), contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(half_a_message(server.addresses[0]))
        eventually(lambda: threads_at_work(server) == 30)
        time.sleep(0.1)  # by now they are slow
        for _ in range(3):
            assert len(client.predict(ROWS[:5], "m").decision_ids) == 5


@pytest.mark.parametrize("n_bytes", [0, 500])
def test_a_caller_that_falls_silent_amid_a_message_is_found_out(repository, tmp_path, monkeypatch, n_bytes):
    monkeypatch.setattr(wire_server, "_PING_AFTER_MS", 200)
    monkeypatch.setattr(wire_server, "_PING_TIMEOUT_MS", 1000)
    with service(repository, tmp_path, rpc_threads=1) as (server, client):
        eventually(lambda: threads_at_work(server) == 0)
        with half_a_message(server.addresses[0], n_bytes) as silent:  # open all the while, and it answers no ping
            eventually(lambda: threads_at_work(server) == 1)
            assert len(client.predict(ROWS[:5], "m", timeout_s=LONG_S / 2).decision_ids) == 5
            assert silent.fileno() >= 0


def test_idle_connections_are_harmless(repository, tmp_path):
    with service(repository, tmp_path) as (server, client), contextlib.ExitStack() as stack:
        address = server.addresses[0].rsplit(":", 1)
        for i in range(200):
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(100)][i % 4])
        assert len(client.predict(ROWS[:5], "m").decision_ids) == 5
        with Client(server.addresses[0], timeout_s=LONG_S) as late:
            assert len(late.predict(ROWS[:5], "m").decision_ids) == 5


@pytest.mark.parametrize("kind", ["health", "reflection"])
def test_streams_kept_open_take_no_thread_from_the_requests(repository, tmp_path, kind):
    end = threading.Event()

    def questions():
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        end.wait(LONG_S)

    with service(repository, tmp_path, rpc_threads=2) as (server, client):
        _, channel = stub(server.addresses[0])
        if kind == "health":
            watch = health_pb2_grpc.HealthStub(channel).Watch
            streams = [watch(health_pb2.HealthCheckRequest()) for _ in range(5)]
        else:
            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            streams = [reflect(questions()) for _ in range(5)]
        next(streams[0])
        assert len(client.predict(ROWS[:5], "m").decision_ids) == 5
        for stream in streams:
            stream.cancel()
        end.set()
        channel.close()


def test_watches_left_as_the_service_ends_do_not_stall_it(repository, tmp_path):
    """Many rounds, since it takes a watch that ends in the very moment in which the new status is being sent."""
    for _ in range(20):
        with service(repository, tmp_path, drain_s=LONG_S) as (server, _):
            _, channel = stub(server.addresses[0])
            watch = health_pb2_grpc.HealthStub(channel).Watch
            streams = [watch(health_pb2.HealthCheckRequest()) for _ in range(20)]
            next(streams[-1])
            for stream in streams:
                stream.cancel()
        channel.close()


def test_a_watch_is_told_of_the_drain_and_does_not_hold_it_up(repository, tmp_path):
    with service(repository, tmp_path, drain_s=LONG_S) as (server, _):
        _, channel = stub(server.addresses[0])
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=2 * LONG_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert [answer.status for answer in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        stopping.join(LONG_S / 2)
        assert not stopping.is_alive()
        channel.close()


def test_a_watch_that_reads_nothing_does_not_stall_health(repository, tmp_path):
    """Its window is full from the start, so that nothing can be sent to it."""
    with service(repository, tmp_path) as (server, _):
        host, port = server.addresses[0].rsplit(":", 1)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(unread_watch())
            eventually(lambda: threads_at_work(server) == 1)
            for status in (health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING):
                server._health.set("", status)
                with grpc.insecure_channel(server.addresses[0]) as channel:
                    check = health_pb2_grpc.HealthStub(channel).Check
                    assert check(health_pb2.HealthCheckRequest(), timeout=LONG_S).status == status


# Callers that send too much.


def test_a_burst_is_refused_at_once_beyond_its_bound(repository, tmp_path, held):
    with service(repository, tmp_path, rpc_threads=2, max_waiting_rpcs=3) as (server, client):
        eventually(lambda: threads_at_work(server) == 0)
        before = server._service._ledger.count()
        predict, channel = stub(server.addresses[0])
        calls = [predict.Predict.future(two_rows(), timeout=LONG_S) for _ in range(20)]
        eventually(lambda: sum(call.done() for call in calls) == 15)
        refused = [call for call in calls if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert dict(server._service.telemetry.models())[UNKNOWN].refused == {"Overloaded": 15}
        held.go.set()
        answered = [call.result(LONG_S) for call in calls if call not in refused]
        assert [len(reply.decision_ids) for reply in answered] == [2] * 5
        assert server._service._ledger.count() == before + 10
        assert len(client.predict(ROWS[:5], "m").decision_ids) == 5
        channel.close()


def test_a_message_too_large_is_refused_and_the_next_one_served(repository, tmp_path):
    with service(repository, tmp_path, max_message_mib=1) as (_, client):
        for _ in range(3):
            with pytest.raises(RequestFailed) as failed:
                client.predict(np.zeros((10_000, N_FEATURES), np.float32), "m")
            assert failed.value.code == "RESOURCE_EXHAUSTED"
        assert len(client.predict(ROWS[:5], "m").decision_ids) == 5


def test_the_reply_to_a_largest_request_arrives(repository, tmp_path):
    """What was recorded is told, though a reply of float64 attributions is more than twice its request."""
    with service(repository, tmp_path, max_message_mib=1) as (server, client):
        reply = client.predict(ROWS, "m")
        assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
        assert ROWS.nbytes < 2**20
        assert reply.attributions.nbytes + sum(map(len, reply.decision_ids)) > 2**21
        assert server._service._ledger.count() == 1 + len(ROWS)


# The end of the service.


def test_requests_that_wait_for_a_thread_at_the_drain_are_answered(repository, tmp_path, held):
    with service(repository, tmp_path, rpc_threads=1, drain_s=LONG_S) as (server, client):
        eventually(lambda: threads_at_work(server) == 0)
        predict, channel = stub(server.addresses[0])
        calls = [predict.Predict.future(two_rows(), timeout=LONG_S) for _ in range(6)]
        assert held.begun.acquire(timeout=LONG_S)
        eventually(lambda: threads_at_work(server) == 6)
        stopping = threading.Thread(target=server.stop)
        stopping.start()

        def refuses():
            try:
                client.predict(ROWS[:1], "m", timeout_s=0.2)
            except RequestFailed as failed:
                return failed.code == "UNAVAILABLE"
            return False

        eventually(refuses)
        held.go.set()
        ids = [decision_id for call in calls for decision_id in call.result(LONG_S).decision_ids]
        stopping.join(LONG_S)
        assert not stopping.is_alive()
        channel.close()
    with service(repository, tmp_path) as (_, client):
        assert len({client.decision(decision_id).decision_id for decision_id in ids}) == 12


def load(address, answered, stop):
    """Callers that ask until told to stop; returns the codes they were refused with."""

    def caller(i):
        codes = set()
        with Client(address, timeout_s=LONG_S) as client:
            while not stop.is_set():
                rows = ROWS[i * 7 : i * 7 + 1 + i]
                try:
                    # Some replies come without their explanations, which are finished later.
                    reply = client.predict(rows, "m", latency_budget_ms=0.5 if i % 2 else None)
                    answered.append((reply.decision_ids, rows, reply.margin))
                except RequestFailed as failed:
                    codes.add(failed.code)
                    if stop.wait(0.002):
                        break
        return codes

    with ThreadPoolExecutor(6) as threads:
        return set().union(*threads.map(caller, range(6)))


def check_recorded(client, answered):
    for ids, rows, margin in answered:
        for i, decision_id in enumerate(ids):
            decision = client.decision(decision_id)
            assert decision.input.tobytes() == rows[i].tobytes()
            assert decision.margin.tobytes() == margin[i].tobytes()


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(repository, tmp_path):
    address, answered = f"unix:{tmp_path}/s.sock", []
    options = ["--repository", repository, "--ledger", tmp_path / "ledger.sqlite", "--listen", address]
    for _ in range(2):
        before, stop = len(answered), threading.Event()
        process = subprocess.Popen(
            [sys.executable, "-m", "xai_service.cli", "serve", *options], stdout=subprocess.PIPE, text=True
        )
        with process.stdout, ThreadPoolExecutor(1) as threads:
            try:
                assert "listening" in process.stdout.readline()
                codes = threads.submit(load, address, answered, stop)
                eventually(lambda enough=before + 150: len(answered) > enough)
            finally:
                process.kill()
                assert process.wait(LONG_S) == -signal.SIGKILL
                stop.set()
            assert codes.result(LONG_S) <= {"UNAVAILABLE"}
    with service(repository, tmp_path) as (_, client):
        check_recorded(client, answered)
        for ids, *_ in answered[::20]:
            assert client.explanation(ids[-1], wait_s=LONG_S).status is ExplanationStatus.COMPLETE


def test_a_full_disk_under_load_refuses_and_the_service_recovers(repository, tmp_path):
    subprocess.run(
        [sys.executable, __file__, repository, tmp_path],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        check=True,
        timeout=120,
    )


def fill(repository: Path, folder: Path) -> None:
    with service(repository, folder) as (server, client):
        address, answered, stop = server.addresses[0], [], threading.Event()
        with ThreadPoolExecutor(1) as threads:
            codes = threads.submit(load, address, answered, stop)
            eventually(lambda: len(answered) > 50)
            # Python ignores SIGXFSZ, so a write beyond the limit fails with EFBIG.
            largest = max(path.stat().st_size for path in folder.glob("ledger.sqlite*"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

            def refuses():
                with contextlib.suppress(RequestFailed):
                    client.predict(ROWS[:50], "m")
                    return False
                return True

            eventually(refuses)
            # It lives, says so, and answers for the past.
            with grpc.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LONG_S)
                assert health.status == health_pb2.HealthCheckResponse.SERVING
            check_recorded(client, answered[:10])
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            before = len(answered)
            eventually(lambda: len(answered) > before + 50)
            stop.set()
            assert codes.result(LONG_S) == {"UNAVAILABLE"}
        assert server._service._admission._rows == 0
    with service(repository, folder) as (server, client):
        check_recorded(client, answered)
        eventually(lambda: server._service.pending_explanations() == 0)


if __name__ == "__main__":
    fill(Path(sys.argv[1]), Path(sys.argv[2]))
