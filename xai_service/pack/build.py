"""Packing, top to bottom: read, convert, prove, publish."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnxruntime

import xai_service
from xai_service.errors import InvalidModel, PackRefused
from xai_service.model.agreement import metadata_of
from xai_service.model.manifest import (
    MANIFEST_FILE,
    MAX_MODEL_BYTES,
    MODEL_FILE,
    SCHEMA,
    FileDigest,
    Manifest,
    Parity,
)
from xai_service.pack import onnx_writer, parity, rows
from xai_service.pack.card import read_statements
from xai_service.pack.forest import read_trees
from xai_service.pack.provenance import find_out, prove_monotonicity
from xai_service.pack.publish import destination, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xai_service.pack.card import Features, Statements
    from xai_service.pack.native import NativeModel

_DEFAULT_CLASSES = ("0", "1")
_DEFAULT_THRESHOLD = 0.5
_UNPROVEN = Parity(0, 0, 0, 0, 0, 0.0, 0.0, 0.0)


def pack(
    model: Any,
    X: Any,
    *,
    name: str,
    out: Path | str,
    version: str | None = None,
    feature_names: Sequence[str] | None = None,
    classes: Sequence[str] = _DEFAULT_CLASSES,
    threshold: float = _DEFAULT_THRESHOLD,
    favourable_class: str | None = None,
    latency_budget_ms: float | None = None,
    missing: Literal["seen", "all", "none"] = "seen",
    provenance: Statements | None = None,
    features: Features | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Path:
    """Writes the bundle ``out/name/version`` and returns its directory.

    The ONNX file is proven to answer as the native model does, on the caller's rows, on missing values and on the
    splits' thresholds (`xai_service.pack.parity`). A model that stopped early is cut at its best iteration.

    Args:
        model: an ``xgboost.Booster``, a model of xgboost's scikit-learn interface, or the path of a .json or .ubj file.
        X: (n, features) array-like or DataFrame of numbers, n ≥ 1, NaN where missing: rows such as will be served.
        name: of the model; letters, digits, ``.``, ``_``, ``-``, at most 128.
        out: the repository's directory; made if it does not exist.
        version: likewise; ``None`` for the next integer after the highest in ``out/name``.
        feature_names: of the columns, unique; ``None`` to take the model's, else the DataFrame's, else f0, f1 …
        classes: names of labels 0 and 1 of a classifier.
        threshold: label 1 where its probability is greater; in (0, 1).
        favourable_class: which class is good news for the person decided about.
        latency_budget_ms: budget of every request, in milliseconds; a request may ask for less.
        missing: which features may be NaN when served: those that are in ``X``, all, or none.
        provenance: what you state of the model, for its card: the path of a TOML card (``docs/card.toml`` is one), a
            mapping with the same keys, or a `Provenance`. All of it is optional; nothing is made up for the rest.
        features: what you state of features, by name, as in a card's ``[features]``.
        progress: is told the stage and the share done of the whole, 0 to 1.

    Raises:
        PackRefused: the model or an argument is not supported, or the conversion is not proven; nothing was written.
    """
    tell = progress or (lambda _stage, _share: None)
    path = destination(Path(out), name, version)
    tell("read", 0.0)
    values, columns = rows.read_rows(X)
    native = _read(model)
    if values.shape[1] != native.n_features:
        raise PackRefused(f"X has {values.shape[1]} columns, the model takes {native.n_features}")
    names = rows.name_features(native.n_features, given=feature_names, model=native.feature_names, columns=columns)
    described = rows.describe_features(values, names, missing)
    origin = find_out(read_statements(provenance, features, names), native, values, names)
    is_classifier = native.task == "binary_classification"
    if not is_classifier and (tuple(classes), threshold) != (_DEFAULT_CLASSES, _DEFAULT_THRESHOLD):
        raise PackRefused("the model is a regression: it has no classes and no threshold")

    # Everything but the certificate, so that a wrong argument does not first cost the time of the proof.
    draft = _checked(
        Manifest(
            schema=SCHEMA,
            name=name,
            version=path.name,
            created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            task=native.task,
            link=native.link,
            cover=native.cover,
            features=described,
            classes=tuple(classes) if is_classifier else (),
            threshold=_number("threshold", threshold) if is_classifier else None,
            favourable_class=favourable_class,
            latency_budget_ms=None if latency_budget_ms is None else _number("latency_budget_ms", latency_budget_ms),
            files={MODEL_FILE: FileDigest("0" * 64, 0)},
            parity=_UNPROVEN,
            made_by=_made_by(native),
            provenance=origin,
        )
    )
    tell("convert", 0.1)
    trees = read_trees(native)
    origin = prove_monotonicity(origin, trees, names)
    data = onnx_writer.write_onnx(
        trees,
        base=native.base,
        link=native.link,
        threshold=draft.threshold,
        n_features=len(names),
        metadata=metadata_of(draft),
    )
    if len(data) > MAX_MODEL_BYTES:
        raise PackRefused(f"the ONNX file would have {len(data)} bytes; at most {MAX_MODEL_BYTES} are served")
    tell("prove", 0.2)
    certificate = parity.prove(
        data,
        native=native,
        trees=trees,
        X=values,
        names=names,
        threshold=draft.threshold,
        progress=lambda share: tell("prove", 0.2 + 0.7 * share),
    )
    tell("write", 0.9)
    digest = FileDigest(hashlib.sha256(data).hexdigest(), len(data))
    manifest = _checked(dataclasses.replace(draft, files={MODEL_FILE: digest}, parity=certificate, provenance=origin))
    publish(path, {MODEL_FILE: data, MANIFEST_FILE: manifest.to_json()})
    tell("done", 1.0)
    return path


def _read(model: Any) -> NativeModel:
    # Imported here: the libraries are extras, and `import xai_service.pack` must work without them.
    try:
        from xai_service.pack import xgboost  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise PackRefused(f"packing needs {error.name}: pip install 'xai-service[pack]'") from error
    return xgboost.read(model)


def _checked(manifest: Manifest) -> Manifest:
    """Returns the manifest as a server will read it, which checks every argument by the server's own rules."""
    try:
        return Manifest.parse(manifest.to_json())
    except InvalidModel as error:  # names the argument, in a file that the caller never wrote
        raise PackRefused(str(error).removeprefix(f"{MANIFEST_FILE}: ")) from error
    except (TypeError, ValueError) as error:
        raise PackRefused(f"an argument cannot be written as JSON: {error}") from error


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise PackRefused(f"{name}: must be a number, is {value!r}") from error
    if not math.isfinite(number):
        raise PackRefused(f"{name}: must be a finite number, is {number}")
    return number


def _made_by(native: NativeModel) -> dict[str, str]:
    tools = {module.__name__: module.__version__ for module in (np, onnx, onnxruntime)}
    return {"xai-service": xai_service.__version__, **tools, **native.made_by}
