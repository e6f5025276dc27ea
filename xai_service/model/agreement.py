"""Whether a manifest speaks of its model: it is held against what the file says of itself and what the file computes.

The manifest pins the model file by digest, and nothing pins the manifest. A name moved to another column, classes
exchanged or a threshold raised there would be served, and recorded as what was decided. So `xai pack` writes what the
manifest says of inputs and outputs into the file too (``metadata_props``), and what is in both must be equal. Of files
that others made, whatever they lack is left unchecked. The links are computed and compared in any file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import BundleMismatch, InvalidModel
from xai_service.model.links import apply_link
from xai_service.model.manifest import BACKGROUND_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from xai_service.model.manifest import Manifest
    from xai_service.types import Float32Array, Float64Array, Int64Array, Prediction

_PREFIX = "xai."
_PLAIN = ("algorithm", "cover", "link", "task")  # written as they are, the others as JSON
_ROUNDING = 1e-5  # ONNX Runtime approximates the logistic function to about 1e-7
# As logarithms of odds or of a prediction, margins in the hundreds are as good as infinite. A base value beyond this is
# a damaged leaf, whose attributions would cancel in numbers beside which no residual could be seen.
_LARGEST_LOGARITHM = 1e4


def metadata_of(manifest: Manifest) -> dict[str, str]:
    """Returns what a model file that goes with ``manifest`` says of itself, for ``metadata_props``."""
    background = manifest.files.get(BACKGROUND_FILE)
    said = {
        "cover": manifest.cover,
        "algorithm": manifest.explanation.algorithm,
        "background": None if background is None else background.sha256,
        "task": manifest.task,
        "link": manifest.link,
        "link_scale": manifest.link_scale,
        "feature_names": [feature.name for feature in manifest.features],
        "allows_missing": [feature.allows_missing for feature in manifest.features],
        "categorical": [feature.kind == "categorical" for feature in manifest.features],
        "kinds": [feature.kind for feature in manifest.features],
        "categories": [list(feature.categories) for feature in manifest.features],
        "allows_unknown": [feature.allows_unknown for feature in manifest.features],
        "classes": list(manifest.classes),
        "threshold": manifest.threshold,
        "favourable_class": manifest.favourable_class,
    }
    return {
        _PREFIX + key: str(value) if key in _PLAIN else json.dumps(value, separators=(",", ":"))
        for key, value in said.items()
    }


def check_agreement(
    manifest: Manifest,
    model: onnx.ModelProto,
    predict: Callable[[Float32Array], Prediction],
    rows: Float32Array,
    base_values: Float64Array,
) -> None:
    """Checks the manifest against its model.

    Args:
        manifest: untrusted.
        model: the file, whose trees and graph were found in order.
        predict: runs it on float32 (n, features) rows.
        rows: float32 (n, features), to run it on.
        base_values: float64 (outputs,), its expected margins.

    Raises:
        BundleMismatch: the file says otherwise of itself; names the field.
        InvalidModel: it computes another link or threshold than the manifest names.
    """
    _check_metadata(manifest, model)
    worst = float(np.abs(base_values).max())
    if manifest.link != "identity" and not worst <= _LARGEST_LOGARITHM:
        raise InvalidModel(
            f"the expected margin is {worst:.3g}, which is no logarithm of odds or of a prediction: a leaf is damaged"
        )
    _check_links(manifest, predict(rows))


def _check_metadata(manifest: Manifest, model: onnx.ModelProto) -> None:
    due = metadata_of(manifest)
    for entry in model.metadata_props:
        if entry.key not in due or entry.value == due[entry.key]:
            continue
        field = entry.key.removeprefix(_PREFIX)
        expected: Any = due[entry.key]
        found: Any = entry.value
        if field not in _PLAIN:
            expected = json.loads(expected)
            try:
                found = json.loads(found)
            except (ValueError, RecursionError) as error:
                raise InvalidModel(f"the model file's {entry.key} is not JSON: {error}") from error
        if found == expected:  # the same, written otherwise
            continue
        if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
            at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
            field, found, expected = f"{field}[{at}]", found[at], expected[at]
        raise BundleMismatch(
            f"manifest.json says that {field} is {_shown(expected)}, the model file says {_shown(found)} "
            f"({entry.key}): one of them was changed after packing, pack the model again"
        )


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:100]


def _check_links(manifest: Manifest, got: Prediction) -> None:
    finite = np.isfinite(got.margin).all(axis=1)
    margin = got.margin[finite].astype(np.float64)
    due = apply_link(margin, manifest.link, manifest.link_scale)
    what = {"logistic": "logistic function", "one_vs_all": "logistic function", "softmax": "softmax"}.get(manifest.link)
    if got.prediction is not None:
        smallest = float(np.finfo(np.float32).tiny)  # below it float32 has fewer digits
        with np.errstate(over="ignore"):  # to infinity, as in float32
            expected = due.astype(np.float32)
        atol = smallest if what is None else _ROUNDING
        _same(got.prediction[finite], expected, f"prediction is not the margin's {manifest.link} link", atol=atol)
    if got.probabilities is None:
        return
    link = f"the {what} of the margin" if what else "the margin"
    found = got.probabilities[finite]
    if manifest.task == "binary_classification":
        _same(found[:, 1], due[:, 0], f"probabilities[:, 1] is not {link}", atol=_ROUNDING)
        _same(found[:, 0], 1 - found[:, 1], "probabilities do not add up to 1", atol=_ROUNDING)
    else:
        _same(found, due, f"probabilities are not {link}", atol=_ROUNDING)
    if got.labels is None:
        return
    label = got.labels[finite]
    if manifest.task == "binary_classification":
        _check_threshold(manifest, label, found[:, 1])
    elif (label != margin.argmax(axis=1)).any():
        row = int(np.flatnonzero(label != margin.argmax(axis=1))[0])
        raise InvalidModel(f"label is {label[row]} where the greatest margin is that of {margin[row].argmax()}")


def _check_threshold(manifest: Manifest, label: Int64Array, positive: Float32Array) -> None:
    threshold = np.float32(manifest.threshold or 0)
    wrong = (label != (positive > threshold)) & (np.abs(positive - threshold) > _ROUNDING)
    if wrong.any():
        raise InvalidModel(
            f"label is {label[wrong][0]} where probabilities[:, 1] is {positive[wrong][0]:.6g}, and manifest.json says "
            f"that threshold is {manifest.threshold}"
        )


def _same(found: Float32Array, due: Float32Array | Float64Array, what: str, *, atol: float) -> None:
    wrong = ~np.isclose(found, due, rtol=_ROUNDING, atol=atol)
    if wrong.any():
        raise InvalidModel(f"{what}: {found[wrong][0]:.6g} where {due[wrong][0]:.6g} is due")
