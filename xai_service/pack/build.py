"""Packing, top to bottom: read, convert, prove, publish."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnxruntime

import xai_service
from xai_service.errors import InvalidModel, PackRefused
from xai_service.model.agreement import metadata_of
from xai_service.model.background import write_background
from xai_service.model.manifest import (
    BACKGROUND_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA,
    Explanation,
    FileDigest,
    Manifest,
    Parity,
)
from xai_service.model.model_file import MAX_MODEL_BYTES
from xai_service.model.provenance import Background
from xai_service.pack import onnx_writer, parity, readers, rows, signing
from xai_service.pack.additive import centred
from xai_service.pack.asked import check_background
from xai_service.pack.background import BackgroundRows, read_background_rows
from xai_service.pack.card import read_statements
from xai_service.pack.covers import with_covers
from xai_service.pack.progress import telling
from xai_service.pack.provenance import digest_rows, find_out, prove_monotonicity
from xai_service.pack.publish import destination, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xai_service.keys import PrivateKey
    from xai_service.pack.card import Features, Statements
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array

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
    classes: Sequence[str] | None = None,
    threshold: float | None = None,
    favourable_class: str | None = None,
    latency_budget_ms: float | None = None,
    missing: Literal["seen", "all", "none"] = "seen",
    raw_score: bool = False,
    key: PrivateKey | None = None,
    provenance: Statements | None = None,
    features: Features | None = None,
    background: Any = None,
    background_rows: int | None = None,
    covers: Literal["model", "count"] = "model",
    progress: Callable[[str, float], None] | bool | None = None,
) -> Path:
    """Writes the bundle ``out/name/version`` and returns its directory.

    The ONNX file is proven to answer as the native model does, on the caller's rows, on missing values, on the splits'
    thresholds and categories (`xai_service.pack.parity`), and its attributions to be the native model's
    (`xai_service.pack.attributions`). A model that stopped early is cut at its best iteration.

    Args:
        model: a Booster of XGBoost or LightGBM, a model of either's scikit-learn interface, of CatBoost or of
            scikit-learn itself, of trees, linear, or any other that is explained by asking it; a fitted scikit-learn
            Pipeline that ends in such a model and makes each of its columns of one raw column; the path of a file that
            its save_model wrote (.json or .ubj, .txt, .cbm or .json); or an ONNX file that another converter made, its
            path or a ``ModelProto``.
        X: (n, features) array-like or DataFrame of numbers, n ≥ 1, NaN where missing: rows such as will be served.
            Where the model knows categories, a DataFrame holds the categories themselves, and an array their codes.
            For a pipeline, raw rows, strings among them, as it was fitted on.
        name: of the model; letters, digits, ``.``, ``_``, ``-``, at most 128.
        out: the repository's directory; made if it does not exist.
        version: likewise; ``None`` for the next integer after the highest in ``out/name``.
        feature_names: of the columns, unique; ``None`` to take the model's, else the DataFrame's, else f0, f1 …
        classes: names of a classifier's labels, in order; ``None`` to take the model's, else 0, 1 …
        threshold: of a binary classifier: label 1 where its probability is greater; in (0, 1); ``None`` for 0.5.
        favourable_class: which class is good news for the person decided about.
        latency_budget_ms: budget of every request, in milliseconds; a request may ask for less.
        missing: which features may be NaN when served: those that are in ``X``, all, or none.
        raw_score: pack the model as a regression of its margin, whatever its objective is: the way for custom
            objectives, whose margins only their author can interpret.
        key: signs the bundle, ``PrivateKey.load(path)`` of `xai_service.keys`; ``None`` leaves it unsigned.
        provenance: what you state of the model, for its card: the path of a TOML card (``docs/card.toml`` is one), a
            mapping with the same keys, or a `Provenance`. All of it is optional; nothing is made up for the rest.
        features: what you state of features, by name, as in a card's ``[features]``.
        background: rows such as ``X`` to explain against, at most 10,000, some hundred are usual: attributions are then
            interventional, and need no covers. ``None``: path-dependent. A linear model's means are of these rows, or
            else of ``X``. What is neither trees nor linear needs them, at most 1,000.
        background_rows: draw so many of them at random, without replacement, always the same.
        covers: of an ONNX file of another converter: "model" takes those that it carries, if any; "count" counts the
            rows of ``X`` through the trees. That is right where ``X`` is what the trees were trained on, each row once
            and unweighted: not with bootstrap or sampling, nor for XGBoost, whose covers are sums of Hessians.
        progress: a function that is told the stage and the share done of the whole, 0 to 1; ``True`` for a bar, tqdm's
            where that is installed; ``False`` for none; ``None`` for a bar in notebooks and at a prompt, and none else.

    Raises:
        PackRefused: the model or an argument is not supported, or the conversion is not proven; nothing was written.
    """
    with telling(progress) as tell:
        _check_kinds(out=out, raw_score=raw_score, key=key)
        feature_names, classes = _names("feature_names", feature_names), _names("classes", classes)
        path = destination(Path(out), name, version)
        tell("read", 0.0)
        native, values, columns = _read(model, X, raw_score=raw_score)
        if background is None and background_rows is not None:
            raise PackRefused("background_rows: there is no background to draw them from")
        if background is not None and readers.is_pipeline(model):
            _, background, _ = _read(model, background, raw_score=raw_score)
        if values.shape[1] != native.n_features:
            raise PackRefused(f"X has {values.shape[1]} columns, the model takes {native.n_features}")
        names = rows.name_features(native.n_features, given=feature_names, model=native.feature_names, columns=columns)
        described = rows.describe_features(values, names, missing, native)
        origin = find_out(read_statements(provenance, features, names), native, values, names)
        native = with_covers(native, values, covers, has_background=background is not None)
        compared_with = None if background is None else read_background_rows(background, native, names, background_rows)
        explanation = Explanation() if compared_with is None else Explanation("interventional", compared_with.drawn)
        if native.additive is not None:
            compared_with = compared_with or BackgroundRows(values, f"{len(values)} rows: those packed with")
            explanation = Explanation("linear", compared_with.drawn)
            native = centred(native, values, compared_with.rows, names)
        if native.asked is not None:
            compared_with = check_background(compared_with)
            explanation = Explanation("permutation", compared_with.drawn)
        if compared_with is not None:
            drawn = Background(digest_rows(compared_with.rows), compared_with.drawn)
            origin = dataclasses.replace(origin, background=drawn)
        files = {}
        if compared_with is not None and explanation.algorithm != "linear":
            files[BACKGROUND_FILE] = write_background(compared_with.rows)

        # Everything but the certificate, so that a wrong argument does not first cost the time of the proof.
        draft = _checked(
            Manifest(
                schema=SCHEMA,
                name=name,
                version=path.name,
                created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                task=native.task,
                link=native.link,
                link_scale=native.link_scale,
                cover=native.cover,
                features=described,
                classes=_classes(native, classes),
                threshold=_threshold(native, threshold),
                favourable_class=favourable_class,
                latency_budget_ms=None
                if latency_budget_ms is None
                else _number("latency_budget_ms", latency_budget_ms),
                files={MODEL_FILE: FileDigest("0" * 64, 0), **_digests(files)},
                parity=_UNPROVEN,
                made_by=_made_by(native),
                provenance=origin,
                explanation=explanation,
            )
        )
        tell("convert", 0.1)
        origin = prove_monotonicity(origin, native, names)
        data = onnx_writer.write_onnx(
            native.trees,
            base=native.base,
            task=native.task,
            link=native.link,
            link_scale=native.link_scale,
            threshold=draft.threshold,
            n_features=len(names),
            metadata=metadata_of(draft),
            line=native.line,
            asked=native.asked,
        )
        if len(data) > MAX_MODEL_BYTES:
            raise PackRefused(f"the ONNX file would have {len(data)} bytes; at most {MAX_MODEL_BYTES} are served")
        tell("prove", 0.2)
        certificate = parity.prove(
            data,
            native=native,
            X=values,
            names=names,
            threshold=draft.threshold,
            background=None if compared_with is None or native.line is not None else compared_with.rows,
            progress=lambda share: tell("prove", 0.2 + 0.7 * share),
        )
        tell("write", 0.9)
        files = {MODEL_FILE: data, **files}
        manifest = _checked(dataclasses.replace(draft, files=_digests(files), parity=certificate, provenance=origin))
        publish(path, files | signing.manifest_files(manifest, key))
        tell("done", 1.0)
        return path


def _digests(files: Mapping[str, bytes]) -> dict[str, FileDigest]:
    return {name: FileDigest.of(content) for name, content in files.items()}


def _read(model: Any, X: Any, *, raw_score: bool) -> tuple[NativeModel, Float32Array, tuple[str, ...] | None]:
    """Returns the model, the rows as it is served them, and the columns' names where ``X`` has any."""
    if readers.is_pipeline(model):
        native, values = readers.read_pipeline(model, X, raw_score=raw_score)
        return native, values, None  # the pipeline chose its columns by name
    native = readers.read(model, raw_score=raw_score)
    return native, *rows.read_rows(X, native.categorical, native.categories)


def _check_kinds(*, out: Any, raw_score: Any, key: Any) -> None:
    """Refuses what would be taken for something else, or found out about only once the proof is done."""
    if not isinstance(out, (str, Path)):
        raise PackRefused(f"out: must be the path of a model repository, is a {type(out).__name__}")
    if not isinstance(raw_score, bool):
        raise PackRefused(f"raw_score: must be True or False, is {raw_score!r}")
    if key is not None and not hasattr(key, "sign"):
        raise PackRefused(f"key: must be a PrivateKey, as PrivateKey.load(path) returns it, is a {type(key).__name__}")


def _names(what: str, given: Any) -> tuple[str, ...] | None:
    """Returns names in the order given. A string, whose letters they would be, has none, and neither has a set."""
    if given is None:
        return None
    if isinstance(given, (str, bytes, AbstractSet, Mapping)) or not isinstance(given, Iterable):
        raise PackRefused(f"{what}: must be a sequence of names, in order, is a {type(given).__name__}")
    return tuple(given)


def _classes(native: NativeModel, given: tuple[str, ...] | None) -> tuple[str, ...]:
    if not native.task.endswith("classification"):
        if given is not None:
            raise PackRefused(f"classes: the model is a {native.task}: it has none")
        return ()
    n_classes = max(2, native.n_outputs)
    names = native.class_names or tuple(map(str, range(n_classes))) if given is None else given
    if len(names) != n_classes:
        raise PackRefused(f"classes: {len(names)} names for {n_classes} classes")
    return names


def _threshold(native: NativeModel, given: float | None) -> float | None:
    if native.task == "binary_classification":
        return _DEFAULT_THRESHOLD if given is None else _number("threshold", given)
    if given is not None:
        raise PackRefused(f"threshold: the model is a {native.task.replace('_', ' ')}: it has none")
    return None


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
