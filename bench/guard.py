"""Guards the hot path: a short Locust run whose ratios are compared with a baseline. ``make bench-guard`` runs it.

A server with the benchmark's model and a plain gRPC echo server share one CPU, Locust has another (where there are
two). Kinds of calls take turns of some tens of milliseconds (`bench/guard_ratios.py`), and ratios are taken round by
round. When a ratio is worse than the baseline allows (`bench/compare.py`), all is measured again, up to twice: what
fails every time is an alarm, and the exit code 1. What else a machine does seldom hits the same ratio thrice; a slower
hot path does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the folder above is where `bench` and `xai_service` are
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import compare, guard_ratios, machine, models, planted, serve_model
from bench.compare import CannotCompare
from bench.contest import ROOT
from bench.tables import grid
from xai_service.config import ServiceConfig
from xai_service.demo.server import XAI, Running, running
from xai_service.errors import XaiError

BASELINE = ROOT / "bench" / "baselines" / "guard.json"
RESULT = ROOT / "var" / "bench" / "guard.json"
SECONDS, ROUNDS = 20.0, 12
ATTEMPTS = 3
_LOCUST_WITHIN_S = 300.0
_ROOM_IN_MEMORY = 1 << 30
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    p = argparse.ArgumentParser(
        prog="guard.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--seconds", type=float, default=SECONDS, help=f"how long to measure ({SECONDS:g})")
    p.add_argument("--update", type=int, metavar="N", default=0, help="measure N times: the baseline from now on")
    p.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="default: bench/baselines/guard.json"
    )
    p.add_argument("--json", type=Path, default=RESULT, metavar="FILE", help="the last result (var/bench/guard.json)")
    p.add_argument("--plant", choices=sorted(planted.FAULTS), help="slow the server down, to see the alarm")
    return p


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def measure(models_folder: Path, seconds: float, plant: str | None) -> dict[str, Any]:
    """Starts the servers, runs Locust, and returns the result as `compare` reads it.

    Args:
        models_folder: with the model, packed.
        seconds: how long.
        plant: of `planted.FAULTS`, or ``None``.

    Raises:
        XaiError: the server failed.
        subprocess.SubprocessError: Locust failed, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="xai-guard-", dir=_work_folder()) as name:
        folder = Path(name)
        rows = models.prepare(models.MODELS[serve_model.SPEC], serve_model.CACHE, say) / "rows.npy"
        cpus = sorted(os.sched_getaffinity(0))
        with contextlib.ExitStack() as stack:
            with _on(cpus[0]):
                servers = {name: stack.enter_context(server) for name, server in _servers(folder, models_folder, plant)}
            say(f"measuring for {seconds:g} s ...")
            with _on(cpus[-1]):
                rounds = _locust(folder, servers, rows, seconds)
        title = models.MODELS[serve_model.SPEC].title
        return {
            "schema": compare.SCHEMA,
            "benchmark": "guard",
            "machine": machine.describe(ROOT),
            "settings": {"seconds": seconds, "rounds": len(rounds), "plant": plant, "pinned": len(cpus) > 1},
            "turns": guard_ratios.totals(rounds),
            "bars": [asdict(bar) for bar in guard_ratios.bars(rounds, title)],
        }


def _servers(folder: Path, models_folder: Path, plant: str | None) -> Iterator[tuple[str, Any]]:
    """The servers by the names that turns know them by, not started yet."""
    command = XAI if plant is None else (sys.executable, str(ROOT / "bench" / "planted.py"), plant)
    options = [
        "--repository",
        str(models_folder),
        "--listen",
        "127.0.0.1:0",
        "--reload-every-s",
        "0",
        "--metrics-listen",
        "off",
    ]
    options += ["--default-budget-ms", "0"]  # on a busy machine explanations would be put off, and look cheap
    yield "xai", running([*options, "--ledger", str(folder / "ledger.sqlite")], command=command)
    if "record" in ServiceConfig.__dataclass_fields__:
        yield (
            "unrecorded",
            running([*options, "--record", "off", "--ledger", str(folder / "off.sqlite")], command=command),
        )
    yield "echo", _echo()


def _work_folder() -> Path | None:
    """Memory, where there is enough of it: how long a disk takes to sync is not what is guarded."""
    with contextlib.suppress(OSError):
        free = os.statvfs(_SHARED_MEMORY)
        if free.f_bavail * free.f_frsize >= _ROOM_IN_MEMORY and os.access(_SHARED_MEMORY, os.W_OK):
            return _SHARED_MEMORY
    return None


@contextlib.contextmanager
def _on(cpu: int) -> Iterator[None]:
    """Processes that are started meanwhile run on this CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _echo() -> Iterator[Running]:
    command = [sys.executable, str(ROOT / "bench" / "echo_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (our own program)
        try:
            assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
            yield Running(json.loads(process.stdout.readline())["listening"][0], process.pid, 0.0)
        finally:
            process.terminate()


def _locust(folder: Path, servers: dict[str, Running], rows: Path, seconds: float) -> list[guard_ratios.Round]:
    out = folder / "rounds.json"
    options = {
        "model": serve_model.NAME,
        "rows": rows,
        "servers": json.dumps({name: [server.target, server.pid] for name, server in servers.items()}),
        "seconds": seconds,
        "rounds": ROUNDS,
        "out": out,
    }
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "bench" / "guard_user.py"), "--headless", "-u", "1"]
    command += [
        "--only-summary",
        "--loglevel",
        "WARNING",
        *(f"--guard-{name}={value}" for name, value in options.items()),
    ]
    done = subprocess.run(  # noqa: S603 (our own program)
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_LOCUST_WITHIN_S, check=False
    )
    if done.returncode or not out.exists():
        raise subprocess.SubprocessError(f"Locust ended with exit code {done.returncode}:\n{done.stdout[-4000:]}")
    return json.loads(out.read_text())


def _measured(path: Path, models_folder: Path, args: argparse.Namespace) -> compare.Baseline:
    document = measure(models_folder, args.seconds, args.plant)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    heading = ["", "p50 ms", "rows/s", "server's CPU µs a request"]
    figures = [(t["name"], t["p50_ms"], t["rows_per_s"], t["cpu_us_per_request"]) for t in document["turns"]]
    print(grid(heading, [[name, f"{a:.3g}", f"{b:,.0f}", f"{c:,.0f}"] for name, a, b, c in figures]) + "\n")
    return compare.read_results([path])


def _judge(result: compare.Baseline, baseline: Path) -> list[compare.Verdict]:
    verdicts, compared = compare.against(compare.read_baselines(baseline), result, other_machine=True)
    print(f"against {compared}\n\n{compare.table(verdicts)}\n", flush=True)
    return compare.failing(verdicts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0, 1 for an alarm, 2 where nothing could be compared."""
    args = parser().parse_args(arguments)
    os.environ.update(serve_model.with_path())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="xai-guard-") as folder:
        serve_model.pack_model(Path(folder), say)
        try:
            return _update(Path(folder), args) if args.update else _guard(Path(folder), args)
        except (CannotCompare, XaiError, subprocess.SubprocessError) as error:
            say(f"guard.py: {error}")
            return 2


def _update(folder: Path, args: argparse.Namespace) -> int:
    paths = [args.json.with_suffix(f".{i}.json") for i in range(args.update)]
    for path in paths:
        _measured(path, folder, args)
    return compare.main([str(args.baseline), *map(str, paths), "--update"])


def _guard(folder: Path, args: argparse.Namespace) -> int:
    alarms: set[str] | None = None
    for attempt in range(1, ATTEMPTS + 1):
        worse = {verdict.ratio.what for verdict in _judge(_measured(args.json, folder, args), args.baseline)}
        alarms = worse if alarms is None else alarms & worse
        if not alarms:
            break
        if attempt < ATTEMPTS:
            say("worse than the baseline allows: measuring again, to be sure ...")
    for what in sorted(alarms or ()):
        print(f"ALARM: {what}")
    print("The hot path is slower than its baseline." if alarms else "The hot path is as fast as its baseline.")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
