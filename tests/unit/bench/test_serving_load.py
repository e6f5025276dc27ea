"""The load generator against gRPC's own server, and against a peer that sends any frame; built with sanitizers."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from bench import serving_load
from bench.serving_load import Generator, Latencies, LoadFailed, Plan, compiled, write_bodies
from tests.unit.bench import h2_peer as h2
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

SANITIZED = ("-std=c++17", "-O0", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=all")  # fmt: skip
METHOD = "/test.Any/Call"
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 1)]


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("loadgen"), SANITIZED)


@pytest.fixture
def serving():
    """Starts gRPC servers that answer `METHOD` with a function of the bytes and the context."""
    servers = []

    def start(answer, threads=8, address="127.0.0.1:0"):
        server = grpc.server(ThreadPoolExecutor(threads), options=NO_LIMIT)
        behaviour = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Any", {"Call": behaviour}),))
        port = server.add_insecure_port(address)
        server.start()
        servers.append(server)
        return address if address.startswith("unix:") else f"127.0.0.1:{port}"

    start.servers = servers
    yield start
    for server in servers:
        server.stop(0)


@pytest.fixture
def load(program, tmp_path):
    """Runs the generator with some bodies; a closed loop of one caller unless told otherwise."""

    def run(target, *bodies, seconds=0.3, warmup_s=0.0, extra=(), **plan):
        path = write_bodies(tmp_path / "bodies", bodies or (b"hello",))
        if "rate" not in plan:
            plan.setdefault("callers", 1)
        return serving_load.run(
            program, Plan(target, METHOD, path, seconds, warmup_s=warmup_s, extra=dict(extra), **plan)
        )

    return run


@pytest.mark.parametrize("unix", [False, True])
def test_real_bodies_go_round_and_all_are_answered(serving, load, tmp_path, unix):
    seen = []
    target = serving(lambda body, _: seen.append(body) or body, 1, f"unix:{tmp_path}/s" if unix else "127.0.0.1:0")
    bodies = [b"one", b"", b"three" * 100]
    found = load(target, *bodies, first_body=2, seconds=1.0)
    assert seen == [bodies[(2 + i) % 3] for i in range(len(seen))]
    assert found.statuses == {"OK": found.due}
    assert found.due == len(seen) == found.ok.count >= 5
    assert found.wrong == found.unanswered == found.shed == 0
    assert found.rate == pytest.approx(found.answered / found.seconds, rel=0.5)


def test_many_callers_share_the_connections(serving, load):
    peers, running, most = set(), [0], [0]
    lock = threading.Lock()

    def answer(body, context):
        with lock:
            peers.add(context.peer())
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002)
        with lock:
            running[0] -= 1
        return body

    found = load(serving(answer, 16), callers=16, connections=4)
    assert found.statuses == {"OK": found.due}
    assert len(peers) == 4
    assert 8 <= most[0] <= 16


def test_statuses_and_messages_are_told_apart(serving, load):
    codes = {b"bad": grpc.StatusCode.INVALID_ARGUMENT, b"full": grpc.StatusCode.RESOURCE_EXHAUSTED}

    def answer(body, context):
        if body in codes:
            context.abort(codes[body], f"“{body.decode()}”, 100 %")
        if body == b"raise":
            raise RuntimeError("a bug")
        return body

    found = load(serving(answer), b"bad", b"fine", b"full", b"raise", callers=4)
    assert set(found.statuses) == {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNKNOWN"}
    assert sum(found.statuses.values()) == found.due
    assert found.reasons["INVALID_ARGUMENT"] == "“bad”, 100 %"
    assert "a bug" in found.reasons["UNKNOWN"]
    assert found.shed == found.statuses["RESOURCE_EXHAUSTED"]
    assert found.wrong == found.due - found.answered - found.shed
    assert found.ok.count == found.answered
    assert found.failed.count == found.due - found.answered
    assert "INVALID_ARGUMENT (“bad”" in found.why_wrong()


def test_a_method_that_is_not_there_is_an_error(serving, program, tmp_path):
    target = serving(lambda body, _: body)
    plan = Plan(target, "/no.Such/Method", write_bodies(tmp_path / "b", [b"x"]), 0.1, callers=1, warmup_s=0.0)
    assert set(serving_load.run(program, plan).statuses) == {"UNIMPLEMENTED"}


def test_bodies_and_replies_larger_than_every_window_arrive_whole(serving, load):
    body = np.random.default_rng(13).bytes(3_000_000)
    seen = set()

    def answer(request, _):
        seen.add(hashlib.sha256(request).digest())
        return request * 2  # six times the stream's window

    found = load(serving(answer), body, callers=4, connections=2, seconds=1.0)
    assert found.statuses == {"OK": found.due}
    assert seen == {hashlib.sha256(body).digest()}


def test_explanations_are_counted(serving, load):
    S = pb.ExplanationStatus
    statuses = {
        b"all": [S.EXPLANATION_STATUS_COMPLETE] * 3,
        b"some": [S.EXPLANATION_STATUS_COMPLETE, S.EXPLANATION_STATUS_DEFERRED, S.EXPLANATION_STATUS_FAILED],
        b"none": [S.EXPLANATION_STATUS_NOT_REQUESTED],
    }

    def answer(body, _):
        if body == b"broken":
            return b"\x5a\x05\x0a\x7f"  # an Explanations that ends amid its length
        reply = pb.PredictResponse(
            model_name="m",
            decision_ids=["id"],
            margin=pb.Tensor(shape=[1], data=b"1234"),
            timings=pb.Timings(budget_ms=3),
        )
        reply.explanations.statuses.extend(statuses[body])
        reply.explanations.detail = "why"
        return reply.SerializeToString()

    target = serving(answer)
    for body, rows, explained in (
        (b"all", {"complete": 3}, 1),
        (b"some", {"complete": 1, "deferred": 1, "failed": 1}, 0),
        (b"none", {"not_requested": 1}, 0),
    ):
        found = load(target, body, extra={"--explained": None, "--budget-ms": 60_000}.items(), seconds=0.1)
        due = dict.fromkeys(("complete", "deferred", "failed", "not_requested"), 0) | rows
        assert found.rows == {state: n * found.answered for state, n in due.items()}
        assert found.explained == found.explained_within_budget == explained * found.answered
        assert found.within_budget == found.answered > 0
        assert found.malformed == 0
    found = load(target, b"broken", extra={"--explained": None}.items(), seconds=0.1)
    assert found.malformed == found.answered > 0
    assert found.explained == 0
    found = load(target, b"all", extra={"--explained": None, "--budget-ms": 0.001}.items(), seconds=0.1)
    assert found.explained > 0
    assert found.within_budget == found.explained_within_budget == 0


def test_deadlines_are_sent_and_kept(serving, load):
    remaining, over = [], threading.Event()

    def answer(body, context):
        remaining.append(context.time_remaining())
        if body == b"slow":
            over.wait(10)
        return body

    target = serving(answer)
    found = load(target, b"slow", callers=2, extra={"--timeout-ms": 50}.items())
    over.set()
    assert set(found.statuses) == {"DEADLINE_EXCEEDED"}
    assert found.ok.count == found.answered == 0
    assert found.wrong == found.due > 2
    assert 0 < max(remaining) <= 0.05
    assert found.expired <= found.due
    found = load(target, b"fast", extra={"--timeout-ms": 60_000}.items())
    assert found.statuses == {"OK": found.due}


def test_an_open_loop_keeps_its_schedule_and_hides_no_queue(serving, load):
    """The server stands still once, for a third of a second: all who were due meanwhile waited, and it shows."""
    first = threading.Lock()

    def answer(body, _):
        if first.acquire(blocking=False):
            time.sleep(0.35)
        return body

    found = load(serving(answer, 1), rate=400, seconds=1.0, extra={"--arrivals": "constant"}.items())
    assert found.due == pytest.approx(400, abs=1)
    assert found.statuses == {"OK": found.due}
    waited_100_ms = found.ok.n[found.ok.low >= 100_000].sum()
    assert waited_100_ms >= 0.2 * 400
    assert found.ok.max >= 350_000


def test_poisson_arrivals(serving, load):
    times = []
    found = load(serving(lambda body, _: times.append(time.monotonic()) or body), rate=300, seconds=2.0)
    assert found.due == pytest.approx(600, abs=6 * np.sqrt(600))
    assert found.statuses == {"OK": found.due}


def test_what_the_generator_cannot_hold_is_said(serving, load):
    gate = threading.Event()
    threading.Timer(1.0, gate.set).start()
    target = serving(lambda body, _: gate.wait(10) and body)
    found = load(target, rate=200, seconds=0.5, extra={"--max-in-flight": 5}.items())
    assert found.not_sent == found.due - 5
    assert found.answered == 5
    assert "not sent" in found.why_wrong()


def test_unanswered_calls_are_counted(serving, load):
    gate = threading.Event()
    try:
        target = serving(lambda body, _: gate.wait(20) and body)
        found = load(target, callers=3, seconds=0.1, extra={"--grace": 0.2}.items())
    finally:
        gate.set()
    assert found.unanswered == found.wrong == found.due == 3


def test_a_draining_server_is_left_for_the_next(serving, load):
    """The first server says GOAWAY amid the run; a second one listens on the same port.

    gRPC's server cancels what reaches it after its shutdown began and before the client knew; so its own clients find.
    """
    served = [0, 0]

    def answer(which):
        def count(body, _):
            served[which] += 1
            return body

        return count

    target = serving(answer(0))
    stopping = threading.Timer(0.3, lambda: (serving(answer(1), address=target), serving.servers[0].stop(5)))
    stopping.start()
    found = load(target, callers=8, connections=4, seconds=1.0)
    stopping.join()
    assert set(found.statuses) <= {"OK", "CANCELLED"}
    assert found.wrong <= 8 * 10
    assert min(served) > 0
    assert 4 <= found.reconnects <= 4 * 100  # there is a pause between two
    assert found.unanswered == 0


def test_a_signal_ends_it_with_its_results(serving, program, tmp_path):
    target = serving(lambda body, _: body)
    plan = Plan(target, METHOD, write_bodies(tmp_path / "b", [b"x"]), 600.0, callers=1, warmup_s=0.0)
    with Generator(program, plan) as generator:
        time.sleep(0.5)
        generator.stop()
        found = generator.result()
    assert found.statuses == {"OK": found.due}
    assert 0 < found.seconds < 60


def test_nobody_there(load):
    with h2.peer(lambda _: None) as target:
        pass
    with pytest.raises(LoadFailed, match="refused"):
        load(target)


def test_each_second_is_told(serving, load):
    found = load(serving(lambda body, _: body), seconds=1.2)
    assert len(found.each_second) == 2
    assert sum(second[0] for second in found.each_second) == found.answered_in_time
    assert all(second[1] == 0 for second in found.each_second)


# What follows needs a peer that misbehaves, or behaves as gRPC's own server rarely does.


def _once(*frames, settings=b""):
    """A script: answers the first request with these frames (functions of its stream), and then nothing."""

    def script(talk):
        talk.begin(settings)
        stream = talk.next_request()
        for make in frames:
            talk.send(make(stream))
        talk.next()

    return script


def _trailers_only(block, flags=h2.END_HEADERS | h2.END_STREAM):
    return lambda stream: h2.frame(h2.HEADERS, flags, stream, block)


def _first(load, script, **options):
    """What becomes of the first call of an open loop that makes but one."""
    with h2.peer(script) as target:
        found = load(target, rate=0.5, seconds=0.05, extra={"--grace": 3}.items(), **options)
    assert found.due == 1
    return found


# Strings and their Huffman codes as RFC 7541 prints them, appendix C.4 and C.6.
HUFFMAN = {
    "www.example.com": "f1e3c2e5f23a6ba0ab90f4ff",
    "no-cache": "a8eb10649cbf",
    "custom-key": "25a849e95ba97d7f",
    "custom-value": "25a849e95bb8e8b4bf",
    "private": "aec3771a4b",
    "Mon, 21 Oct 2013 20:13:21 GMT": "d07abe941054d444a8200595040b8166e082a62d1bff",
    "https://www.example.com": "9d29ad171863c78f0b97c8e9ae82ae43d3",
    "gzip": "9bd9ab",
    "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1": (
        "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    ),
}


@pytest.mark.parametrize("text", HUFFMAN)
def test_huffman_coded_trailers(load, text):
    coded = bytes.fromhex(HUFFMAN[text])
    message = b"\0" + bytes([12]) + b"grpc-message" + bytes([0x80 | len(coded)]) + coded
    found = _first(load, _once(_trailers_only(b"\x88" + h2.literal(b"grpc-status", b"5") + message)))
    assert found.statuses == {"NOT_FOUND": 1}
    assert found.reasons == {"NOT_FOUND": text}


def test_a_huffman_coded_status(load):
    block = b"\x88\x00\x0bgrpc-status\x82\x64\x02"  # "302", as in C.6.1
    assert _first(load, _once(_trailers_only(block))).statuses == {"STATUS_302": 1}


def test_header_blocks_in_pieces_with_padding_and_priority(load):
    def answer(stream):
        padded = b"\x03" + h2.OK_HEADERS[:5] + b"\0\0\0"
        data = b"\x02" + b"\0\0\0\0\x01x" + b"\0\0"
        trailers = b"\0\0\0\0\x10" + h2.OK_TRAILERS[:3]
        return (
            h2.frame(h2.HEADERS, h2.PADDED, stream, padded)
            + h2.frame(h2.CONTINUATION, 0, stream, h2.OK_HEADERS[5:9])
            + h2.frame(h2.CONTINUATION, h2.END_HEADERS, stream, h2.OK_HEADERS[9:])
            + h2.frame(h2.DATA, h2.PADDED, stream, data)
            + h2.frame(0x20, 0, 0, b"a kind of frame that nobody knows yet")
            + h2.frame(h2.HEADERS, h2.END_STREAM | h2.PRIORITY, stream, trailers)
            + h2.frame(h2.CONTINUATION, h2.END_HEADERS, stream, h2.OK_TRAILERS[3:])
        )

    assert _first(load, _once(answer)).statuses == {"OK": 1}


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (_trailers_only(b"\x88"), "UNKNOWN", "without a grpc-status"),
        (_trailers_only(b"\x8d" + h2.OK_TRAILERS), "UNKNOWN", "HTTP status 404"),
        (_trailers_only(b"\x88" + h2.literal(b"grpc-status", b"-1")), "UNKNOWN", ""),
        (_trailers_only(b"\x88" + h2.OK_TRAILERS), "INTERNAL", "not one uncompressed message"),
        (lambda s: h2.reply(s, compressed=1), "INTERNAL", "not one uncompressed message"),
        (lambda s: h2.frame(h2.RST_STREAM, 0, s, struct.pack(">I", 8)), "CANCELLED", "code 8"),
        (lambda s: h2.frame(h2.RST_STREAM, 0, s, struct.pack(">I", 11)), "RESOURCE_EXHAUSTED", "code 11"),
        (lambda s: h2.frame(h2.RST_STREAM, 0, s, struct.pack(">I", 2)), "INTERNAL", "code 2"),
        (_trailers_only(b"\xbe"), "UNAVAILABLE", "table that is not there"),
        (_trailers_only(b"\x3f\xe1\x1f"), "UNAVAILABLE", "larger than was announced"),
        (_trailers_only(b"\x00\x7f\xff\xff\xff\xff\xff\xff"), "UNAVAILABLE", "HPACK"),
        (_trailers_only(b"\x00\x05abc"), "UNAVAILABLE", "passes the block's end"),
        (_trailers_only(b"\x88\x00\x01a\x84\xff\xff\xff\xff"), "UNAVAILABLE", "HPACK"),
        (_trailers_only(b"\x88", flags=h2.END_HEADERS | h2.END_STREAM | h2.PADDED), "UNAVAILABLE", "padding"),
        (lambda _: h2.frame(h2.CONTINUATION, 4, 1, b""), "UNAVAILABLE", "continuation of nothing"),
        (lambda s: h2.frame(h2.HEADERS, 0, s) + h2.frame(h2.PING, 0, 0, b"8" * 8), "UNAVAILABLE", "amid a header"),
        (lambda _: h2.frame(h2.GOAWAY, 0, 0, b"\0"), "UNAVAILABLE", "too short"),
        (lambda _: b"\xff\xff\xff\0\0\0\0\0\0", "UNAVAILABLE", "larger than was announced"),
    ],
)
def test_answers_that_are_wrong(load, answer, status, why):
    found = _first(load, _once(answer))
    assert found.statuses == {status: 1}
    assert why in found.reasons[status]


def test_what_is_no_http2_server(load):
    def script(talk):
        talk.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        talk.next()

    with h2.peer(script) as target, pytest.raises(LoadFailed, match="HTTP/2"):
        load(target)


def test_a_connection_that_dies_takes_its_calls_with_it(load):
    def dies(talk):
        talk.begin()
        talk.next_request()

    with h2.peer(dies) as target:
        found = load(target, rate=0.5, seconds=0.05)
    assert found.statuses == {"UNAVAILABLE": 1}
    assert "closed the connection" in found.reasons["UNAVAILABLE"]


@pytest.mark.parametrize("how", ["goaway", "refused"])
def test_what_the_server_did_not_look_at_is_sent_again(load, how):
    def first(talk):
        talk.begin()
        stream = talk.next_request()
        if how == "goaway":
            talk.send(h2.frame(h2.GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
        else:
            talk.send(h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">I", 7)))
        second(talk, begun=True)

    def second(talk, *, begun=False):
        if not begun:
            talk.begin()
        talk.send(h2.reply(talk.next_request()))
        talk.next()

    with h2.peer(first, second) as target:
        found = load(target, rate=0.5, seconds=0.05)
    assert found.statuses == {"OK": 1}
    assert found.resent == 1
    assert found.reconnects == (how == "goaway")


def test_a_drain_that_keeps_its_word_fails_no_call(load):
    """As RFC 9113 has it: first GOAWAY for streams to come, calls under way answered, and the last stream named."""
    streams = []

    def drains(talk):
        talk.begin()
        for _ in range(5):
            streams.append(talk.next_request())
            talk.send(h2.reply(streams[-1]))
        streams.append(talk.next_request())
        talk.send(h2.frame(h2.GOAWAY, 0, 0, struct.pack(">II", 0x7FFFFFFF, 0)))
        talk.send(h2.reply(streams[-1]) + h2.frame(h2.GOAWAY, 0, 0, struct.pack(">II", streams[-1], 0)))
        with pytest.raises(EOFError):  # the client goes without another word
            talk.next()

    def goes_on(talk):
        talk.begin()
        while True:
            talk.send(h2.reply(talk.next_request()))

    with h2.peer(drains, goes_on) as target:
        found = load(target, seconds=1.0)
    assert streams == [1, 3, 5, 7, 9, 11]
    assert found.statuses == {"OK": found.due}
    assert found.due > 6
    assert (found.reconnects, found.resent) == (1, 0)


def test_windows_and_stream_limits_of_the_server_bind(load):
    """A window of 10 bytes, widened byte by byte; one stream at a time."""
    body = bytes(range(25))
    streams = []

    def script(talk):
        talk.begin(struct.pack(">HIHI", 3, 1, 4, 10))
        while True:
            _, flags, stream, _ = talk.next()
            streams.append(stream)
            assert not flags & h2.END_STREAM
            got = b""
            while not flags & h2.END_STREAM:
                kind, flags, of, payload = talk.next()
                assert (kind, of) == (h2.DATA, stream)
                got += payload
                if len(got) >= 10:
                    assert len(payload) == (10 if len(got) == 10 else 1)
                    talk.send(h2.frame(h2.WINDOW_UPDATE, 0, stream, struct.pack(">I", 1)))
            assert got == b"\0" + struct.pack(">I", 25) + body
            talk.send(h2.reply(stream))

    with h2.peer(script) as target:
        found = load(target, body, callers=3, seconds=0.3)
    assert found.statuses == {"OK": found.due}
    assert streams[:3] == [1, 3, 5]


def test_pings_are_answered(load):
    seen = []

    def script(talk):
        talk.begin()
        stream = talk.next_request()
        talk.send(h2.frame(h2.PING, 0, 0, b"12345678"))
        while True:
            head = talk._read(9)
            payload = talk._read(int.from_bytes(head[:3], "big"))
            if head[3] == h2.PING:
                seen.append((head[4], payload))
                break
        talk.send(h2.reply(stream))
        talk.next()

    assert _first(load, script).statuses == {"OK": 1}
    assert seen == [(h2.ACK, b"12345678")]


# The command line, and what Python makes of a histogram.


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--callers", "1"], "are needed"),
        (["--target", "x", "--method", "/a/b", "--bodies", "f"], "either --callers or --rate"),
        (["--target", "x", "--method", "/a/b", "--bodies", "f", "--rate", "nan"], "not a number"),
        (["--target", "x", "--method", "/a/b", "--bodies", "f", "--rate", "1", "--arrivals", "odd"], "poisson or"),
        (["--nonsense"], "unrecognized option"),
    ],
)
def test_options_that_mean_nothing_are_refused(program, arguments, why):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize(("content", "why"), [(b"", "holds no message"), (b"\x05\0\0\0abc", "amid a message")])
def test_bodies_that_are_none_are_refused(program, tmp_path, content, why):
    path = tmp_path / "bodies"
    path.write_bytes(content)
    with pytest.raises(LoadFailed, match=why):
        serving_load.run(program, Plan("127.0.0.1:1", METHOD, path, 0.1, callers=1))


def test_help_names_every_option(program):
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    source = (serving_load.SOURCE / "options.cpp").read_text()
    names = [line.split('"')[1] for line in source.split("{") if line.startswith('"')]
    assert len(names) > 12
    assert all(f"--{name}" in done.stdout for name in names if name != "help")


def test_a_compiler_that_refuses_is_quoted(tmp_path):
    with pytest.raises(LoadFailed, match="no-such-flag"):
        compiled(tmp_path, ("--no-such-flag",))


def test_quantiles_of_a_histogram():
    rng = np.random.default_rng(13)
    values = rng.lognormal(7, 1, 50_000)
    edges = np.exp(np.linspace(0, 14, 3500))
    n, _ = np.histogram(values, edges)
    latencies = Latencies(edges[:-1][n > 0], edges[1:][n > 0], n[n > 0].astype(float), values.mean(), values.max())
    for q in (0.1, 0.5, 0.9, 0.99, 0.999):
        assert latencies.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.01)
    assert latencies.quantile(1.0) == pytest.approx(values.max())
    both = latencies + latencies
    assert both.count == 2 * latencies.count
    assert both.quantile(0.9) == pytest.approx(latencies.quantile(0.9))
    empty = Latencies.of(json.loads('{"count": 0, "mean": 0, "max": 0, "buckets": []}'))
    assert np.isnan(empty.quantile(0.5))
    assert (empty + latencies).quantile(0.5) == latencies.quantile(0.5)


def test_buckets_are_narrow(serving, load):
    found = load(serving(lambda body, _: body)).ok
    assert (found.low[1:] >= found.high[:-1]).all()
    assert ((found.high - found.low) / found.low).max() < 0.004
    assert found.quantile(1.0) <= found.max
