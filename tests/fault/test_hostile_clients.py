"""Clients that are slow, vanish, or only hold connections: a real caller beside them is served all the same."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.certificates import Authority
from tests.conftest import serving
from tests.e2e.processes import YES, check
from xai_service.client import Client, RequestFailed
from xai_service.wire import server as server_module
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import to_tensor

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty SETTINGS
# HEADERS, END_HEADERS, of a POST whose path HPACK spells out, then a message that is announced and never sent.
AUTHORITY = Authority()


def connect(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def half_a_request(stream=1, announced=1000, sent=b"half"):
    headers = b"".join(
        literal(*one)
        for one in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/xai.v1.DecisionService/Predict"),
            (b":authority", b"x"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
        )
    )  # fmt: skip
    message = b"\0" + announced.to_bytes(4, "big") + sent
    return frame(1, 4, stream, headers) + frame(0, 0, stream, message)


@pytest.fixture
def row(loans):
    return loans.held_out.iloc[:1]


def test_callers_that_fall_silent_amid_a_request_are_found_out(loan_repository, tmp_path, row, monkeypatch):
    """A thread waits for each one's message, they are more than there are threads: pings tell that nobody is there."""
    monkeypatch.setattr(server_module, "_PING_AFTER_MS", 500)
    monkeypatch.setattr(server_module, "_PING_TIMEOUT_MS", 500)
    with (
        serving(loan_repository, tmp_path / "l", rpc_threads=2, max_waiting_rpcs=64) as server,
        contextlib.ExitStack() as open_,
    ):
        for _ in range(16):
            slow = open_.enter_context(connect(server.addresses[0]))
            slow.sendall(PREFACE + half_a_request())
        with Client(server.addresses[0], timeout_s=60) as client:
            for _ in range(20):
                assert client.predict(row, "loan").decision_ids
        assert server._service._ledger.count() == 20


def test_callers_that_vanish_in_every_way(loan_repository, tmp_path, row):
    request = pb.PredictRequest(model_name="loan", input=to_tensor(np.repeat(row.to_numpy(np.float32), 200, 0)))
    raw = request.SerializeToString()
    whole = half_a_request(announced=len(raw), sent=raw[:16000])
    with serving(loan_repository, tmp_path / "l") as server:
        address = server.addresses[0]
        before = descriptors()
        for turn in range(60):
            with connect(address) as gone:
                part = (PREFACE + whole)[: 1 + turn * 97 % len(whole)]
                gone.sendall(part)
                if turn % 3 == 0:  # a reset instead of an orderly end
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with grpc.insecure_channel(address) as channel:  # cancelled amid the work
            calls = [channel.unary_unary("/xai.v1.DecisionService/Predict").future(raw, timeout=30) for _ in range(40)]
            for call in calls[::2]:
                call.cancel()
            for call in calls[1::2]:
                assert call.result()
        with Client(address, timeout_s=20) as client:
            assert client.predict(row, "loan").decision_ids
        end = threading.Event()
        for _ in range(500):  # every connection is let go of
            if descriptors() <= before + 8:
                break
            end.wait(0.02)
        assert descriptors() <= before + 8


@pytest.mark.parametrize(
    "junk", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1", b"\xff" * 5000, PREFACE[:10]]
)
def test_what_is_no_grpc(loan_repository, tmp_path, row, junk):
    with serving(loan_repository, tmp_path / "l") as server:
        address = server.addresses[0]
        for _ in range(20):
            with connect(address) as strange:
                strange.sendall(junk)
        with Client(address, timeout_s=20) as client:
            assert client.predict(row, "loan").decision_ids


def test_handshakes_that_never_end(loan_repository, tmp_path, row):
    certificate, key = AUTHORITY.issue().write(tmp_path, "server")
    (tmp_path / "ca").write_bytes(AUTHORITY.pem)
    settings = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": tmp_path / "ca"}
    mine = AUTHORITY.issue("me")
    with serving(loan_repository, tmp_path / "l", **settings) as server, contextlib.ExitStack() as open_:
        address = server.addresses[0]
        for turn in range(100):
            silent = open_.enter_context(connect(address))
            silent.sendall(b"\x16\x03\x01\x02\0\1"[: turn % 7])
        for wrong in (None, Authority().issue("me"), AUTHORITY.issue("me", valid_days=(-9, -1))):
            for _ in range(10):
                with (
                    pytest.raises((RequestFailed, ssl.SSLError)),
                    Client(
                        address,
                        root_certificates=AUTHORITY.pem,
                        certificate=wrong and wrong.certificate,
                        key=wrong and wrong.key,
                        timeout_s=5,
                    ) as stranger,
                ):
                    stranger.predict(row, "loan")
        with Client(
            address, root_certificates=AUTHORITY.pem, certificate=mine.certificate, key=mine.key, timeout_s=20
        ) as client:
            assert client.predict(row, "loan").decision_ids
        assert server._service._ledger.count() == 1


def test_thousands_of_idle_connections(loan_repository, tmp_path, row):
    """As many as this process may open, both ends of each being here, up to 8,000."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(8000, (limit - 500) // 2)
    if count < 500:
        pytest.skip(f"only {limit} files may be open")
    with serving(loan_repository, tmp_path / "l") as server, contextlib.ExitStack() as open_:
        address = server.addresses[0]
        for _ in range(count):
            open_.enter_context(connect(address)).sendall(PREFACE)
        with Client(address, timeout_s=30) as client:
            for _ in range(50):
                assert client.predict(row, "loan").decision_ids
        assert check(address) == YES
