"""Several processes that serve as one: shared port, a socket and a ledger each, one decision found by all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.processes import YES, check, started
from xai_service.client import Client, RequestFailed
from xai_service.ledger.store import Ledger


@pytest.fixture
def options(loan_repository, tmp_path):
    return [
        "--repository", loan_repository, "--ledger", tmp_path / "l.sqlite", "--workers", 2,
        "--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/s", "--health-listen", "127.0.0.1:0",
    ]  # fmt: skip


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_serve_as_one(options, loans, tmp_path):
    rows = loans.held_out
    with started(*options) as process:
        tcp, *unix = process.listening()
        assert unix == [f"unix:{tmp_path}/s.0", f"unix:{tmp_path}/s.1"]
        probe = process.logged(r"answering health checks on (\S+)")[1]
        assert {check(probe, "model/loan") for _ in range(8)} == {YES}

        # Each keeps to a CPU of its own.
        cpus = [os.sched_getaffinity(pid) for pid in children(process.popen.pid)]
        mine = sorted(os.sched_getaffinity(0))
        assert sorted(map(sorted, cpus)) == sorted([[mine[i % len(mine)]] for i in range(2)])

        # Connections are spread over both, and any of the two finds what the other decided.
        ids = {}
        for address in [*unix, *[tcp] * 24]:
            with Client(address) as client:
                ids[client.predict(rows.iloc[:1], "loan").decision_ids[0]] = address
        for address in (*unix, tcp):
            with Client(address) as client:
                for decision_id in ids:
                    assert client.decision(decision_id).decision_id == decision_id
                    assert client.explanation(decision_id, wait_s=20).attributions is not None
                with pytest.raises(RequestFailed, match="NOT_FOUND"):
                    client.decision("01a20fe1-7a16-7162-aee9-7c27bb36028c")

        # A second one on the same port is refused, though the port could be shared.
        with started(*options[:4], "--workers", 2, "--listen", tcp) as other:
            assert other.ended() == 1
            assert f"cannot listen on '{tcp}'" in other.log

        # One dies, and is there again; its socket is taken over.
        os.kill(children(process.popen.pid)[0], signal.SIGKILL)
        process.logged("ended by SIGKILL; it is started again")
        process.logged(r"(?s)started again.*listening on")
        for address in unix:
            with Client(address) as client:
                ids[client.predict(rows.iloc[:1], "loan").decision_ids[0]] = address

        process.popen.send_signal(signal.SIGTERM)
        assert process.ended() == 0
    counts = []
    for number in range(2):
        with Ledger(tmp_path / f"l.{number}.sqlite") as ledger:
            counts.append(ledger.count())
    assert sum(counts) == len(ids)
    assert min(counts) >= 1
    assert sorted(path.name for path in tmp_path.glob("s*")) == []


def test_one_that_cannot_start_ends_all(options, tmp_path):
    (tmp_path / "l.1.sqlite").write_bytes(b"no ledger" * 50)
    with started(*options) as process:
        assert process.ended() == 1
        assert "l.1.sqlite is no ledger" in process.log
        assert "worker 1 could not start" in process.log
        assert process.popen.stdout.read() == ""
