"""GET /metrics over HTTP, for a scraper beside the service: few connections, short requests, nothing kept alive.

What is read of a request is its head, at most `_MAX_HEAD` bytes within `_DEADLINE_S` in all, however slowly it is sent;
`answer` makes the whole reply of it and does no I/O.
"""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from xai_service.errors import Unavailable
from xai_service.metrics.text import CONTENT_TYPE

_log = logging.getLogger(__name__)

_MAX_HEAD = 8192
_DEADLINE_S = 5.0
_CONNECTIONS = 4  # at once, a thread each; the kernel keeps some more waiting
# Accepting fails for want of these, and may go well a moment later.
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_Render = Callable[[], bytes]


class MetricsServer:
    """Listens from the beginning, answers once started.

    Args:
        address: host:port; port 0 for any that is free.
        render: makes the metrics' text; called by one thread at a time.

    Attributes:
        address: with the port that it has.

    Raises:
        Unavailable: the address cannot be listened on.
    """

    def __init__(self, address: str, render: _Render) -> None:
        self._render = render
        self._rendering = threading.Lock()
        host, _, port = address.rpartition(":")
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind(where)
                self._socket.listen(16)
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise Unavailable(
                f"cannot serve metrics on {address!r}: {error.strerror or error}; name another address with "
                "--metrics-listen, or off"
            ) from None
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._threads = [
            threading.Thread(target=self._run, name=f"xai-metrics-{i}", daemon=True) for i in range(_CONNECTIONS)
        ]

    def start(self) -> None:
        """Begins to answer."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Takes no more connections, and waits for those that there are."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes those who wait for connections
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except ConnectionAbortedError:  # it left the queue before its turn
                continue
            except OSError as error:
                if error.errno in _SCARCE:
                    time.sleep(0.1)
                    continue
                return
            with connection:
                try:
                    self._serve(connection)
                except OSError:  # the client's affair
                    pass
                except Exception:  # noqa: BLE001 (the thread outlives it; it is logged whole)
                    _log.exception("a request for metrics failed")

    def _serve(self, connection: socket.socket) -> None:
        head = _read_head(connection, time.monotonic() + _DEADLINE_S)
        if head:
            connection.settimeout(_DEADLINE_S)  # for all of it
            connection.sendall(answer(head, self._one_at_a_time))
            connection.shutdown(socket.SHUT_WR)

    def _one_at_a_time(self) -> bytes:
        with self._rendering:
            return self._render()


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """Returns what came up to the first empty line, or more than `_MAX_HEAD` bytes; less where the sender stopped."""
    head = b""
    while len(head) <= _MAX_HEAD and b"\r\n\r\n" not in head and b"\n\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0:
            return b""
        connection.settimeout(left)
        more = connection.recv(4096)
        if not more:
            break
        head += more
    return head


def answer(head: bytes, render: _Render) -> bytes:
    """Returns the reply to a request, of which ``head`` is all that was read.

    Args:
        head: request line and headers; what follows is not looked at.
        render: makes the metrics' text.
    """
    return _Exchange(head, render).reply


class _Exchange(http.server.BaseHTTPRequestHandler):
    """One request and its reply, in memory."""

    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def __init__(self, head: bytes, render: _Render) -> None:
        self._head = head
        self._render = render
        self.reply = b""
        super().__init__(None, ("", 0), None)  # type: ignore[arg-type]  # setup() below needs no socket, nobody a server

    def setup(self) -> None:
        self.rfile = io.BufferedReader(io.BytesIO(self._head))
        self.wfile = io.BytesIO()

    def handle(self) -> None:
        if len(self._head) > _MAX_HEAD:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self.handle_one_request()

    def finish(self) -> None:
        self.reply = self.wfile.getvalue()  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, "the metrics are at /metrics")
            return
        try:
            body = self._render()
        except Exception:  # noqa: BLE001 (logged whole; the next scrape may fare better)
            _log.exception("the metrics cannot be made")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "the server's log says why")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 (likewise)

    def version_string(self) -> str:
        return "xai-service"

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""
