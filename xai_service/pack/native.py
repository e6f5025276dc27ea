"""What a library's reader hands over: the neutral description that the rest of packing works from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from xai_service.model.manifest import Cover, Link, Task
    from xai_service.model.provenance import Monotonicity, Scalar
    from xai_service.pack.additive import Additive, Line
    from xai_service.pack.asked import Asked
    from xai_service.pack.forest import Tree
    from xai_service.pack.raw_columns import RawColumn
    from xai_service.types import Float32Array, Float64Array

    Predict = Callable[[Float32Array], tuple[NDArray[Any], NDArray[Any]]]
    Contributions = Callable[[Float32Array], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class NativeModel:
    """A model as its own library sees it.

    A binary classifier has one output, the margin of class 1; one of several classes, labels or targets has an output
    for each.

    Attributes:
        made_by: versions of the libraries that read it.
        trees: its trees; the leaves that a row reaches add up to its margins.
        base: float64 (outputs,), added to them, in margin units; each exactly a float32.
        task, link, cover: as in the manifest.
        n_features: columns of its input.
        feature_names: as the model knows them, or ``None``.
        predict: the library itself, for float32 (n, features), NaN where missing: margins, (n, outputs), and what its
            link makes of them, (n, outputs): probabilities (of class 1, where there is one output) or predictions.
        link_scale: as in the manifest.
        class_names: of a classifier, as the model knows them, in the order of its labels, or ``None``.
        categorical: the columns that hold codes of categories.
        categories: for some of these what each code stands for, from 0 on; those are the values in a DataFrame.
        takes_missing: whether the library predicts for rows with NaN in them.
        contributions: attributions for rows such as ``predict`` takes, computed by other means than ours: (n, features,
            outputs), and the margins expected before any feature is known, (outputs,). ``None`` where nothing can.
        contributions_by: what computes them, such as "xgboost pred_contribs".
        why_no_covers: where ``cover`` is "none": the reason, for people.
        raw: of a pipeline, the raw columns that it takes; ``None`` where any number is taken in any column.
        additive: of a linear model, what each column adds; ``None`` of trees. Until it is centred
            (`xai_service.pack.additive`) there are no trees, and ``base`` is not yet that of the file.
        line: its linear part as it is served, once centred.
        asked: of a model that is neither trees nor linear, the graph that is served.
        weights: float64 (features, outputs) of a linear model, of the columns that it sees itself.
    """

    made_by: Mapping[str, str]
    trees: tuple[Tree, ...]
    base: Float64Array
    task: Task
    link: Link
    cover: Cover
    n_features: int
    feature_names: tuple[str, ...] | None
    predict: Predict
    link_scale: float = 1.0
    class_names: tuple[str, ...] | None = None
    categorical: frozenset[int] = frozenset()
    categories: Mapping[int, tuple[Any, ...]] = field(default_factory=dict)
    takes_missing: bool = True
    contributions: Contributions | None = None
    contributions_by: str | None = None
    hyper_parameters: Mapping[str, Scalar] = field(default_factory=dict)
    monotonicity: tuple[Monotonicity, ...] | None = None
    why_no_covers: str = ""
    raw: tuple[RawColumn, ...] | None = None
    additive: Additive | None = None
    line: Line | None = None
    weights: Float64Array | None = None
    asked: Asked | None = None

    @property
    def n_outputs(self) -> int:
        """Margins computed for a row."""
        return len(self.base)

    def accepts(self, rows: Float32Array) -> NDArray[np.bool_]:
        """Returns of float32 (n, features) rows which can be asked about at all, bool (n,)."""
        if self.raw is None:
            return np.ones(len(rows), np.bool_)
        fine = [column.accepts(values) for column, values in zip(self.raw, rows.T, strict=True)]
        return np.asarray(np.all(fine, axis=0))
