"""The gate: a bundle is written only if ONNX Runtime and the native library answer alike on every probe.

Tolerance. Both sides add the same float32 leaves, in another order and with the base first or last, so they may differ
by rounding: a few float32 steps (6e-8 each, relative) of the largest number on the way. The gate allows, in an output,

    |Δ margin| ≤ 1e-5 · scale,   scale = max(|base|, |largest leaf|, largest |margin| of the caller's rows)

which is over a hundred such steps (of a linear model the largest term counts as a leaf), and at least scale 1 where
the link makes the margin a logarithm, of odds or of the prediction, or where the margin is a probability, and 1e-5 thus
means the same in every model. Other margins have no natural unit, so their scale is the model's own: targets around
1e-6 are tested as sharply as targets around 1e6. It is fixed before anything is compared.

Outputs follow from margins: the logistic function's slope is at most 1/4 of its scale, that of softmax 1/2 of the
margins' together, and Exp's is its value. Each gets the margin's tolerance through its link, and ten float32 steps for
the link's own rounding. Labels must agree wherever the native answer is farther than that from another label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.model.manifest import Parity
from xai_service.model.session import OUTPUTS, open_session
from xai_service.pack.asked import check_bits
from xai_service.pack.attributions import prove_attributions
from xai_service.pack.probes import (
    MAX_CALLER_ROWS,
    Probe,
    caller_probes,
    category_probes,
    evenly,
    materialise,
    missing_probes,
    shown_row,
    split_probes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnxruntime as ort
    from numpy.typing import NDArray

    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array

RELATIVE_TOLERANCE = 1e-5
_LINK_ROUNDING = 6e-7
_CHUNK_VALUES = 1 << 20
_ROWS_FOR_SCALE = 512
_FAR = 1e30


def prove(
    model: bytes,
    *,
    native: NativeModel,
    X: Float32Array,
    names: Sequence[str],
    threshold: float | None,
    background: Float32Array | None = None,
    progress: Callable[[float], None],
) -> Parity:
    """Returns the certificate that the ONNX file ``model`` answers as ``native`` does.

    Args:
        model: the ONNX file, as `xai_service.pack.onnx_writer` lays it out.
        native: the model it was made from.
        X: float32 (n, features), the caller's rows, n ≥ 1, NaN where missing, never infinite.
        names: of the features.
        threshold: of a binary classifier's label, else ``None``.
        background: float32 (rows, features) to explain against; ``None`` for path-dependent explanations.
        progress: is told the share done, 0 to 1.

    Raises:
        PackRefused: they differ; shows the worst row.
    """
    callers = caller_probes(X)
    of_splits, reached, total = split_probes(X, native.trees, names)
    probes = [*callers, *missing_probes(X, names), *category_probes(X, native.trees, names), *of_splits]
    if not native.takes_missing:  # and so X has none, and the service lets none pass
        probes = [probe for probe in probes if not any(map(math.isnan, probe.edits.values()))]
    if (
        native.line is not None
    ):  # any number stands at a split that asks whether there is one, also the greatest float32
        probes = [one for one in probes if all(not abs(value) > _FAR for value in one.edits.values())]
    if native.raw is not None:  # what the pipeline refuses, the service refuses too
        probes = [one for one, fine in zip(probes, native.accepts(materialise(X, probes)), strict=True) if fine]
    gate = _Gate(native, threshold, RELATIVE_TOLERANCE * _scale(native, X, callers))
    session = open_session(model)
    if native.asked is not None:
        check_bits(session, X)
    outputs = [output.name for output in session.get_outputs()]
    step = max(1, _CHUNK_VALUES // (X.shape[1] * native.n_outputs))
    margins = np.empty((len(probes), native.n_outputs), np.float32)
    for start in range(0, len(probes), step):
        chunk = probes[start : start + step]
        rows = materialise(X, chunk)
        found = dict(zip(outputs, session.run(None, {"input": rows}), strict=True))
        gate.compare(start, chunk, rows, native.predict(rows), found)
        margins[start : start + step] = found["margin"]
        progress(0.5 * min(1.0, (start + step) / len(probes)))
    gate.decide(names)
    if native.line is not None:
        _prove_far(session, native, X, names, gate.tolerance)
    explained = prove_attributions(
        model,
        native=native,
        X=X,
        probes=probes,
        margins=margins,
        names=names,
        background=background,
        progress=lambda share: progress(0.5 + 0.5 * share),
    )
    count = {k: sum(probe.kind == k for probe in probes) for k in ("caller", "missing", "threshold", "category")}
    return Parity(
        caller_rows=count["caller"],
        missing_rows=count["missing"],
        threshold_rows=count["threshold"],
        splits_tested=reached,
        splits_total=total,
        tolerance=float(gate.tolerance.max()),
        max_margin_difference=gate.max_margin_difference,
        max_output_difference=gate.max_output_difference,
        category_rows=count["category"],
        attribution_rows=explained.compared_rows,
        attribution_reference=explained.reference,
        max_attribution_difference=explained.max_difference,
        additivity_rows=explained.added_rows,
        max_additivity_residual=explained.max_residual,
    )


def _scale(native: NativeModel, X: Float32Array, callers: Sequence[Probe]) -> Float64Array:
    """Returns each output's, float64 (outputs,)."""
    margins = np.asarray(native.predict(materialise(X, callers))[0], np.float64)
    if margins.shape != (len(callers), native.n_outputs):
        raise PackRefused(f"the native model's margins have shape {margins.shape} for {len(callers)} rows")
    finite = np.isfinite(margins).all(axis=1)
    if not finite.all():
        raise PackRefused(f"the native model's margin is not finite at {callers[int(np.argmin(finite))].where}")
    scale = np.maximum(np.abs(native.base), np.abs(margins).max(axis=0))
    if native.line is not None and native.contributions is not None:
        few = [callers[i] for i in evenly(len(callers), _ROWS_FOR_SCALE)]
        scale = np.maximum(scale, np.abs(native.contributions(materialise(X, few))[0]).max(axis=(0, 1)))
    for tree in native.trees:
        np.maximum.at(scale, tree.outputs, np.abs(tree.leaf).max(axis=0))
    has_unit = native.link != "identity" or native.task.endswith("classification")
    return np.asarray(np.maximum(scale, 1.0 if has_unit else 0.0))


def _prove_far(
    session: ort.InferenceSession, native: NativeModel, X: Float32Array, names: Sequence[str], tolerance: Float64Array
) -> None:
    """Refuses a linear model that is no straight line far from the caller's rows, as where a step clips.

    Margins are large there, and may differ by as much more.
    """
    for column in evenly(len(names), MAX_CALLER_ROWS // 8).tolist():
        rows = np.repeat(X[evenly(len(X), 2)], 4, axis=0)
        reach = np.float32(max(1.0, float(np.abs(np.nan_to_num(X[:, column])).max())))
        rows[:, column] = np.resize(np.array([-1e4, -10, 10, 1e4], np.float32) * reach, len(rows))
        rows = rows[native.accepts(rows)]
        if not len(rows):
            continue
        found = session.run(["margin"], {"input": rows})[0].astype(np.float64)
        due = np.asarray(native.predict(rows)[0], np.float64)
        allowed = tolerance + RELATIVE_TOLERANCE * np.abs(due)
        excess = _excess(_difference(due, found), allowed)
        row, output = (int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
        if excess[row, output] > 1:
            raise PackRefused(
                f"the ONNX model and the native model differ far from X: with {names[column]!r} = "
                f"{rows[row, column]:g} margin native {due[row, output]:.9g}, ONNX {found[row, output]:.9g}. "
                "Nothing was written."
            )


@dataclass(frozen=True, slots=True)
class _Worst:
    """The row on which the two differ most, as a multiple of what is allowed."""

    excess: float
    index: int
    probe: Probe
    row: Float32Array
    what: str
    native: float
    onnx: float
    margins: tuple[float, float]
    allowed: float


class _Gate:
    """Compares chunk by chunk and remembers the worst row."""

    def __init__(self, native: NativeModel, threshold: float | None, tolerance: Float64Array) -> None:
        self.tolerance = tolerance
        self.max_margin_difference = 0.0
        self.max_output_difference = 0.0
        self._model = native
        self._threshold = threshold
        self._worst: dict[str, _Worst] = {}

    def compare(
        self,
        start: int,
        probes: Sequence[Probe],
        rows: Float32Array,
        native: tuple[NDArray[Any], NDArray[Any]],
        onnx: Mapping[str, NDArray[Any]],
    ) -> None:
        self._check_shapes(len(rows), onnx)
        margins, expected = (np.asarray(values, np.float64) for values in native)
        found_margins = onnx["margin"].astype(np.float64)
        allowed = self._allowed(expected)

        def note(what: str, a: Float64Array, b: Float64Array, limit: Float64Array, differ: Float64Array) -> None:
            excess = _excess(differ, limit)
            i, k = (int(place) for place in np.unravel_index(np.argmax(excess), excess.shape))
            if what not in self._worst or excess[i, k] > self._worst[what].excess:
                at = (float(margins[i, k]), float(found_margins[i, k]))
                self._worst[what] = _Worst(
                    float(excess[i, k]),
                    start + i,
                    probes[i],
                    rows[i],
                    what if len(self.tolerance) == 1 else f"{what} of output {k}",
                    float(a[i, k]),
                    float(b[i, k]),
                    at,
                    float(limit[i, k]),
                )

        difference = _difference(margins, found_margins)
        note("margin", margins, found_margins, np.broadcast_to(self.tolerance, margins.shape), difference)
        self.max_margin_difference = max(self.max_margin_difference, float(difference.max()))
        for what, a, b in self._columns(expected, onnx):
            difference = _difference(a, b)
            note(what, a, b, allowed, difference)
            self.max_output_difference = max(self.max_output_difference, float(difference.max()))
        if "label" in onnx:
            label, clear = self._labels(margins, expected, allowed)
            a, b = label[:, None].astype(np.float64), onnx["label"][:, None].astype(np.float64)
            note("label", a, b, np.zeros_like(a), np.where(clear[:, None] & (a != b), math.inf, 0.0))

    def decide(self, names: Sequence[str]) -> None:
        """Raises `PackRefused` if any row differs by more than is allowed."""
        # Margins first: an output that differs because its margin does tells nothing new.
        for worst in self._worst.values():
            if worst.excess > 1:
                raise PackRefused(_report(worst, names))

    def _check_shapes(self, n: int, onnx: Mapping[str, NDArray[Any]]) -> None:
        outputs, binary = self._model.n_outputs, self._model.task == "binary_classification"
        wide = {"margin": (n, outputs), "prediction": (n, outputs), "probabilities": (n, 2 if binary else outputs)}
        due = {name: wide.get(name, (n,)) for name in (*OUTPUTS[self._model.task], "margin")}
        shapes = {name: array.shape for name, array in onnx.items()}
        if shapes != due:
            raise PackRefused(f"the ONNX model's outputs have shapes {shapes}; {due} are due")

    def _columns(
        self, expected: Float64Array, onnx: Mapping[str, NDArray[Any]]
    ) -> list[tuple[str, Float64Array, Float64Array]]:
        """Returns what is computed through the link: its name, the native library's values, and ONNX Runtime's."""
        if "prediction" in onnx:
            return [("prediction", expected, onnx["prediction"].astype(np.float64))]
        found = onnx["probabilities"].astype(np.float64)
        if self._model.task != "binary_classification":
            return [("probability", expected, found)]
        return [
            ("probability of class 1", expected, found[:, 1:]),
            ("probability of class 0", 1 - expected, found[:, :1]),
        ]

    def _labels(
        self, margins: Float64Array, expected: Float64Array, allowed: Float64Array
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Returns the labels due, and where there is no doubt about them."""
        if self._threshold is not None:
            return expected[:, 0] > self._threshold, np.abs(expected - self._threshold)[:, 0] > allowed[:, 0]
        first, second = -np.partition(-margins, 1, axis=1)[:, :2].T
        return margins.argmax(axis=1), first - second > 2 * self.tolerance.max()

    def _allowed(self, expected: Float64Array) -> Float64Array:
        link, scale = self._model.link, self._model.link_scale
        if link in ("logistic", "one_vs_all"):
            return np.broadcast_to(self.tolerance * scale / 4 + _LINK_ROUNDING, expected.shape)
        if link == "softmax":
            return np.full(expected.shape, self.tolerance.max() / 2 + _LINK_ROUNDING)
        if link == "identity":
            return np.broadcast_to(self.tolerance, expected.shape)
        smallest = float(np.finfo(np.float32).tiny)  # below it float32 has fewer digits
        finite = np.where(np.isfinite(expected), np.abs(expected), 0)
        return np.asarray(finite * (np.expm1(np.minimum(self.tolerance, 1.0)) + _LINK_ROUNDING) + smallest)


def _difference(a: Float64Array, b: Float64Array) -> Float64Array:
    """Returns |a - b|, 0 where both are the same infinity, infinite where either is NaN or just one is infinite."""
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
    return np.nan_to_num(difference, nan=math.inf, posinf=math.inf)


def _excess(difference: Float64Array, allowed: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / allowed)


def _report(worst: _Worst, names: Sequence[str]) -> str:
    margin_differs = worst.what.startswith("margin")
    output = "" if margin_differs else f"{worst.what} native {worst.native:.9g}, ONNX {worst.onnx:.9g}; "
    return (
        f"the ONNX model and the native model differ: worst at {worst.probe.kind} row {worst.index}, "
        f"{worst.probe.where}: {output}{worst.what if margin_differs else 'margin'} native {worst.margins[0]:.9g}, "
        f"ONNX {worst.margins[1]:.9g}; {worst.what} may differ by {worst.allowed:.3g}; the row: "
        f"{shown_row(worst.probe, worst.row, names)}. Nothing was written."
    )
