"""The gate's second half: the written file's attributions are the native model's, and add up to the margins served.

Attributions of the file, by our kernel with the covers that it carries, are compared on a sample of the probes with
those that the native library computes of its own model. They must agree within 1e-5 of the output's largest attribution
in the sample, since the library sums in float32 and covers are stored so; and a float32 step of each tree's largest
leaf is allowed, since leaves are stored so, and beside them attributions may be small. Base values must agree likewise.
On every probe base value and attributions must add up to the margin that ONNX Runtime serves, by the server's own rule.

Against a background no library's word is taken: shap's is wrong where splits ask for categories. The reference is then
computed from the native model's trees leaf by leaf (`xai_service.pack.interventional`), on fewer probes and for a few
of the background's rows; and the base values are held to the native model's mean margin on all of them. Deep trees are
explained by walking the background down each: then fewer probes are added up, evenly drawn.

Of a linear model the reference is what its own weights, behind the pipeline's own steps, add for each column, less the
mean of that over the rows explained against.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xai_service.errors import ModelError, PackRefused
from xai_service.model.explainers import read_core
from xai_service.model.onnx_trees import parse_model
from xai_service.model.session import open_session
from xai_service.pack import interventional
from xai_service.pack.probes import evenly, materialise, shown_row
from xai_service.permutation import PermutationExplainer
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xai_service.model.explainers import Explainer
    from xai_service.pack.native import NativeModel
    from xai_service.pack.probes import Probe
    from xai_service.types import Float32Array, Float64Array

RELATIVE_TOLERANCE = 1e-5
ADDITIVITY_TOLERANCE = 1e-5
_STEP = 1.2e-7  # of float32
_CHUNK_VALUES = 1 << 20
_ROWS_OF_EACH_KIND = 96
_ROWS_LEAF_BY_LEAF = 16
_BACKGROUND_LEAF_BY_LEAF = 24
_MOST_LEAVES = 1 << 18  # looked at leaf by leaf, over all rows: each takes some 0.1 ms
_ROWS_ASKED, _BACKGROUND_ASKED = 4, 8
_MOST_WALKS = 1 << 26  # of a background row down a tree: each takes about a microsecond


@dataclass(frozen=True, slots=True)
class Explained:
    """What was found; see `xai_service.model.manifest.Parity`."""

    compared_rows: int
    added_rows: int
    reference: str | None
    max_difference: float
    max_residual: float


def prove_attributions(
    model: bytes,
    *,
    native: NativeModel,
    X: Float32Array,
    probes: Sequence[Probe],
    margins: Float32Array,
    names: Sequence[str],
    background: Float32Array | None = None,
    progress: Callable[[float], None],
) -> Explained:
    """Returns what was found where the file's attributions are right.

    Args:
        model: the ONNX file.
        native: the model it was made from.
        X: float32 (n, features), the caller's rows.
        probes: the rows to explain.
        margins: float32 (probes, outputs), as ONNX Runtime serves them.
        names: of the features.
        background: float32 (rows, features) to explain against; ``None`` for path-dependent explanations.
        progress: is told the share done, 0 to 1.

    Raises:
        PackRefused: the file cannot be explained, or they differ; shows the worst row.
    """
    if native.asked is not None and background is not None:
        return _prove_asked(model, native, X, background)
    explainer = _linear(model) if native.line is not None else _explainer(model, background)
    base = np.atleast_1d(explainer.expected_value)
    if background is None:
        reference = native
        compared, difference = _compare(explainer, native, X, _sample(probes, _ROWS_OF_EACH_KIND), names)
    else:
        _check_base(base, native, background)
        few = background[evenly(len(background), _BACKGROUND_LEAF_BY_LEAF)]
        reference = dataclasses.replace(
            native,
            contributions=interventional.contributions(native.trees, native.base, few),
            contributions_by=interventional.REFERENCE,
        )
        leaves = sum(int((tree.left < 0).sum()) for tree in native.trees)
        sample = _sample(probes, min(_ROWS_LEAF_BY_LEAF, max(1, _MOST_LEAVES // 4 // leaves)))
        compared, difference = _compare(_explainer(model, few), reference, X, sample, names)
    added = evenly(len(probes), _most_added(explainer, native, background))
    worst = 0.0
    step = max(1, _CHUNK_VALUES // (X.shape[1] * native.n_outputs))
    for start in range(0, len(added), step):
        places = added[start : start + step].tolist()
        rows = materialise(X, [probes[place] for place in places])
        share = _residual(_phi(explainer, rows), base, margins[places])
        row = int(np.argmax(share))
        if not share[row] <= ADDITIVITY_TOLERANCE:
            probe = probes[places[row]]
            raise PackRefused(
                f"attributions do not add up to the margin: at {probe.kind} row {places[row]}, {probe.where}, they "
                f"miss it by {share[row]:.3g} of their size; {ADDITIVITY_TOLERANCE:g} is allowed; the row: "
                f"{shown_row(probe, rows[row], names)}. Nothing was written."
            )
        worst = max(worst, float(share[row]))
        progress(min(1.0, (start + step) / len(added)))
    return Explained(compared, len(added), reference.contributions_by if compared else None, difference, worst)


def _prove_asked(model: bytes, native: NativeModel, X: Float32Array, background: Float32Array) -> Explained:
    """Of a model that is asked: base values, and a few rows' sums. Nothing else computes its attributions."""
    session = open_session(model)

    def margin(rows: Float32Array) -> Float32Array:
        return np.asarray(session.run(["margin"], {"input": rows})[0])

    explainer = PermutationExplainer(margin, background, b"")
    _check_base(explainer.base_values, native, background)
    rows = X[evenly(len(X), _ROWS_ASKED)]
    few = PermutationExplainer(margin, background[evenly(len(background), _BACKGROUND_ASKED)], b"")
    share = _residual(few.explain(rows), few.base_values, margin(rows))
    worst = float(share.max())
    if not worst <= ADDITIVITY_TOLERANCE:
        raise PackRefused(
            f"attributions do not add up to the margin: they miss it by {worst:.3g} of their size; "
            f"{ADDITIVITY_TOLERANCE:g} is allowed. Nothing was written."
        )
    return Explained(0, len(rows), None, 0.0, worst)


class _Linear:
    """A linear model's explanations as they are served, in the shape of a `TreeExplainer`."""

    def __init__(self, explainer: Explainer) -> None:
        self.expected_value = explainer.base_values
        self.shap_values = explainer.explain


def _unasked(_rows: Float32Array) -> Float32Array:
    raise AssertionError("a linear model is explained without asking it")


def _linear(model: bytes) -> _Linear:
    try:
        return _Linear(read_core(parse_model(model), "linear", {}).explainer(_unasked))
    except ModelError as error:
        raise PackRefused(f"the ONNX model cannot be explained: {error}") from error


def _most_added(explainer: TreeExplainer | _Linear, native: NativeModel, background: Float32Array | None) -> int:
    if background is None or isinstance(explainer, _Linear) or explainer.method_for(1).variant == "tables-f32":
        return sys.maxsize
    return max(256, _MOST_WALKS // (len(background) * len(native.trees)))


def _explainer(model: bytes, background: Float32Array | None) -> TreeExplainer:
    try:
        return TreeExplainer(model, background, n_jobs=-1)
    except (ModelError, ValueError) as error:  # ValueError: a background too large for so many trees
        raise PackRefused(f"the ONNX model cannot be explained: {error}") from error


def _check_base(base: Float64Array, native: NativeModel, background: Float32Array) -> None:
    margins = np.asarray(native.predict(background)[0], np.float64)
    expected = margins.mean(axis=0)
    allowed = RELATIVE_TOLERANCE * np.abs(margins).max(axis=0) + _leaf_steps(native)
    if not (np.abs(base - expected) <= allowed).all():
        raise PackRefused(
            f"the ONNX model's base values {base.tolist()} are not the native model's mean margins on the background, "
            f"{expected.tolist()}. Nothing was written."
        )


def _phi(explainer: TreeExplainer | _Linear, rows: Float32Array) -> Float64Array:
    """Returns float64 (n, features, outputs)."""
    return explainer.shap_values(rows).reshape(*rows.shape, -1)


def _residual(phi: Float64Array, base: Float64Array, margins: Float32Array) -> Float64Array:
    """Returns each row's residual as a share of |base| + Σ|φ| + |margin|, the worst output's."""
    exact = margins.astype(np.float64)
    residual = np.abs(base + phi.sum(axis=1) - exact)
    scale = np.abs(base) + np.abs(phi).sum(axis=1) + np.abs(exact)
    return np.asarray(np.divide(residual, scale, out=np.zeros_like(residual), where=residual != 0).max(axis=1))


def _compare(
    explainer: TreeExplainer | _Linear,
    native: NativeModel,
    X: Float32Array,
    sample: Mapping[int, Probe],
    names: Sequence[str],
) -> tuple[int, float]:
    """Returns how many rows were compared, and the worst difference as a share of the output's largest attribution."""
    if native.contributions is None:
        return 0, 0.0
    rows = materialise(X, list(sample.values()))
    phi = _phi(explainer, rows)
    base = np.atleast_1d(explainer.expected_value)
    expected, expected_base = (np.asarray(values, np.float64) for values in native.contributions(rows))
    if expected.shape != phi.shape or expected_base.shape != base.shape:
        raise PackRefused(f"{native.contributions_by} has shape {expected.shape}; {phi.shape} is due")
    largest = np.abs(expected).max(axis=(0, 1))
    allowed = RELATIVE_TOLERANCE * largest + _leaf_steps(native)
    difference = np.nan_to_num(np.abs(phi - expected), nan=np.inf)
    excess = np.divide(difference, allowed, out=np.zeros_like(difference), where=difference != 0)
    i, feature, output = (int(place) for place in np.unravel_index(np.argmax(excess), excess.shape))
    if not excess[i, feature, output] <= 1:
        place, probe = list(sample.items())[i]
        raise PackRefused(
            f"the ONNX model's attributions are not those of the native model: worst at {probe.kind} row {place}, "
            f"{probe.where}, feature {names[feature]!r}, output {output}: {native.contributions_by} "
            f"{expected[i, feature, output]:.9g}, ONNX {phi[i, feature, output]:.9g}; "
            f"{allowed[output]:.3g} is allowed; the row: {shown_row(probe, rows[i], names)}. "
            "Nothing was written."
        )
    if not (np.abs(base - expected_base) <= RELATIVE_TOLERANCE * np.abs(expected_base) + allowed).all():
        raise PackRefused(
            f"the ONNX model's base values {base.tolist()} are not those of {native.contributions_by}, "
            f"{expected_base.tolist()}. Nothing was written."
        )
    return len(sample), float(np.divide(difference, largest, out=np.zeros_like(difference), where=largest > 0).max())


def _leaf_steps(native: NativeModel) -> Float64Array:
    """Returns, for each output, what rounding its trees' leaves to float32 may change in an attribution."""
    steps = np.zeros(native.n_outputs)
    for tree in native.trees:
        steps[tree.outputs] += _STEP * np.abs(tree.leaf).max(axis=0)
    return steps


def _sample(probes: Sequence[Probe], of_each_kind: int) -> dict[int, Probe]:
    """Returns some probes of each kind, evenly drawn, by their places."""
    by_kind: dict[str, list[int]] = {}
    for place, probe in enumerate(probes):
        by_kind.setdefault(probe.kind, []).append(place)
    drawn = (places[i] for places in by_kind.values() for i in evenly(len(places), of_each_kind))
    return {place: probes[place] for place in drawn}
