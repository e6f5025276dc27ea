"""The models that are timed: trained once, converted to ONNX, proven equal to the native model, and cached.

A model's folder holds ``model.onnx``, ``trees.npz`` (`bench.trees.Trees`, for rivals that take arrays), the library's
own file for rivals that read it (``model.ubj``, ``model.txt``), ``rows.npy`` (held out) and ``info.json``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import treelite

from bench import data
from bench.trees import Trees, read, write_onnx
from xai_service.types import Float32Array, Float64Array

MARGIN_TOLERANCE = 1e-5  # of the margins' scale: float32 sums of 1,000 trees differ by 1e-6, a wrong turn by 1e-3
_CONVERSION = 2  # raise it when trees.py or this file change what is made
_LIBRARIES = {"xgboost": "xgboost-cpu", "lightgbm": "lightgbm", "sklearn": "scikit-learn"}


class ParityFailed(Exception):
    """The ONNX file does not compute the native model's margins, so that timing it would mean nothing."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What to train.

    Attributes:
        name: as it is named on the command line.
        title: as it is named in tables.
        library: "xgboost", "lightgbm" or "sklearn".
        data: of `bench.data.load`.
        trees: boosting rounds, or the forest's trees.
        size: depth, or for LightGBM leaves.
        eta: learning rate; unused by forests.
        classes: 2, or more for one margin each.
    """

    name: str
    title: str
    library: str
    data: str
    trees: int
    size: int
    eta: float = 0.1
    classes: int = 2


MODELS = {
    spec.name: spec
    for spec in (
        ModelSpec("xgb-100x6", "XGBoost 100×d6", "xgboost", "flights", 100, 6),
        ModelSpec("xgb-500x6", "XGBoost 500×d6", "xgboost", "flights", 500, 6),
        ModelSpec("xgb-1000x8", "XGBoost 1000×d8", "xgboost", "flights", 1000, 8, eta=0.05),
        ModelSpec("lgb-500x31", "LightGBM 500×31 leaves", "lightgbm", "flights", 500, 31),
        ModelSpec("lgb-500x127", "LightGBM 500×127 leaves", "lightgbm", "flights", 500, 127),
        ModelSpec("forest-100x16", "forest 100×d16", "sklearn", "flights", 100, 16),
        ModelSpec("xgb-10x100", "XGBoost 10 classes×100", "xgboost", "digits", 100, 6, classes=10),
    )
}
STUMP = "stump"


@dataclass(frozen=True, slots=True)
class Native:
    """A trained model of its own library.

    Attributes:
        trees: its trees.
        margin: float32 (n, features) to float64 (n, outputs), by the library itself.
        save: writes the library's own file into a folder, where a rival wants it.
        takes_nan: whether the library predicts rows with missing values.
    """

    trees: Trees
    margin: Callable[[Float32Array], Float64Array]
    save: Callable[[Path], None]
    takes_nan: bool = True


def prepare(spec: ModelSpec, cache: Path, say: Callable[[str], None]) -> Path:
    """Returns the model's folder, training and converting it where it is not cached.

    Raises:
        ParityFailed: the conversion is wrong.
        ModuleNotFoundError: the library, or the data, is not installed.
    """
    importlib.import_module(spec.library)  # before its version is asked for: a missing library is said plainly
    versions = {name: importlib.metadata.version(name) for name in (_LIBRARIES[spec.library], "treelite", "onnx")}
    rows = (data.TRAIN_FLIGHTS, data.HELD_OUT_FLIGHTS, data.HELD_OUT_DIGITS, data.FLIGHT_FEATURES)
    settings = json.dumps([asdict(spec), versions, rows, _CONVERSION], sort_keys=True)
    folder = cache / "models" / f"{spec.name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    say(f"{spec.title}: training ...")
    dataset = data.load(spec.data)
    native = train(spec, dataset.X, dataset.y)
    say(f"{spec.title}: checking the conversion ...")
    return publish(native, dataset.held_out, folder, {"spec": asdict(spec), "versions": versions})


def prepare_stump(cache: Path) -> Path:
    """Returns the folder of a model of one split: what is left to time is the call."""
    folder = cache / "models" / STUMP
    if folder.exists():
        return folder
    trees = Trees(
        begin=np.array([0, 3]),
        output=np.array([0]),
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        feature=np.array([3, 0, 0]),
        threshold=np.array([0.5, 0, 0], np.float32),
        inclusive=np.array([False, False, False]),
        missing_left=np.array([True, False, False]),
        value=np.array([0.0, -1.0, 2.0]),
        cover=np.array([10.0, 6.0, 4.0]),
        base=np.array([0.25]),
        n_features=20,
    )

    def margin(rows: Float32Array) -> Float64Array:
        return np.where(np.isnan(rows[:, 3]) | (rows[:, 3] < np.float32(0.5)), -0.75, 2.25)[:, None]

    rows = np.random.default_rng(13).random((2_000, 20), np.float32)
    return publish(Native(trees, margin, save=lambda _: None), rows, folder, {})


def publish(native: Native, held_out: Float32Array, folder: Path, info: dict[str, Any]) -> Path:
    """Writes the model's folder, all of it or nothing, and returns it.

    Raises:
        ParityFailed: the ONNX file's margins are not the native model's.
    """
    model = write_onnx(native.trees)
    parity = check_parity(native, model, held_out)
    trees = native.trees
    shape = {
        "trees": len(trees.output),
        "leaves": trees.n_leaves,
        "features": trees.n_features,
        "outputs": len(trees.base),
        "onnx_bytes": len(model),
        "held_out_rows": len(held_out),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        part = Path(name) / "model"
        part.mkdir()
        native.save(part)
        (part / "model.onnx").write_bytes(model)
        trees.save(part / "trees.npz")
        np.save(part / "rows.npy", held_out)
        (part / "info.json").write_text(json.dumps({**info, "shape": shape, "parity": parity}, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    return folder


def check_parity(native: Native, model: bytes, rows: Float32Array) -> dict[str, float]:
    """Returns the worst difference to the native margins, for rows held out, on thresholds and with missing values.

    Raises:
        ParityFailed: beyond `MARGIN_TOLERANCE` of the margins' scale; shows the worst row.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(13)
    probes = {"held_out": rows, "on_threshold": _on_thresholds(native.trees, rows[:1000], rng)}
    if native.takes_nan:
        probes["missing"] = np.where(rng.random(rows[:1000].shape) < 0.2, np.float32(np.nan), rows[:1000])
    worst: dict[str, float] = {}
    for name, X in probes.items():
        due = native.margin(X)
        difference = np.abs(session.run(["margin"], {"input": X})[0] - due).max(axis=1)
        worst[name] = float(difference.max())
        if not worst[name] <= MARGIN_TOLERANCE * max(1.0, float(np.abs(due).max())):
            row = int(difference.argmax())
            raise ParityFailed(
                f"the ONNX file's margin is off by {worst[name]:.3g} in row {row} of the {name} rows: {X[row].tolist()}"
            )
    return worst


def _on_thresholds(trees: Trees, rows: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Rows of which each stands on a random split's threshold, or one ulp beside it."""
    splits = rng.choice(np.flatnonzero(trees.left >= 0), len(rows))
    at = trees.threshold[splits]
    toward = rng.choice(np.array([-np.inf, 0, np.inf], np.float32), len(rows))
    X = rows.copy()
    X[np.arange(len(rows)), trees.feature[splits]] = np.where(toward == 0, at, np.nextafter(at, toward))
    return X


def train(spec: ModelSpec, X: Float32Array, y: Any) -> Native:
    """Returns the model trained on float32 (n, features) and classes (n,), by one thread so that it can be repeated."""
    return {"xgboost": _xgboost, "lightgbm": _lightgbm, "sklearn": _forest}[spec.library](spec, X, y)


def _xgboost(spec: ModelSpec, X: Float32Array, y: Any) -> Native:
    xgb: Any = importlib.import_module("xgboost")
    kind = {"objective": "binary:logistic"}
    if spec.classes > 2:
        kind = {"objective": "multi:softprob", "num_class": str(spec.classes)}
    parameters = {**kind, "max_depth": spec.size, "eta": spec.eta, "tree_method": "hist", "nthread": 1, "seed": 13}
    booster = xgb.train(parameters, xgb.DMatrix(X, y, nthread=1), spec.trees)

    def margin(rows: Float32Array) -> Float64Array:
        values = booster.predict(xgb.DMatrix(rows, nthread=1), output_margin=True)
        return np.asarray(values, np.float64).reshape(len(rows), -1)

    trees = read(treelite.frontend.from_xgboost(booster), cover="sum_hess")
    return Native(trees, margin, save=lambda folder: booster.save_model(folder / "model.ubj"))


def _lightgbm(spec: ModelSpec, X: Float32Array, y: Any) -> Native:
    lgb: Any = importlib.import_module("lightgbm")
    kind: dict[str, Any] = {"objective": "binary"}
    if spec.classes > 2:
        kind = {"objective": "multiclass", "num_class": spec.classes}
    parameters = {**kind, "num_leaves": spec.size, "learning_rate": spec.eta, "num_threads": 1, "seed": 13}
    parameters |= {"verbosity": -1, "deterministic": True, "force_row_wise": True}
    booster = lgb.train(parameters, lgb.Dataset(X, y), spec.trees)

    def margin(rows: Float32Array) -> Float64Array:
        values = booster.predict(rows, raw_score=True, num_threads=1)
        return np.asarray(values, np.float64).reshape(len(rows), -1)

    trees = read(treelite.frontend.from_lightgbm(booster), cover="data_count")
    # LightGBM takes |x| <= 1e-35 for 0 when it predicts, so that such an x is not <= a threshold from -1e-35 up to 0.
    tiny = np.float32(1e-35)
    flushed = (trees.threshold >= -tiny) & (trees.threshold < 0)
    threshold = np.where(flushed, np.nextafter(-tiny, np.float32(-np.inf)), trees.threshold)
    trees = replace(trees, threshold=threshold)
    return Native(trees, margin, save=lambda folder: booster.save_model(folder / "model.txt"))


def _forest(spec: ModelSpec, X: Float32Array, y: Any) -> Native:
    """The margin is the second class's probability; forests of more classes are not needed."""
    ensemble: Any = importlib.import_module("sklearn.ensemble")
    forest = ensemble.RandomForestClassifier(spec.trees, max_depth=spec.size, random_state=13, n_jobs=1).fit(X, y)

    def margin(rows: Float32Array) -> Float64Array:
        return np.asarray(forest.predict_proba(rows)[:, 1:2], np.float64)

    trees = read(treelite.sklearn.import_model(forest), cover="sum_hess", positive_class=1)
    # Trained without missing values, it refuses them.
    return Native(trees, margin, save=lambda _: None, takes_nan=False)
