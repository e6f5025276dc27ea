"""Packs the benchmark's model, XGBoost 500 × depth 6 on flights, and serves it: what Locust is aimed at.

::

    python bench/serve_model.py                                # 127.0.0.1:8001, a ledger of its own, until Ctrl-C
    python bench/serve_model.py --listen 127.0.0.1:0 --json    # all else is handed to `xai serve`

The model is trained on first use and cached below ``var/bench``; packing it takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the folder above is where `bench` and `xai_service` are
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import xgboost as xgb

from bench import data, models
from bench.contest import ROOT
from xai_service.demo.server import XAI
from xai_service.pack import pack

NAME = "flights"
SPEC = "xgb-500x6"
CACHE = ROOT / "var" / "bench"


def pack_model(repository: Path, say: Callable[[str], None]) -> Path:
    """Packs the model into ``repository`` as `NAME` and returns the bundle.

    Raises:
        PackRefused: the packed model is not the native one.
        ModuleNotFoundError: the extra ``bench`` is not installed.
    """
    folder = models.prepare(models.MODELS[SPEC], CACHE, say)
    booster: Any = xgb.Booster(model_file=str(folder / "model.ubj"))
    say(f"{models.MODELS[SPEC].title}: packing ...")
    rows = np.load(folder / "rows.npy")
    return pack(booster, rows, name=NAME, out=repository, feature_names=data.FLIGHT_FEATURES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Packs, and runs ``xai serve`` with these arguments until SIGTERM or SIGINT; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0
    with tempfile.TemporaryDirectory(prefix="xai-bench-") as folder:
        pack_model(Path(folder, "models"), lambda text: print(text, file=sys.stderr, flush=True))
        options = ["--repository", str(Path(folder, "models"))]
        if "--ledger" not in arguments:
            options += ["--ledger", str(Path(folder, "ledger.sqlite"))]
        command = [*XAI, "serve", *options, *arguments]
        with subprocess.Popen(command, env=with_path()) as server:  # noqa: S603 (our own program)
            # Both tell the server to drain. Ctrl-C reaches it as it reaches this process.
            signal.signal(signal.SIGTERM, lambda *_: server.terminate())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return server.wait()


def with_path() -> dict[str, str]:
    """Returns this process's environment, in which children find `xai_service` where this one did."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


if __name__ == "__main__":
    sys.exit(main())
