"""Reads a scikit-learn Pipeline that ends in a model of trees or a linear one: on the raw columns, its steps folded in.

The pipeline's own steps say what they make of values; nothing of them is written anew here. What is proven afterwards
is the folded model against the pipeline: the steps' own ``transform``, and the model's own library behind it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn

from xai_service.errors import PackRefused
from xai_service.pack import readers
from xai_service.pack.additive import Additive, Lookups
from xai_service.pack.by_player import ByPlayer
from xai_service.pack.columnwise import follow
from xai_service.pack.fold import Steps, fold
from xai_service.pack.raw_columns import RawColumn, RawFrame
from xai_service.pack.rows import read_rows
from xai_service.pack.sklearn_asked import read_asked
from xai_service.pack.sklearn_calls import feature_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xai_service.model.provenance import Monotonicity
    from xai_service.pack.additive import Terms
    from xai_service.pack.columnwise import Derived
    from xai_service.pack.native import Contributions, NativeModel, Predict
    from xai_service.types import Float32Array, Float64Array


def read(pipeline: Any, X: Any, *, raw_score: bool) -> tuple[NativeModel, Float32Array]:
    """Returns the neutral description of a fitted pipeline, on its raw columns, and ``X`` as it is served.

    Raw columns that the pipeline leaves out are left out.

    Args:
        pipeline: a ``sklearn.pipeline.Pipeline``.
        X: raw rows, (n, columns), as the pipeline was fitted on: a DataFrame, or an array.
        raw_score: take the model for a regression of its margin, whatever its objective is.

    Raises:
        PackRefused: a step or the model is not supported, or ``X`` is not what the pipeline takes; says what and where.
    """
    *steps, (_, model) = pipeline.steps
    native = readers.read(model, raw_score=raw_score)
    if native.asked is not None:
        return _read_asked(pipeline, X, raw_score=raw_score)
    names = getattr(pipeline, "feature_names_in_", None)
    try:
        width = len(names) if names is not None else int(pipeline.n_features_in_)
        columns = follow(steps, [f"f{i}" for i in range(width)] if names is None else names)
    except AttributeError as error:
        raise PackRefused(f"the pipeline is not fitted: {error}") from error
    used = sorted({one.raw for one in columns})
    raw = RawFrame(X, names, used)
    categories, known = _lookups(columns, raw)
    try:
        before = _Before(steps, raw, categories, sparse_is_missing="xgboost" in native.made_by)
        before.check(columns, native.n_features)
    except (AttributeError, TypeError, ValueError) as error:
        raise PackRefused(f"the pipeline's preprocessing refuses X: {error}") from error
    does = _Takes(before, used, categories, known, may_give_nan=native.takes_missing)
    values = {i: np.arange(len(one), dtype=np.float32) for i, one in categories.items()} | known
    unknown = {i: does.beside[i] for i in does.unknown}
    place = np.full(width, -1)
    place[used] = np.arange(len(used))
    on_raw = replace(
        native,
        made_by={**native.made_by, "scikit-learn": sklearn.__version__},
        n_features=len(used),
        feature_names=None if names is None else tuple(names[i] for i in used),
        predict=_predictor(native, before, used),
        categorical=frozenset(int(place[columns[i].raw]) for i in native.categorical if columns[i].how == "same"),
        categories={},
        takes_missing=True,  # each column says so for itself
        monotonicity=_monotonicity(native, columns, used),
        raw=tuple(does.described(i, raw.names[i]) for i in used),
    )
    rows = np.ascontiguousarray(before.rows[:, used])
    if native.additive is not None:
        lookups = Lookups(
            known={int(place[i]): one for i, one in values.items()},
            unknown={int(place[i]): one for i, one in unknown.items()},
            takes_missing=frozenset(int(place[i]) for i in does.missing),
        )
        return replace(on_raw, additive=_added(native, before, columns, used, rows[0], lookups)), rows
    trees = fold(native.trees, Steps(columns, before.made, values, unknown, does.missing))
    contributions, contributions_by = _contributions(native, before, columns, used)
    folded = replace(
        on_raw,
        trees=tuple(replace(tree, feature=np.where(tree.left >= 0, place[tree.feature], 0)) for tree in trees),
        contributions=contributions,
        contributions_by=contributions_by,
    )
    return folded, rows


def _added(
    native: NativeModel,
    before: _Before,
    columns: Sequence[Derived],
    used: Sequence[int],
    row: Float32Array,
    lookups: Lookups,
) -> Additive:
    """Returns what each raw column adds to a linear model's margin: what its weights make of all columns made of it."""
    weights, additive = native.weights, native.additive
    if weights is None or additive is None:
        raise ValueError("not a linear model")
    bent = next((one.bent for one in columns if one.bent and one.how != "lookup"), None)
    if bent is not None:
        raise PackRefused(
            f"{bent}: gives no straight line of its column, which a linear model needs to be explained exactly: leave "
            "it out, or apply it to the data before, and train and pack on what it gives"
        )

    def added(which: NDArray[np.bool_]) -> Terms:
        to = np.zeros((len(columns), len(used)))
        to[np.arange(len(columns)), [used.index(one.raw) for one in columns]] = which

        def terms(rows: Float32Array) -> Float64Array:
            made = np.where(which, before.of_used(rows, used), 0.0)  # of what stands aside, NaN would spread
            return np.stack([(made * one) @ to for one in weights.T], axis=2)

        return terms

    looked_up = np.array([one.how == "lookup" for one in columns])
    return Additive(
        additive.intercept,
        added(~looked_up),
        row,
        looked_up=added(looked_up) if looked_up.any() else None,
        lookups=lookups,
    )


def _read_asked(pipeline: Any, X: Any, *, raw_score: bool) -> tuple[NativeModel, Float32Array]:
    """Returns a pipeline that is neither trees nor linear, whose steps are converted with its model."""
    frame = hasattr(X, "columns")
    values, names = read_rows(X)
    if frame and names is not None and names != feature_names(pipeline):
        raise PackRefused(
            f"X has the columns {list(names)[:8]}, and the pipeline was fitted on others, or in another order"
        )
    return read_asked(pipeline, raw_score=raw_score), values


class _Takes:
    """Which raw columns take missing values, and those beyond the ones known.

    Attributes:
        beside: of the columns that are looked up, a value that is not known.
        missing, unknown: the columns that take NaN, and such values.
    """

    def __init__(
        self,
        before: _Before,
        used: Sequence[int],
        categories: Mapping[int, list[str]],
        known: Mapping[int, Float32Array],
        *,
        may_give_nan: bool,
    ) -> None:
        self._categories, self._known = categories, known
        self.beside = {i: float(len(names)) for i, names in categories.items()}
        self.beside |= {i: _number_beside(values) for i, values in known.items()}
        self.missing = before.which_take(dict.fromkeys(used, math.nan), may_give_nan=may_give_nan)
        self.unknown = before.which_take(self.beside, may_give_nan=may_give_nan)

    def described(self, column: int, name: str) -> RawColumn:
        takes_unknown = column in self.unknown or column not in self.beside
        return RawColumn(
            name=name,
            categories=tuple(self._categories[column]) if column in self._categories else None,
            known=tuple(self._known[column].tolist()) if column in self._known and not takes_unknown else None,
            takes_unknown=takes_unknown,
            takes_missing=column in self.missing,
        )


class _Before:
    """The steps before the model, asked for rows of the matrix."""

    def __init__(
        self,
        steps: Sequence[tuple[str, Any]],
        raw: RawFrame,
        categories: dict[int, list[str]],
        *,
        sparse_is_missing: bool,
    ) -> None:
        self._steps = [step for _, step in steps if step is not None and step != "passthrough"]
        self._raw = raw
        self._categories = categories
        self._sparse_is_missing = sparse_is_missing
        self._is_sparse = False
        self.rows = raw.matrix(categories)

    def check(self, columns: Sequence[Derived], n_features: int) -> None:
        """Refuses steps that make another number of columns of X than were followed, or sparse ones of numbers."""
        width = self.of(self.rows).shape[1]
        if width != len(columns) or width != n_features:
            raise PackRefused(
                f"the preprocessing makes {width} columns of X, of which {len(columns)} could be followed, and the "
                f"model takes {n_features}"
            )
        numeric = next((one.raw for one in columns if one.how != "lookup"), None)
        if self._is_sparse and self._sparse_is_missing and numeric is not None:
            raise PackRefused(
                "the preprocessing makes sparse rows, in which XGBoost takes 0 for missing, also in "
                f"{self._raw.names[numeric]!r}: fit it with sparse_threshold=0 (ColumnTransformer) and "
                "sparse_output=False (OneHotEncoder)"
            )

    def of(self, rows: Float32Array) -> Float64Array:
        """Returns float64 (n, columns), what the model sees of float32 (n, raw columns). Raises as the steps do."""
        made = self._raw.frame(rows, self._categories)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown categories, which are asked for on purpose
            for step in self._steps:
                made = step.transform(made)
        if hasattr(made, "tocsr"):
            self._is_sparse = True
            dense = np.full(made.shape, np.nan if self._sparse_is_missing else 0.0)
            entries = made.tocoo()
            dense[entries.row, entries.col] = entries.data
            return dense
        if hasattr(made, "to_numpy"):
            made = made.to_numpy()
        return np.asarray(made, np.float64)

    def made(self, values: Mapping[int, Float32Array]) -> Float64Array:
        """As `xai_service.pack.fold.Steps.made`."""
        n = max((len(one) for one in values.values()), default=1)
        rows = np.repeat(self.rows[:1], n, axis=0)
        for i, one in values.items():
            rows[:, i] = one
        return self.of(rows)

    def of_used(self, rows: Float32Array | Float64Array, used: Sequence[int]) -> Float64Array:
        """Returns what the model sees of float32 (n, used raw columns)."""
        return self.made(dict(zip(used, rows.T, strict=True)))

    def which_take(self, values: Mapping[int, float], *, may_give_nan: bool) -> frozenset[int]:
        """Returns the columns in which the steps take this value, and the model what they make of it."""
        if self._take(values, may_give_nan=may_give_nan):
            return frozenset(values)
        return frozenset(i for i, one in values.items() if self._take({i: one}, may_give_nan=may_give_nan))

    def _take(self, values: Mapping[int, float], *, may_give_nan: bool) -> bool:
        try:
            made = self.made({i: np.array([one], np.float32) for i, one in values.items()})
        except ValueError:
            return False
        return may_give_nan or not np.isnan(made).any()


def _lookups(columns: Sequence[Derived], raw: RawFrame) -> tuple[dict[int, list[str]], dict[int, Float32Array]]:
    """Returns, of the columns that encoders look up: of strings, the categories; of numbers, the values known.

    They are the steps' own, whatever ``X`` holds: other rows of the pipeline make a matrix of the same places.
    """
    found: dict[int, set[Any]] = {}
    for column in columns:
        if column.how == "lookup":
            found.setdefault(column.raw, set()).update(column.known)
        elif column.raw in raw.strings:
            raise PackRefused(
                f"column {raw.names[column.raw]!r} holds strings and reaches the model without an encoder"
            )
    categories, known = {}, {}
    for i, values in sorted(found.items()):
        strings = sorted(one for one in values if isinstance(one, str))
        if strings or i in raw.strings:
            if i not in raw.strings and i not in raw.empty:
                raise PackRefused(f"column {raw.names[i]!r} holds no string in X, and is encoded by strings")
            categories[i] = strings
            continue
        numbers = np.array(sorted(map(float, values)), np.float64)
        inexact = numbers[numbers.astype(np.float32) != numbers]
        if len(inexact):
            raise PackRefused(
                f"column {raw.names[i]!r} is encoded by its values, and {inexact[0]} is none in float32, in which "
                "numbers are served: turn the column into strings"
            )
        known[i] = numbers.astype(np.float32)
    return categories, known


def _number_beside(values: Float32Array) -> float:
    """Returns a number that is none of them."""
    return next(float(k) for k in range(len(values) + 1) if k not in values)


def _predictor(native: NativeModel, before: _Before, used: Sequence[int]) -> Predict:
    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        return native.predict(before.of_used(rows, used))  # type: ignore[arg-type]

    return predict


def _contributions(
    native: NativeModel, before: _Before, columns: Sequence[Derived], used: Sequence[int]
) -> tuple[Contributions, str] | tuple[None, None]:
    """Returns what attributions are compared with, and what computes it.

    The library's own where no raw column makes two that trees look at; else they are not to be added up.
    """
    looked_at = sorted({int(i) for tree in native.trees for i in tree.feature[tree.splits]})
    raws = [columns[i].raw for i in looked_at]
    if len(set(raws)) == len(raws):
        told = native.contributions
        if told is None:
            return None, None

        def of_library(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
            phi, base = told(before.of_used(rows, used))  # type: ignore[arg-type]
            found = np.zeros((len(rows), len(used), phi.shape[2]))
            found[:, [used.index(raw) for raw in raws]] = phi[:, looked_at]
            return found, base

        return of_library, native.contributions_by or ""
    by_player = ByPlayer(native, [used.index(one.raw) for one in columns])

    def together(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        return by_player.contributions(before.of_used(rows, used))

    return together, by_player.name


def _monotonicity(
    native: NativeModel, columns: Sequence[Derived], used: Sequence[int]
) -> tuple[Monotonicity, ...] | None:
    """Returns the model's directions where a raw column makes one column, which rises with it; 0 for the others."""
    if native.monotonicity is None:
        return None
    of_raw: dict[int, list[int]] = {}
    for i, column in enumerate(columns):
        of_raw.setdefault(column.raw, []).append(i)
    return tuple(
        native.monotonicity[of_raw[raw][0]] if len(of_raw[raw]) == 1 and columns[of_raw[raw][0]].how != "lookup" else 0
        for raw in used
    )
