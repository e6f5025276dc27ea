"""The supervisor, with workers that are a few lines of Python."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from xai_service import workers
from xai_service.config import ServiceConfig
from xai_service.errors import Unavailable
from xai_service.workers import Supervisor, addresses_of, ledger_of, shared_ports, this_worker

GOOD = """
import json, os, signal, sys, time
number = os.environ["XAI_WORKER"]
with open(f"log.{number}", "a") as log: log.write(f"{os.getpid()}\\n")
def told(received, _):
    with open(f"log.{number}", "a") as log: log.write(f"{signal.Signals(received).name}\\n")
    if received != signal.SIGHUP: sys.exit(0)
for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(one, told)
print("not JSON"); print(json.dumps({"listening": ["127.0.0.1:1", f"unix:s.{number}"]}), flush=True)
while True: time.sleep(60)
"""


def test_what_is_one_for_each_worker():
    assert ledger_of(Path("var/ledger.sqlite"), 3) == Path("var/ledger.3.sqlite")
    assert ledger_of(Path("var/l"), 0) == Path("var/l.0")
    assert ledger_of(Path("l.sqlite"), None) == Path("l.sqlite")
    assert addresses_of(("127.0.0.1:8001", "unix:/s"), 1) == ("127.0.0.1:8001", "unix:/s.1")
    assert addresses_of(("unix:/s",), None) == ("unix:/s",)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), ("", None), ("x", None), ("-1", None)])
def test_a_worker_knows_its_number(monkeypatch, text, number):
    monkeypatch.setenv("XAI_WORKER", text)
    assert this_worker() == number
    monkeypatch.delenv("XAI_WORKER")
    assert this_worker() is None


@pytest.mark.parametrize(
    ("settings", "pinned"),
    [({}, False), ({"pin": True}, True), ({"workers": 2}, True), ({"workers": 2, "pin": False}, False)],
)
def test_who_is_pinned(monkeypatch, settings, pinned):
    cpus = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, some: cpus.append(some))
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    config = ServiceConfig(repository=Path("x"), **settings)
    for number in (0, 1, 2, 3, 4):
        workers.settle(config, number)
    assert cpus == ([{2}, {5}, {7}, {2}, {5}] if pinned else [])


def test_ports_are_resolved_once_and_held():
    with shared_ports(("127.0.0.1:0", "unix:/s", "localhost:0")) as (first, unix, second):
        assert unix == "unix:/s"
        assert second.startswith("localhost:")
        port = int(first.rpartition(":")[2])
        with socket.socket() as worker:  # a worker listens there, as gRPC does
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
            with socket.create_connection(("127.0.0.1", port)):  # and all connections are its
                worker.accept()[0].close()
            # but not those of another supervisor, nor of a lone server
            with pytest.raises(Unavailable, match=f"cannot listen on '{first}'"), shared_ports((first,)):
                pass
        with pytest.raises(Unavailable), shared_ports((first,)):  # held, though nobody listens now
            pass
    with shared_ports((first,)) as again:  # whatever connections lie in TIME_WAIT
        assert again == (first,)
    with pytest.raises(Unavailable, match="is it host:port"), shared_ports(("nowhere.invalid:1",)):
        pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a supervisor of workers that run ``code``; ``then`` is called in a thread once all are ready."""
    monkeypatch.chdir(tmp_path)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    told = []

    def run(code, then, count=2):
        (tmp_path / "worker.py").write_text(textwrap.dedent(code))
        ready = threading.Event()

        def on_ready(addresses):
            told.append(addresses)
            ready.set()

        def act():
            if ready.wait(20) and told:
                then()

        thread = threading.Thread(target=act)
        thread.start()
        code = Supervisor([sys.executable, "-S", "worker.py"], count, on_ready).run()
        ready.set()
        thread.join()
        return code, told

    yield run
    for one, handler in handlers.items():
        signal.signal(one, handler)


def log(number):
    return Path(f"log.{number}").read_text().split()


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def end():
    os.kill(os.getpid(), signal.SIGTERM)


def test_all_are_told_to_end_and_to_reload(run):
    def then():
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: all("SIGHUP" in log(i) for i in range(3)))
        end()

    code, told = run(GOOD, then, 3)
    assert code == 0
    assert told == [("127.0.0.1:1", "unix:s.0", "unix:s.1", "unix:s.2")]
    for number in range(3):
        assert log(number)[1:] == ["SIGHUP", "SIGTERM"]


def test_one_that_dies_is_started_again_and_the_others_go_on(run, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_FIRST_PAUSE_S", 0.01)

    def then():
        for turn in range(1, 4):
            os.kill(int(log(1)[-1]), signal.SIGKILL)
            until(lambda turn=turn: len(log(1)) == turn + 1)
        until(lambda: caplog.text.count("worker 1 ended by SIGKILL") == 3)
        time.sleep(0.2)  # the last one may not have its handlers yet
        end()

    code, told = run(GOOD, then)
    assert code == 0
    assert len(told) == 1
    assert len(log(0)) == 2
    assert log(1)[-1] == "SIGTERM"
    assert [f"again in {pause}" in caplog.text for pause in ("0.0 s", "1.0 s")] == [True, False]


def test_the_pause_doubles_and_is_bounded_and_ends_with_a_long_service(monkeypatch):
    supervisor = Supervisor(["true"], 1, print)
    supervisor._told = True
    supervisor._places = [workers._Worker(addresses=("x",))]
    place, now = supervisor._places[0], [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = []
    for _ in range(10):
        place.started_s = now[0]
        supervisor._ended(0, 1)
        pauses.append(place.restart_at_s - now[0])
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    place.started_s = now[0] - 61
    supervisor._ended(0, 1)
    assert place.restart_at_s == now[0]


@pytest.mark.parametrize("how", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_one_that_cannot_start_ends_them_all(run, caplog, how):
    code, told = run(
        GOOD.replace("for one in", f'if number == "1": {how}\nfor one in', 1), lambda: pytest.fail("it was ready")
    )
    assert (code, told) == (1, [])
    assert "worker 1 could not start, it ended " + ("with code 3" if "exit" in how else "by SIGKILL") in caplog.text


def test_one_that_does_not_end_well_is_told(run, caplog):
    code, _ = run(GOOD.replace("sys.exit(0)", "sys.exit(int(number) * 5)"), end)
    assert code == 1
    assert "worker 1 ended with code 5" in caplog.text


def test_a_second_signal_goes_on_to_the_workers(run):
    def then():
        end()
        until(lambda: all("SIGTERM" in log(i) for i in range(2)))
        end()

    once = "if received != signal.SIGHUP: sys.exit(0)"
    code, _ = run(GOOD.replace(once, "told.n = getattr(told, 'n', 0) + 1\n    if told.n == 2: sys.exit(0)"), then)
    assert code == 0
    assert [log(i)[1:] for i in range(2)] == [["SIGTERM", "SIGTERM"]] * 2


def test_signals_to_those_that_still_start_do_no_harm(caplog):
    """Before they have handlers, SIGHUP would kill them, and SIGTERM does."""
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(60)"], 2, print)
    supervisor._events.put(workers._Event(signal=signal.SIGHUP))
    supervisor._events.put(workers._Event(signal=signal.SIGTERM))
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        assert supervisor.run() == 0
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert caplog.text == ""


def test_workers_end_with_a_supervisor_that_was_killed(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, time, pathlib\n"
        "from xai_service import workers, config\n"
        "workers.settle(config.ServiceConfig(repository=pathlib.Path('x'), pin=False), workers.this_worker())\n"
        "import os; print(json.dumps({'listening': [str(os.getpid())]}), flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    code = (
        "import sys; from xai_service.workers import Supervisor\n"
        "Supervisor([sys.executable, sys.argv[1]], 2, lambda all: print(*all, flush=True)).run()\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, worker], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    assert len(pids) == 2
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()

    def gone(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(lambda: all(gone(pid) for pid in pids))
