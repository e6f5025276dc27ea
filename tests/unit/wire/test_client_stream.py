"""The client's side of a stream: a window of requests, each answer with its request, and clean ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2

from tests.unit.fake_service import FakeService, served
from xai_service.client import AsyncClient, Client, PredictRequest, Reply, RequestFailed
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

ROWS = np.array([[2.0, 1.5, 30.0]], np.float32)


class Streaming(FakeService):
    """Answers a stream pair by pair, the later one first; refuses ``broken``, breaks off at ``break``."""

    def __init__(self):
        super().__init__()
        self.received = 0
        self.hold = threading.Event()
        self.hold.set()
        self.over = threading.Event()

    def PredictStream(self, request_iterator, context):  # noqa: N802
        context.add_callback(self.over.set)
        waiting = []
        for message in request_iterator:
            self.received += 1
            assert self.hold.wait(60)
            if message.request.model_name == "break":
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            waiting.append(message)
            if len(waiting) == 2:
                yield from map(self._answer, reversed(waiting))
                waiting = []
        yield from map(self._answer, waiting)

    def _answer(self, message):
        if message.request.model_name == "broken":
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(field="input.shape", description="3 columns are needed")
            detail = AnyMessage()
            detail.Pack(bad)
            error = pb.CallError(code=code_pb2.INVALID_ARGUMENT, message="wrong", details=[detail])
            return pb.PredictStreamResponse(id=message.id, error=error)
        return pb.PredictStreamResponse(id=message.id, response=self.Predict(message.request, None))


@pytest.fixture
def service():
    return Streaming()


@pytest.fixture
def target(service):
    with served(service) as target:
        yield target
        service.hold.set()


def _sync(target, requests, **options):
    with Client(target) as client:
        return list(client.predict_stream(requests, **options))


def _async(target, requests, **options):
    async def ask():
        async with AsyncClient(target) as client:
            return [answered async for answered in client.predict_stream(requests, **options)]

    return asyncio.run(ask())


both = pytest.mark.parametrize("stream", [_sync, _async])


def requests(n):
    return [PredictRequest(ROWS * (1 + i), "broken" if i == 5 else "loan") for i in range(n)]


@both
@pytest.mark.parametrize("in_flight", [2, 3, 16])
def test_each_answer_comes_with_its_request(stream, target, in_flight):
    sent = requests(21)
    answered = stream(target, iter(sent), in_flight=in_flight)
    assert sorted(sent.index(request) for request, _ in answered) == list(range(21))
    assert [request for request, _ in answered] != sent  # in the order of the answers
    for request, reply in answered:
        if request.model == "broken":
            assert isinstance(reply, RequestFailed)
            assert (reply.code, reply.message) == ("INVALID_ARGUMENT", "wrong")
            assert [one.field for one in reply.violations] == ["input.shape"]
        else:
            assert isinstance(reply, Reply)
            np.testing.assert_array_equal(reply.rows, request.rows)
            np.testing.assert_array_equal(reply.attributions[0, 0, 0], request.rows[0, 0] * 0.5)


@both
def test_nothing_to_ask(stream, target):
    assert stream(target, []) == []


@both
def test_not_more_than_the_window_is_under_way(stream, target, service):
    taken = []

    def source():
        for request in requests(20):
            taken.append(request)
            yield request

    service.hold.clear()
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: stream(target, source(), in_flight=4))
        thread.start()
        stack.callback(thread.join, 60)
        stack.callback(service.hold.set)
        end = time.monotonic() + 60
        while len(taken) < 5 and time.monotonic() < end:  # the fifth waits for its place
            time.sleep(0.001)
        time.sleep(0.05)  # if it were to take more it would have by now; else this proves nothing, and fails nothing
        assert len(taken) == 5
    assert len(taken) == 20


@both
@pytest.mark.parametrize("rows", [np.zeros(3), "words"])
def test_what_is_no_request_is_raised_after_the_answers_before_it(stream, target, rows):
    answered = []

    def source():
        yield from requests(3)
        yield PredictRequest(rows, "loan")

    def ask():
        if stream is _sync:
            with Client(target) as client:
                answered.extend(client.predict_stream(source()))
        else:

            async def collect():
                async with AsyncClient(target) as client:
                    async for one in client.predict_stream(source()):
                        answered.append(one)  # noqa: PERF401 (kept when it raises)

            asyncio.run(collect())

    with pytest.raises(ValueError, match="rows"):
        ask()
    assert len(answered) == 3


@both
def test_a_stream_that_breaks_off(stream, target):
    with pytest.raises(RequestFailed) as caught:
        stream(target, [*requests(2), PredictRequest(ROWS, "break"), *requests(2)])
    assert (caught.value.code, caught.value.message) == ("UNAVAILABLE", "going away")


@both
def test_nobody_there(stream):
    with pytest.raises(RequestFailed) as caught:
        stream("unix:/nowhere/at/all", requests(1))
    assert caught.value.code == "UNAVAILABLE"


@both
def test_a_stream_has_its_own_deadline(stream, target, service):
    service.hold.clear()
    with pytest.raises(RequestFailed) as caught:
        stream(target, requests(4), timeout_s=0.1)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_leaving_early_ends_the_call_and_the_thread_that_sends(target, service):
    before = threading.active_count()
    with Client(target) as client:
        answers = client.predict_stream((PredictRequest(ROWS, "loan") for _ in iter(int, 1)), in_flight=4)
        next(answers)
        answers.close()
        assert service.over.wait(60)
        gc.collect()
        end = time.monotonic() + 60
        while threading.active_count() > before + 4 and time.monotonic() < end:  # the fake server's own are four
            time.sleep(0.001)
        assert service.received < 100
        assert len(client.models()) == 3


def test_leaving_early_with_asyncio(target, service):
    async def ask():
        async with AsyncClient(target) as client:
            answers = client.predict_stream((PredictRequest(ROWS, "loan") for _ in iter(int, 1)), in_flight=4)
            await anext(answers)
            await answers.aclose()
            assert await asyncio.to_thread(service.over.wait, 60)
            assert len(await client.models()) == 3

    asyncio.run(ask())
