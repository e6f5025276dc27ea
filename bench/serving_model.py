"""What is served and asked: a bundle of the 500×d6 model, and requests made of real rows that were held out."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import data, models
from bench.contest import ROOT
from bench.serving_load import write_bodies
from xai_service.types import Float32Array
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

MODEL = "xgb-500x6"
NAME = "flights"
AMPLE_MS = 60_000.0  # a budget that never matters: whoever compares throughput wants every row explained
HUGE = 10_000
MODES = {"none": pb.EXPLANATION_MODE_NONE, "explained": pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED}


@dataclass(frozen=True, slots=True)
class Served:
    """What the servers need.

    Attributes:
        repository: holds version 1.
        spare: a folder with the same model as version 2, for reloads.
        onnx, native: the model's files, for the naive service.
        rows: float32 (n, 20), held out.
    """

    repository: Path
    spare: Path
    onnx: Path
    native: Path
    rows: Float32Array


def prepare(cache: Path, say: Callable[[str], None]) -> Served:
    """Returns the model, trained and packed on first use.

    Raises:
        bench.models.ParityFailed, xai_service.errors.XaiError: it cannot be converted.
        ModuleNotFoundError: a library, or the data, is not installed.
    """
    trained = models.prepare(models.MODELS[MODEL], cache, say)
    rows = np.load(trained / "rows.npy")
    sources = sorted(path for room in ("pack", "model") for path in (ROOT / "xai_service" / room).glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    folder = cache / "serving" / f"{trained.name}-{digest}"
    if not folder.exists():
        say(f"{models.MODELS[MODEL].title}: packing ...")
        packing: Any = importlib.import_module("xai_service.pack")
        xgb: Any = importlib.import_module("xgboost")
        booster = xgb.Booster(model_file=trained / "model.ubj")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            for out, version in (("models", "1"), ("spare", "2")):
                packing.pack(
                    *(booster, rows),
                    name=NAME,
                    out=Path(name) / out,
                    version=version,
                    feature_names=data.FLIGHT_FEATURES,
                )
            shutil.copytree(name, folder)
    return Served(folder / "models", folder / "spare", trained / "model.onnx", trained / "model.ubj", rows)


def requests(rows: Float32Array, *, size: int, mode: str, budget_ms: float = AMPLE_MS) -> Iterator[bytes]:
    """Yields PredictRequests of ``size`` rows each: every row once, or where they are too few for it, in turns."""
    for i in range(max(1, len(rows) // size)):
        batch = np.take(rows, np.arange(i * size, (i + 1) * size), axis=0, mode="wrap")
        yield pb.PredictRequest(
            model_name=NAME,
            input=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=batch.shape, data=batch.tobytes()),
            latency_budget_ms=budget_ms,
            explanation_mode=MODES[mode],
        ).SerializeToString()


class Bodies:
    """Files of requests, written on first use.

    Args:
        folder: to write them to.
        rows: float32 (n, 20).
    """

    def __init__(self, folder: Path, rows: Float32Array) -> None:
        self._folder, self._rows = folder, rows

    def of(self, mode: str, size: int = 1, budget_ms: float = AMPLE_MS) -> Path:
        """Returns the file of requests of ``size`` rows."""
        path = self._folder / f"{mode}-{size}-{budget_ms:g}.bodies"
        if not path.exists():
            write_bodies(path, requests(self._rows, size=size, mode=mode, budget_ms=budget_ms))
        return path

    def echo(self, replies: Iterator[bytes]) -> Path:
        """Returns the file of what is echoed: replies to predict-only requests of one row, whose size echoes have."""
        return write_bodies(self._folder / "echo.bodies", replies)
