from __future__ import annotations

import os
import signal
import sys
import textwrap

import pytest

from xai_service.demo.server import Running, ServerFailed, running

READY = """
    import json, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    assert sys.argv[1:3] == ["serve", "--json"], sys.argv
    print(json.dumps({"listening": [sys.argv[3]]}), flush=True)
"""
WAIT = """
    while True:
        time.sleep(0.01)
"""


def command(*parts: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "\n".join(textwrap.dedent(part) for part in parts))


def gone(server: Running) -> bool:
    try:
        os.kill(server.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_started_and_stopped() -> None:
    with running(["127.0.0.1:99"], command=command(READY, WAIT)) as server:
        assert server.target == "127.0.0.1:99"
        assert not gone(server)
    assert gone(server)


def test_stopped_when_the_block_fails() -> None:
    with pytest.raises(KeyError), running(["x"], command=command(READY, WAIT)) as server:
        raise KeyError
    assert gone(server)


def test_what_it_wrote_is_shown_when_it_does_not_start() -> None:
    refuses = command("import sys; sys.exit('no such repository')")
    with pytest.raises(ServerFailed, match=r"ended before it was ready \(exit code 1\):\nno such repository"):
        running(["x"], command=refuses).__enter__()


def test_not_ready_in_time() -> None:
    sleeps = command("import sys, time", "print('loading', file=sys.stderr, flush=True)", WAIT)
    with pytest.raises(ServerFailed, match=r"not ready after 0.5 s"):
        running(["x"], command=sleeps, ready_within_s=0.5).__enter__()


def test_what_it_wrote_is_shown_when_it_dies() -> None:
    dies_on_signal = command(READY, "signal.signal(signal.SIGUSR1, lambda *_: sys.exit('out of memory'))", WAIT)

    def lose_it() -> None:
        with running(["x"], command=dies_on_signal) as server:
            os.kill(server.pid, signal.SIGUSR1)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
            raise ConnectionError

    with pytest.raises(ServerFailed, match=r"died \(exit code 1\):\nout of memory"):
        lose_it()


def test_an_exit_code_that_is_not_0_is_an_error() -> None:
    bad_end = command(READY, "signal.signal(signal.SIGTERM, lambda *_: sys.exit('not drained'))", WAIT)
    with (
        pytest.raises(ServerFailed, match=r"exit code 1:\nnot drained"),
        running(["x"], command=bad_end),
    ):
        pass


def test_much_on_stderr_does_not_stop_it() -> None:
    loud = command("import sys", "sys.stderr.write('x' * 10_000_000)", READY, WAIT)
    with running(["x"], command=loud) as server:
        assert server.target == "x"
