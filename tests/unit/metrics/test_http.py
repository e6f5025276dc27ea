"""The metrics' HTTP: what is answered, and that nothing a client does stops it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.errors import Unavailable
from xai_service.metrics import http as module
from xai_service.metrics.http import MetricsServer, answer

TEXT = b"xai_some 1\n"


@pytest.fixture
def serve():
    with contextlib.ExitStack() as servers:

        def made(render=lambda: TEXT):
            server = MetricsServer("127.0.0.1:0", render)
            server.start()
            servers.callback(server.close)
            return server

        yield made


def ask(server, method="GET", path="/metrics"):
    with contextlib.closing(http.client.HTTPConnection(server.address, timeout=30)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()


def raw(server):
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_get_and_head(serve):
    server = serve()
    response, body = ask(server)
    assert (response.status, body) == (200, TEXT)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Connection"] == "close"
    assert response.headers["Server"] == "xai-service"
    response, body = ask(server, "HEAD", "/metrics?debug=1")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", str(len(TEXT)))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/../etc/passwd", 404), ("POST", "/metrics", 501), ("BREW", "/", 501)],
)
def test_anything_else_is_refused(serve, method, path, status):
    response, body = ask(serve(), method, path)
    assert response.status == status
    assert TEXT not in body


def test_a_failure_is_told_logged_and_over_with_the_next(serve, caplog):
    outcomes = [ZeroDivisionError("secret"), TEXT]

    def render():
        one = outcomes.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    server = serve(render)
    response, body = ask(server)
    assert response.status == 500
    assert b"secret" not in body
    assert "the metrics cannot be made" in caplog.text
    assert ask(server)[1] == TEXT


def test_a_port_that_is_taken_and_a_host_that_is_none():
    server = MetricsServer("127.0.0.1:0", lambda: TEXT)
    with pytest.raises(Unavailable, match=r"cannot serve metrics on '127.0.0.1:\d+': .*in use; name another .*off"):
        MetricsServer(server.address, lambda: TEXT)
    server.close()
    again = MetricsServer(server.address, lambda: TEXT)  # free again
    again.close()
    with pytest.raises(Unavailable, match=r"cannot serve metrics on '192\.0\.2\.1:80'"):  # of no machine (RFC 5737)
        MetricsServer("192.0.2.1:80", lambda: TEXT)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda more: b"GET /metrics HTTP/1.1\r\n" + more))
def test_whatever_is_sent_is_answered_or_not_but_never_an_error(head):
    reply = answer(head, lambda: TEXT)
    assert reply in (b"", TEXT) or reply.startswith((b"HTTP/1.0 ", b"400 ", b"404 ", b"50"))


@pytest.mark.parametrize("head", [b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, b"x" * 100_000])
def test_a_head_that_is_too_long_is_refused_before_it_is_all_read(serve, head):
    server = serve()
    with raw(server) as connection:
        with contextlib.suppress(OSError):  # it need not be taken whole
            connection.sendall(head)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100).startswith(b"HTTP/1.0 431 ")
    assert ask(server)[1] == TEXT


def test_silent_and_slow_clients_are_let_go(serve, monkeypatch):
    monkeypatch.setattr(module, "_DEADLINE_S", 0.3)
    server = serve()
    with contextlib.ExitStack() as clients:
        idle = [clients.enter_context(raw(server)) for _ in range(12)]  # three for each thread
        stop = threading.Event()

        def drip():
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    idle[0].sendall(b"G")  # each byte alone comes in time

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert ask(server)[1] == TEXT
        assert idle[0].recv(1) == b""
        stop.set()
        dripping.join()


def test_clients_that_leave_are_no_matter(serve):
    server = serve(lambda: TEXT * 1_000_000)  # more than a socket takes at once
    for sent in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"):
        for _ in range(5):
            with raw(server) as connection:
                connection.sendall(sent)  # and nothing is read
    connection = raw(server)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    assert ask(server)[0].status == 200


def test_one_scrape_is_made_at_a_time(serve):
    inside, most = [0], []

    def render():
        inside[0] += 1
        most.append(inside[0])
        threading.Event().wait(0.01)
        inside[0] -= 1
        return TEXT

    server = serve(render)
    asking = [threading.Thread(target=ask, args=(server,)) for _ in range(12)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert most == [1] * 12
