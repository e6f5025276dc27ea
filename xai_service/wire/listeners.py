"""Addresses to listen on: TCP, by TLS where there are certificates, and Unix sockets with the permissions asked for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xai_service.config import is_unix
from xai_service.errors import Unavailable

_MAX_PATH_BYTES = 107  # of sockaddr_un, without its zero


def listen(server: Any, address: str, *, credentials: Any = None, unix_mode: int = 0o660) -> str:
    """Has a server listen on an address, and returns it with its port.

    Args:
        server: a gRPC server that is not started.
        address: host:port, or unix:PATH.
        credentials: for TCP; ``None`` for plaintext.
        unix_mode: permissions of the socket.

    Raises:
        Unavailable: it cannot be listened on; says why.
    """
    if is_unix(address):
        _listen_unix(server, address, unix_mode)
        return address
    port = _add(server, address, credentials)
    return f"{address.rpartition(':')[0]}:{port}"


def _add(server: Any, address: str, credentials: Any) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address!r}: is it host:port or unix:PATH, and free? ({error})") from None


def _listen_unix(server: Any, address: str, mode: int) -> None:
    """GRPC would remove whatever is at the path, and removes its own socket when it stops."""
    path = Path(address.removeprefix("unix:"))
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise Unavailable(f"cannot listen on {address!r}: the path has more than {_MAX_PATH_BYTES} bytes")
    with _alone_in(path.parent, address):
        _make_way(path, address)
        # The socket is made with its permissions: none could connect in a moment in between.
        before = os.umask(0o777 & ~mode)
        try:
            _add(server, address, None)
        finally:
            os.umask(before)


@contextlib.contextmanager
def _alone_in(folder: Path, address: str) -> Iterator[None]:
    """Two that start at once look and listen one after the other."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"cannot listen on {address!r}: {folder}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_way(path: Path, address: str) -> None:
    """Removes the socket of a process that died; refuses one that answers, and what is no socket."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise Unavailable(f"cannot listen on {address!r}: something else is there, which is not removed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            pass  # nobody listens any more
        except OSError as error:
            raise Unavailable(f"cannot listen on {address!r}: it is there, and {error.strerror or error}") from None
        else:
            raise Unavailable(f"cannot listen on {address!r}: another process does")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"cannot listen on {address!r}: {error.strerror}") from None
