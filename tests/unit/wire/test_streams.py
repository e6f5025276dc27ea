"""The machinery of streams, over real gRPC: what is answered, by how many threads, and how a stream ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
import time

import grpc
import pytest

from xai_service.errors import Overloaded
from xai_service.wire.streams import Streams

_METHOD = "/test.Echo/Stream"


class Answers:
    """Answers a message with itself; ``hold…`` waits until it is released, and counts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.release = threading.Event()
        self.begun: list[bytes] = []
        self.now = self.most = 0

    def __call__(self, message, context):
        assert context.is_active()
        with self.lock:
            self.begun.append(message)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if message.startswith(b"hold"):
                assert self.release.wait(30)
            if message == b"fail":
                raise ZeroDivisionError
            if message == b"refuse":
                raise Overloaded("not now")
            return message * 100_000 if message == b"large" else message
        finally:
            with self.lock:
                self.now -= 1

    def wait_for(self, n):
        until(lambda: len(self.begun) >= n)


def until(condition):
    """Waits for what is sure to come; the test's timeout ends it otherwise."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@contextlib.contextmanager
def serving(at_once=8, **settings):
    """Yields the answers, the streams and a channel; gRPC's own threads are two."""
    answers, streams = Answers(), Streams(at_once, **settings)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 4096)])
    handler = grpc.stream_stream_rpc_method_handler(streams.handler(answers))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Stream": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield answers, streams, channel
    finally:
        answers.release.set()
        server.stop(0).wait()
        until(lambda: not streams._open)
        streams._threads.shutdown()


class Sender:
    """Messages to send, one at a time, until it is closed."""

    def __init__(self, channel, *messages):
        self._queue = queue.SimpleQueue()
        for message in messages:
            self.send(message)
        self.answers = channel.stream_stream(_METHOD)(iter(self._queue.get, None))

    def send(self, message):
        self._queue.put(message)

    def close(self):
        self._queue.put(None)


def _turns():
    return sum(thread.name.startswith("xai-stream-turn") for thread in threading.enumerate())


def test_every_message_is_answered_once():
    with serving() as (_, _, channel):
        messages = [b"%d" % i for i in range(500)]
        got = list(channel.stream_stream(_METHOD)(iter(messages)))
        assert sorted(got) == sorted(messages)


def test_an_empty_stream_ends_well():
    with serving() as (_, _, channel):
        assert list(channel.stream_stream(_METHOD)(iter(()))) == []


def test_a_slow_request_holds_up_no_other():
    with serving() as (answers, _, channel):
        sender = Sender(channel, b"hold", *[b"%d" % i for i in range(50)])
        assert sorted(next(sender.answers) for _ in range(50)) == sorted(b"%d" % i for i in range(50))
        answers.release.set()
        assert next(sender.answers) == b"hold"
        sender.close()
        assert list(sender.answers) == []


def test_one_at_a_time_needs_two_threads():
    with serving() as (_, _, channel):
        before = _turns()
        sender = Sender(channel)
        for i in range(50):
            sender.send(b"%d" % i)
            assert next(sender.answers) == b"%d" % i
        assert _turns() - before <= 3  # now and then the next is sent before the thread of the one before is free
        sender.close()
        assert list(sender.answers) == []


def test_no_more_is_read_than_may_be_under_way():
    with serving(in_flight=3) as (answers, _, channel):
        sender = Sender(channel, *[b"hold%d" % i for i in range(10)])
        answers.wait_for(3)
        sender.send(b"one more")
        time.sleep(0.1)  # if it were to read on, it would have by now; else this proves nothing, and fails nothing
        assert len(answers.begun) == 3
        answers.release.set()
        sender.close()
        assert len(list(sender.answers)) == 11
        assert answers.most == 3


def test_all_streams_together_are_bounded():
    with serving(at_once=2) as (answers, _, channel):
        senders = [Sender(channel, b"hold%d" % i) for i in range(5)]
        answers.wait_for(2)
        time.sleep(0.1)  # as above
        assert len(answers.begun) == 2
        answers.release.set()
        for sender in senders:
            sender.close()
            assert len(list(sender.answers)) == 1
        assert answers.most == 2


def test_a_caller_who_does_not_read_stops_nobody_else():
    with serving(at_once=2, in_flight=4) as (answers, _, channel):
        deaf = Sender(channel, *[b"large"] * 200)  # half a megabyte each, which no buffer holds
        until(lambda: len(answers.begun) >= 4)
        assert list(channel.stream_stream(_METHOD)(iter([b"a"] * 50))) == [b"a"] * 50
        assert answers.begun.count(b"large") < 200
        deaf.close()
        assert sum(1 for _ in deaf.answers) == 200


def test_a_caller_who_leaves_frees_his_threads_and_what_was_not_begun():
    with serving(at_once=1, in_flight=4) as (answers, streams, channel):
        sender = Sender(channel, *[b"hold%d" % i for i in range(20)])
        answers.wait_for(1)
        until(lambda: next(iter(streams._open))._under_way == 4)
        sender.answers.cancel()
        until(lambda: next(iter(streams._open))._ended)
        answers.release.set()
        until(lambda: not streams._open)
        assert len(answers.begun) == 1  # three were read and waited for their turn
        assert list(channel.stream_stream(_METHOD)(iter([b"a"]))) == [b"a"]


@pytest.mark.parametrize("messages", [(), (b"a",)])
def test_drain_ends_an_idle_stream(messages):
    with serving() as (_, streams, channel):
        sender = Sender(channel, *messages)
        for message in messages:
            assert next(sender.answers) == message
        until(lambda: streams._open)
        streams.drain()
        with pytest.raises(grpc.RpcError) as caught:
            next(sender.answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "were not begun" in caught.value.details()
        sender.close()


def test_drain_answers_what_was_read_and_nothing_more():
    with serving(in_flight=2) as (answers, streams, channel):
        sender = Sender(channel, b"hold1", b"hold2", b"hold3")
        answers.wait_for(2)
        streams.drain()
        answers.release.set()
        got = [next(sender.answers), next(sender.answers)]
        assert sorted(got) == [b"hold1", b"hold2"]
        with pytest.raises(grpc.RpcError) as caught:
            next(sender.answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert sorted(answers.begun) == [b"hold1", b"hold2"]
        with pytest.raises(grpc.RpcError, match="shutting down"):
            next(channel.stream_stream(_METHOD)(iter([b"a"])))
        sender.close()


def test_a_stream_too_many_is_refused_with_advice():
    with serving(streams=2) as (_, streams, channel):
        senders = [Sender(channel, b"a") for _ in range(2)]
        for sender in senders:
            assert next(sender.answers) == b"a"
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(_METHOD)(iter([b"b"])))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata())
        senders[0].close()
        assert list(senders[0].answers) == []
        until(lambda: len(streams._open) == 1)
        assert list(channel.stream_stream(_METHOD)(iter([b"b"]))) == [b"b"]
        senders[1].close()


@pytest.mark.parametrize(
    ("message", "code"),
    [(b"fail", grpc.StatusCode.INTERNAL), (b"refuse", grpc.StatusCode.RESOURCE_EXHAUSTED)],
)
def test_a_bug_in_the_answer_ends_the_stream_with_its_status(message, code, caplog):
    with serving() as (_, _, channel):
        sender = Sender(channel, b"a", message)
        assert next(sender.answers) == b"a"
        with pytest.raises(grpc.RpcError) as caught:
            next(sender.answers)
        assert caught.value.code() is code
        assert "a stream ends" in caplog.text
        sender.close()


def test_a_message_too_large_ends_the_stream_alone():
    with serving() as (_, streams, channel):
        sender = Sender(channel, b"a", b"x" * 5000)
        with pytest.raises(grpc.RpcError) as caught:
            list(sender.answers)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: not streams._open)
        assert list(channel.stream_stream(_METHOD)(iter([b"b"]))) == [b"b"]
        sender.close()
