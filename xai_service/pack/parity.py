"""The gate: a bundle is written only if ONNX Runtime and the native library answer alike on every probe.

Tolerance. Both sides add the same float32 leaves, in another order and with the base first or last, so they may differ
by rounding: a few float32 steps (6e-8 each, relative) of the largest number on the way. The gate allows

    |Δ margin| ≤ 1e-5 · scale,   scale = max(|base|, |largest leaf|, largest |margin| of the caller's rows)

which is over a hundred such steps, and at least scale 1 where the link makes the margin a logarithm, of odds or of the
prediction, and 1e-5 thus means the same in every model. An identity link has no natural unit, so its scale is the
model's own: targets around 1e-6 are tested as sharply as targets around 1e6. It is fixed before anything is compared.

Outputs follow from margins: the logistic function's slope is at most 1/4 and Exp's is its value. Each gets the margin's
tolerance through its link, and ten float32 steps for the link's own rounding. Labels must agree wherever the native
probability is farther than that from the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.model.manifest import Parity
from xai_service.model.session import open_session
from xai_service.pack.probes import Probe, caller_probes, materialise, missing_probes, split_probes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xai_service.model.manifest import Link
    from xai_service.pack.forest import Tree
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array

RELATIVE_TOLERANCE = 1e-5
_LINK_ROUNDING = 6e-7
_CHUNK_VALUES = 1 << 20
_SHOWN_VALUES = 24


def prove(
    model: bytes,
    *,
    native: NativeModel,
    trees: Sequence[Tree],
    X: Float32Array,
    names: Sequence[str],
    threshold: float | None,
    progress: Callable[[float], None],
) -> Parity:
    """Returns the certificate that the ONNX file ``model`` answers as ``native`` does.

    Args:
        model: the ONNX file, as `xai_service.pack.onnx_writer` lays it out.
        native: the model it was made from.
        trees: as read from it.
        X: float32 (n, features), the caller's rows, n ≥ 1, NaN where missing, never infinite.
        names: of the features.
        threshold: of a classifier's label, else ``None``.
        progress: is told the share done, 0 to 1.

    Raises:
        PackRefused: they differ; shows the worst row.
    """
    callers = caller_probes(X)
    of_splits, reached, total = split_probes(X, trees, names)
    probes = [*callers, *missing_probes(X, names), *of_splits]
    gate = _Gate(native.link, threshold, RELATIVE_TOLERANCE * _scale(native, trees, X, callers))
    session = open_session(model)
    step = max(1, _CHUNK_VALUES // X.shape[1])
    for start in range(0, len(probes), step):
        chunk = probes[start : start + step]
        rows = materialise(X, chunk)
        gate.compare(start, chunk, rows, native.predict(rows), session.run(None, {"input": rows}))
        progress(min(1.0, (start + step) / len(probes)))
    gate.decide(names)
    count = {kind: sum(probe.kind == kind for probe in probes) for kind in ("caller", "missing", "threshold")}
    return Parity(
        caller_rows=count["caller"],
        missing_rows=count["missing"],
        threshold_rows=count["threshold"],
        splits_tested=reached,
        splits_total=total,
        tolerance=gate.tolerance,
        max_margin_difference=gate.max_margin_difference,
        max_output_difference=gate.max_output_difference,
    )


def _scale(native: NativeModel, trees: Sequence[Tree], X: Float32Array, callers: Sequence[Probe]) -> float:
    margins, _ = native.predict(materialise(X, callers))
    if not np.isfinite(margins).all():
        raise PackRefused(
            f"the native model's margin is not finite at {callers[int(np.argmin(np.isfinite(margins)))].where}"
        )
    leaves = max(float(np.abs(tree.leaf).max()) for tree in trees)
    unit = 0.0 if native.link == "identity" else 1.0
    return max(unit, abs(native.base), leaves, float(np.abs(margins).max()))


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

    def __init__(self, link: Link, threshold: float | None, tolerance: float) -> None:
        self.tolerance = tolerance
        self.max_margin_difference = 0.0
        self.max_output_difference = 0.0
        self._link = link
        self._threshold = threshold
        self._worst: dict[str, _Worst] = {}

    def compare(
        self,
        start: int,
        probes: Sequence[Probe],
        rows: Float32Array,
        native: tuple[Float32Array, Float32Array],
        onnx: Sequence[Any],
    ) -> None:
        expected_margin, expected = (values.astype(np.float64) for values in native)
        *outputs, margin = onnx
        if margin.shape != (len(rows), 1) or outputs[-1].shape != (len(rows), 2 if self._link == "logistic" else 1):
            raise PackRefused(f"the ONNX model's outputs have shapes {[array.shape for array in onnx]}")
        margins = (expected_margin, margin[:, 0].astype(np.float64))
        found = outputs[-1].astype(np.float64)
        allowed = self._allowed(expected)

        def note(what: str, a: Float64Array, b: Float64Array, limit: Float64Array, differ: Float64Array) -> None:
            excess = _excess(differ, limit)
            i = int(np.argmax(excess))
            if what not in self._worst or excess[i] > self._worst[what].excess:
                at = (float(margins[0][i]), float(margins[1][i]))
                self._worst[what] = _Worst(
                    float(excess[i]), start + i, probes[i], rows[i], what, float(a[i]), float(b[i]), at, float(limit[i])
                )

        difference = _difference(*margins)
        note("margin", *margins, np.full(len(rows), self.tolerance), difference)
        self.max_margin_difference = max(self.max_margin_difference, float(difference.max()))
        columns = [("probability of class 1" if self._link == "logistic" else "prediction", expected, found[:, -1])]
        if self._threshold is not None:
            columns.append(("probability of class 0", 1 - expected, found[:, 0]))
            label = (expected > self._threshold).astype(np.float64)
            clear = np.abs(expected - self._threshold) > allowed
            disagree = np.where(clear & (label != outputs[0]), math.inf, 0.0)
            note("label", label, outputs[0].astype(np.float64), np.zeros(len(rows)), disagree)
        for what, a, b in columns:
            difference = _difference(a, b)
            note(what, a, b, allowed, difference)
            self.max_output_difference = max(self.max_output_difference, float(difference.max()))

    def decide(self, names: Sequence[str]) -> None:
        """Raises `PackRefused` if any row differs by more than is allowed."""
        # Margins first: an output that differs because its margin does tells nothing new.
        for worst in self._worst.values():
            if worst.excess > 1:
                raise PackRefused(_report(worst, names))

    def _allowed(self, expected: Float64Array) -> Float64Array:
        if self._link == "logistic":
            return np.full(len(expected), self.tolerance / 4 + _LINK_ROUNDING)
        if self._link == "identity":
            return np.full(len(expected), self.tolerance)
        smallest = float(np.finfo(np.float32).tiny)  # below it float32 has fewer digits
        finite = np.where(np.isfinite(expected), np.abs(expected), 0)
        return np.asarray(finite * (math.expm1(min(self.tolerance, 1.0)) + _LINK_ROUNDING) + smallest)


def _difference(a: Float64Array, b: Float64Array) -> Float64Array:
    """Returns |a - b|, 0 where both are the same infinity, infinite where either is NaN or just one is infinite."""
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
    return np.nan_to_num(difference, nan=math.inf, posinf=math.inf)


def _excess(difference: Float64Array, allowed: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / allowed)


def _report(worst: _Worst, names: Sequence[str]) -> str:
    edited = list(worst.probe.edits) if len(worst.probe.edits) < len(names) else []
    columns = list(dict.fromkeys([*reversed(edited), *range(min(len(names), _SHOWN_VALUES))]))[:_SHOWN_VALUES]
    values = ", ".join(f"{names[column]}={worst.row[column]}" for column in columns)
    more = len(names) - len(columns)
    output = "" if worst.what == "margin" else f"{worst.what} native {worst.native:.9g}, ONNX {worst.onnx:.9g}; "
    return (
        f"the ONNX model and the native model differ: worst at {worst.probe.kind} row {worst.index}, "
        f"{worst.probe.where}: {output}margin native {worst.margins[0]:.9g}, ONNX {worst.margins[1]:.9g}; "
        f"{worst.what} may differ by {worst.allowed:.3g}; the row: {values}{f', and {more} more' if more else ''}. "
        "Nothing was written."
    )
