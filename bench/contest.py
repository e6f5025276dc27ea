"""Contestants as seen from the benchmark: a name, an environment, and a process that answers (`bench.worker`)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xai_service.types import Float64Array

ROOT = Path(__file__).resolve().parents[1]
HERE = "here"  # this interpreter; other environments are folders below the peers' folder
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Who takes part.

    Attributes:
        name: in tables and on the command line.
        kind: "module:Class" of the contestant.
        environments: where it may run; the first that exists is taken.
        variables: environment variables of its process.
        pinned: whether to one core.
    """

    name: str
    kind: str
    environments: tuple[str, ...] = (HERE,)
    variables: Mapping[str, str] = field(default_factory=dict)
    pinned: bool = True


OURS, FLOOR = "ours", "onnxruntime"
ONE_WORKER, TWO_WORKERS = "ours, one worker", "ours, two workers"
RIVALS = {
    entry.name: entry
    for entry in (
        Entry("xgboost", "bench.rivals:XGBoost"),
        Entry("xgboost-newest", "bench.rivals:XGBoost", ("newest",)),
        Entry("lightgbm", "bench.rivals:LightGBM", ("newest", HERE)),
        Entry("shap", "bench.rivals:Shap", ("newest", HERE)),
        Entry("shapiq", "bench.rivals:Shapiq", ("newest", HERE)),
        Entry("fasttreeshap", "bench.rivals:FastTreeShap", ("fasttreeshap", HERE)),
    )
}
OURS_ENTRY, FLOOR_ENTRY = Entry(OURS, "bench.ours:Ours"), Entry(FLOOR, "bench.ours:Floor")
POOL_ENTRIES = (
    Entry(ONE_WORKER, "bench.ours:OneWorker", pinned=False),
    Entry(TWO_WORKERS, "bench.ours:TwoWorkers", pinned=False),
)


def forced(isa: str) -> Entry:
    """Ours, with the instruction set forced."""
    return Entry(f"{OURS}, {isa}", "bench.ours:Ours", variables={"XAI_ISA": isa})


class Failed(Exception):
    """The contestant cannot do what was asked; the message is the reason."""


class Remote:
    """A contestant's process. Raises `Failed` for whatever goes wrong there; it starts again at the next load."""

    def __init__(self, entry: Entry, peers: Path, core: int) -> None:
        self.name = entry.name
        self.detail = self.python = ""
        self.on_cpu = 1.0  # share of the last turn in which the process had its core
        self._entry, self._peers, self._core = entry, peers, core
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def load(self, folder: Path, background: int = 0) -> None:
        """Loads a model, explained against its last held-out rows as a background when that is not 0."""
        reply = self._ask(do="load", folder=str(folder), background=background)
        self.detail, self.python = reply["detail"], reply["python"]

    def check(self, rows: int) -> tuple[Float64Array, Float64Array | None]:
        """Returns the attributions of the first held-out rows, float64 (n, features, outputs), and the base values."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "phi.npy"
            base = self._ask(do="check", rows=rows, out=str(path))["base"]
            return np.load(path), None if base is None else np.array(base)

    def time(self, *, rows: int, calls: int, start: int) -> Float64Array:
        """Returns the microseconds per row of each call (`bench.worker` says by which clock)."""
        reply = self._ask(do="time", rows=rows, calls=calls, start=start)
        self.on_cpu = reply["on_cpu"]
        return np.array(reply["us"]) / rows

    def compile(self, calls: int) -> Float64Array:
        """Returns the microseconds of each load."""
        return np.array(self._ask(do="compile", calls=calls)["us"])

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101 (for the type checker: it is a pipe)
        assert process.stdout is not None  # noqa: S101 (as above)
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            self.close()
            raise Failed("its process ended") from error
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([process.stdout], [], [], _TIMEOUT_S)
            chunk = os.read(process.stdout.fileno(), 1 << 20) if ready else b""
            if not chunk:
                self.close()
                raise Failed("its process crashed" if ready else f"no answer within {_TIMEOUT_S:.0f} s")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {k: v for k, v in os.environ.items() if k not in ("XAI_ISA", "PYTHONPATH", "PYTHONHOME")}
        variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        core = self._core if self._entry.pinned else -1
        self._buffer = b""
        self._process = subprocess.Popen(  # noqa: S603 (our own worker, in an environment set up for it)
            [self._interpreter(), "-m", "bench.worker", self._entry.kind, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**variables, **self._entry.variables},
        )
        return self._process

    def _interpreter(self) -> str:
        for environment in self._entry.environments:
            path = Path(sys.executable) if environment == HERE else self._peers / environment / "bin" / "python"
            if path.exists():
                return str(path)
        raise Failed(f"environment {self._entry.environments[0]!r} is not set up: run with --setup-peers")
