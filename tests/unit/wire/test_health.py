"""What is answered to probes, from the first moment to the last."""

from __future__ import annotations

import queue
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from xai_service.errors import InvalidModel, Unavailable
from xai_service.model.repository import ModelEntry
from xai_service.wire.health import HealthServer, ServiceHealth

YES, NO = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
APIS = ("xai.v1.DecisionService", "inference.GRPCInferenceService")


def entry(name, version="1", *, served=True):
    return ModelEntry(name, version, object() if served else None, None if served else InvalidModel("x"))


@pytest.fixture
def health():
    return ServiceHealth()


@pytest.fixture
def stub(health):
    server = HealthServer("127.0.0.1:0", health)
    with grpc.insecure_channel(server.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)
    health.enter_graceful_shutdown()
    server.stop()


@pytest.fixture
def check(stub):
    def check(*services):
        return [stub.Check(health_pb2.HealthCheckRequest(service=one), timeout=10).status for one in services]

    return check


@pytest.fixture
def watch(stub):
    """Follows a service; returns a queue of what is told, with ``None`` at the end."""
    threads = []

    def watch(service):
        told = queue.SimpleQueue()

        def follow():
            for response in stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=30):
                told.put(response.status)
            told.put(None)

        threads.append(threading.Thread(target=follow))
        threads[-1].start()
        return told

    yield watch
    for thread in threads:
        thread.join()


def test_a_life(health, check, watch):
    ready, loan, startup = watch(""), watch("model/loan"), watch("startup")
    assert check("liveness", "startup", "") == [YES, NO, NO]
    assert (ready.get(timeout=10), startup.get(timeout=10)) == (NO, NO)
    assert loan.get(timeout=10) == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

    health.show_models([entry("loan"), entry("bad", served=False)])
    health.ready(APIS)
    assert check("liveness", "startup", "", *APIS) == [YES] * 5
    assert check("model/loan", "model/bad") == [YES, NO]
    assert [one.get(timeout=10) for one in (ready, startup, loan)] == [YES, YES, YES]

    # One version that can be served is enough; one that is gone is served no more; it may come back.
    health.show_models([entry("loan", "1"), entry("loan", "2", served=False), entry("bad")])
    assert check("model/loan", "model/bad") == [YES, YES]
    health.show_models([entry("bad")])
    assert check("model/loan", "model/bad") == [NO, YES]
    assert loan.get(timeout=10) == NO
    health.show_models([entry("loan")])
    assert check("model/loan", "model/bad") == [YES, NO]
    assert loan.get(timeout=10) == YES

    health.drain()
    health.show_models([entry("loan"), entry("bad")])  # what a last look at the repository finds
    assert check("liveness", "startup") == [YES, YES]
    assert check("", *APIS, "model/loan", "model/bad") == [NO] * 5
    assert (ready.get(timeout=10), loan.get(timeout=10)) == (NO, NO)

    health.enter_graceful_shutdown()
    for told in (ready, loan, startup):  # watches end: they would hold up the drain
        while told.get(timeout=10) is not None:
            pass
    assert check("liveness", "startup", "") == [YES, YES, NO]


def test_what_nobody_knows(check):
    with pytest.raises(grpc.RpcError) as unknown:
        check("nobody")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_nothing_but_health_is_answered(health):
    server = HealthServer("127.0.0.1:0", health)
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/xai.v1.DecisionService/ListModels")(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"x" * 5000, timeout=10)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(Unavailable, match="cannot listen"):
        HealthServer(server.address, health)
    server.stop()


def test_watchers_that_fill_every_place_leave_room_for_checks(health, stub, check):
    watches = [stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30) for _ in range(32)]
    for one in watches:
        assert next(one).status == NO
    health.ready(APIS)
    assert check("", "liveness") == [YES, YES]
    assert all(next(one).status == YES for one in watches)
    for one in watches:
        one.cancel()
