"""An HTTP/2 peer that sends the very frames it is told to: for what no well-behaved server would do on request."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


OK_HEADERS = b"\x88" + literal(b"content-type", b"application/grpc")  # 0x88: ":status 200" of the static table
OK_TRAILERS = literal(b"grpc-status", b"0")


def reply(stream, message=b"", compressed=0):
    """All frames of a good answer."""
    return (
        frame(HEADERS, END_HEADERS, stream, OK_HEADERS)
        + frame(DATA, 0, stream, bytes([compressed]) + struct.pack(">I", len(message)) + message)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK_TRAILERS)
    )


class Talk:
    """One connection. `received` is (kind, flags, stream, payload) of all but settings, pings and window updates."""

    def __init__(self, connection):
        self._connection = connection
        self._buffer = b""
        self.received = []

    def send(self, data):
        self._connection.sendall(data)

    def _read(self, size):
        while len(self._buffer) < size:
            chunk = self._connection.recv(1 << 16)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def begin(self, settings=b""):
        assert self._read(len(PREFACE)) == PREFACE
        self.send(frame(SETTINGS, 0, 0, settings))

    def next(self):
        while True:
            head = self._read(9)
            payload = self._read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == DATA and payload:  # the connection's window stays as it is; streams' windows are the scripts'
                self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
            if kind not in (SETTINGS, PING, WINDOW_UPDATE):
                self.received.append((kind, flags, stream, payload))
                return self.received[-1]

    def next_request(self):
        """Returns the stream of the next request, once it has all come."""
        while True:
            kind, flags, stream, _ = self.next()
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                return stream


@contextlib.contextmanager
def peer(*scripts):
    """Serves one connection after another, each by its script, a function of a `Talk`; yields the address.

    The last script serves all connections that follow. What a script raises fails the test at the end.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    failures = []

    def serve():
        with contextlib.suppress(OSError):
            for number in range(1_000):
                connection, _ = listener.accept()
                with connection:
                    try:
                        scripts[min(number, len(scripts) - 1)](Talk(connection))
                    except (EOFError, ConnectionError):
                        pass
                    except Exception as error:  # noqa: BLE001 (raised where the test can see it)
                        failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
    if failures:
        raise failures[0]
