"""``xai serve`` as a child process: started, awaited, stopped by its own id."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from xai_service.errors import XaiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 15.0
XAI = (sys.executable, "-m", "xai_service.cli")


class ServerFailed(XaiError):
    """The service did not start, did not stop, or died; the message ends with what it wrote to stderr."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service that is ready.

    Attributes:
        target: for `xai_service.client.Client`.
        pid: the process.
        ready_after_s: seconds from its start until it said so.
    """

    target: str
    pid: int
    ready_after_s: float


@contextlib.contextmanager
def running(
    options: Sequence[str], *, command: Sequence[str] = XAI, ready_within_s: float = READY_WITHIN_S
) -> Iterator[Running]:
    """Runs ``xai serve --json`` with ``options`` for as long as the block lasts, and stops it by SIGTERM.

    Raises:
        ServerFailed: it was not ready in time, died meanwhile, or did not end with exit code 0 after SIGTERM.
    """
    started = time.monotonic()
    # stderr goes to a file: a pipe that nobody reads would stop the server once it is full.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own program, with our own arguments
            [*command, "serve", "--json", *options], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            target = _first_address(process, errors, ready_within_s)
            yield Running(target, process.pid, time.monotonic() - started)
        except ServerFailed:
            raise
        except Exception as error:
            if process.poll() is None:
                raise
            raise ServerFailed(f"the server died (exit code {process.poll()}):\n{_text(errors)}") from error
        finally:
            code = _stop(process)
        if code != 0:
            raise ServerFailed(f"told to stop, the server ended with exit code {code}:\n{_text(errors)}")


def _first_address(process: subprocess.Popen[str], errors: IO[str], within_s: float) -> str:
    """The first address in the line of JSON that says that the server is ready."""
    lines: list[str] = []

    def read() -> None:
        if process.stdout is not None:
            with process.stdout as stdout:
                lines.append(stdout.readline())
                stdout.read()

    threading.Thread(target=read, daemon=True).start()
    end = time.monotonic() + within_s
    while not lines and time.monotonic() < end:
        time.sleep(0.01)
    if not lines:
        raise ServerFailed(f"the server was not ready after {within_s:g} s:\n{_text(errors)}")
    try:
        return str(json.loads(lines[0])["listening"][0])
    except (ValueError, LookupError, TypeError) as error:
        code = _stop(process)
        raise ServerFailed(f"the server ended before it was ready (exit code {code}):\n{_text(errors)}") from error


def _stop(process: subprocess.Popen[str]) -> int:
    """SIGTERM, then SIGKILL for one that does not heed it. Returns the exit code; harmless when it has ended."""
    process.terminate()
    try:
        return process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _text(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read().rstrip()[-4000:] or "(it wrote nothing to stderr)"
