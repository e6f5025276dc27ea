"""The caller's rows as the model will see them when served: dense float32, NaN where missing."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.model.manifest import Feature

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from xai_service.pack.native import NativeModel
    from xai_service.pack.raw_columns import RawColumn
    from xai_service.types import Float32Array


def read_rows(
    X: Any, categorical: Collection[int] = (), categories: Mapping[int, tuple[Any, ...]] | None = None
) -> tuple[Float32Array, tuple[str, ...] | None]:
    """Returns float32 (n, features) in C order, and the columns' names if ``X`` is a DataFrame with named columns.

    Args:
        X: the caller's rows.
        categorical: columns of the model that hold codes of categories.
        categories: for some of these what each code stands for; a DataFrame holds those, and gets the codes.

    Raises:
        PackRefused: not numbers, not two-dimensional, empty, sparse, of unknown categories or infinite.
    """
    values, names = _values(X, categories or {})
    if values.dtype.kind not in "fiub":
        raise PackRefused(f"X holds {values.dtype}, not numbers: encode it as the model was trained")
    if values.ndim != 2 or 0 in values.shape:
        raise PackRefused(f"X has shape {values.shape}; (rows, features) with at least one row is needed")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(values, dtype=np.float32)
    wrong = np.argwhere(np.isinf(rows))
    if len(wrong):
        row, column = (int(i) for i in wrong[0])
        raise PackRefused(
            f"X[{row}, {names[column] if names else column!r}] is {values[row, column]}, infinite as float32 "
            f"({len(wrong)} such values): replace infinities by NaN or by a finite number"
        )
    for column in sorted(place for place in categorical if place < rows.shape[1]):
        places = np.flatnonzero((rows[:, column] != np.rint(rows[:, column])) & ~np.isnan(rows[:, column]))
        if len(places):
            raise PackRefused(
                f"X[{places[0]}, {names[column] if names else column!r}] is {rows[places[0], column]}, and the feature "
                "is categorical: its codes are whole numbers"
            )
    return rows, names


def _values(X: Any, categories: Mapping[int, tuple[Any, ...]]) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Returns what ``X`` holds, as it holds it, and its columns' names."""
    names = None
    if hasattr(X, "columns") and hasattr(X, "dtypes") and hasattr(X, "to_numpy"):
        repeated = [column for column, count in Counter(X.columns).items() if count > 1]
        if repeated:
            raise PackRefused(f"X has more than one column {repeated[0]!r}: name each of its own")
        if all(isinstance(column, str) for column in X.columns):
            names = tuple(X.columns)
        values = _frame_values(X, categories)
    elif isinstance(X, np.ma.MaskedArray):
        raise PackRefused("X is a masked array, and what is masked would be taken as it is: pass NaN in its place")
    elif hasattr(X, "tocsr"):
        raise PackRefused("X is sparse: libraries disagree whether an absent entry is 0 or missing; pass dense rows")
    else:
        try:
            values = np.asarray(X)
        except ValueError as error:
            raise PackRefused(f"X is not an array of numbers: {error}") from error
    return values, names


def _frame_values(X: Any, categories: Mapping[int, tuple[Any, ...]]) -> NDArray[Any]:
    """Returns a DataFrame's values as float64, categories as their codes."""
    for place, (column, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
        is_number = getattr(dtype, "kind", "O") in "fiub"
        if place in categories and is_number:
            raise PackRefused(
                f"column {column!r} holds {dtype}, and the model was trained on categories: give it the dtype "
                "category, or pass an array of the codes"
            )
        if place not in categories and str(dtype) == "category":
            raise PackRefused(
                f"column {column!r} is of the dtype category, and the model does not keep what its codes stand for: "
                "pass the codes"
            )
        if place not in categories and not is_number:
            raise PackRefused(f"column {column!r} holds {dtype}, not numbers: encode it as the model was trained")
    if not categories:
        return np.asarray(X.to_numpy(dtype=np.float64, na_value=np.nan))
    values = np.empty(X.shape, np.float64)
    for place, column in enumerate(X.columns):
        one = X[column]
        if place in categories:
            values[:, place] = _codes(one.astype(object).tolist(), one.isna().tolist(), categories[place], column)
        else:
            values[:, place] = one.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _codes(values: list[Any], missing: list[bool], categories: tuple[Any, ...], column: str) -> list[float]:
    codes: dict[Any, float] = {category: float(code) for code, category in enumerate(categories)}
    try:
        found = [math.nan if gap else codes.get(value, -1.0) for value, gap in zip(values, missing, strict=True)]
    except TypeError as error:  # of a list, say
        raise PackRefused(f"column {column!r} holds what can be no category: {error}") from error
    if -1.0 in found:
        row = found.index(-1.0)
        raise PackRefused(
            f"X[{row}, {column!r}] is {values[row]!r}, a category that the model was not trained on; leave it missing"
        )
    return found


def name_features(
    n_features: int,
    *,
    given: Sequence[str] | None,
    model: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
) -> tuple[str, ...]:
    """Returns the features' names: as given, else as the model knows them, else the columns', else f0, f1 …

    Raises:
        PackRefused: not as many as features; or the columns of ``X`` are named otherwise or stand in another order.
    """
    if model is not None and columns is not None and model == tuple(name.replace(" ", "_") for name in columns):
        model = columns  # LightGBM writes spaces so
    expected, source = (model, "the model's features") if model is not None else (given, "feature_names")
    if columns is not None and expected is not None and columns != tuple(expected):
        wrong = next((pair for pair in zip(columns, expected, strict=False) if pair[0] != pair[1]), None)
        detail = f"{wrong[0]!r} stands where {wrong[1]!r} is due" if wrong else f"{len(columns)} for {len(expected)}"
        raise PackRefused(f"the columns of X are not {source}: {detail}")
    names = next((tuple(n) for n in (given, model, columns) if n is not None), None)
    if names is None:
        names = tuple(f"f{i}" for i in range(n_features))
    if len(names) != n_features:
        raise PackRefused(f"{len(names)} feature names for {n_features} features")
    return names


def describe_features(
    rows: Float32Array, names: tuple[str, ...], missing: str, native: NativeModel
) -> tuple[Feature, ...]:
    """Returns each feature with its kind, its values' range in ``rows``, and whether it may be missing when served.

    Raises:
        PackRefused: ``missing`` is not "seen", "all" or "none"; or a model that takes no missing values is to get some.
    """
    if missing not in ("seen", "all", "none"):
        raise PackRefused(f"missing is {missing!r}; 'seen', 'all' or 'none' is expected")
    seen = np.logical_or.reduce(np.isnan(rows), axis=0)
    if not native.takes_missing and (missing == "all" or seen.any()):
        where = f"X has NaN in {names[int(np.argmax(seen))]!r}" if seen.any() else "missing is 'all'"
        raise PackRefused(
            f"{where}, and the model takes no missing values: fill them in, or train one that takes them, such as a "
            "HistGradientBoosting model"
        )
    # fmin and fmax pass NaN over, and return it only where there is nothing else.
    low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
    if native.raw is not None:
        return _describe_raw(native.raw, native.categorical, missing, seen, low, high)
    return tuple(
        Feature(
            name=name,
            allows_missing=missing == "all" or (missing == "seen" and bool(seen[i])),
            minimum=None if np.isnan(low[i]) else float(low[i]),
            maximum=None if np.isnan(high[i]) else float(high[i]),
            kind="categorical" if i in native.categorical else "numeric",
            categories=tuple(str(one) for one in native.categories.get(i, ())),
        )
        for i, name in enumerate(names)
    )


def _describe_raw(
    columns: Sequence[RawColumn],
    codes: Collection[int],
    missing: str,
    seen: NDArray[np.bool_],
    low: Float32Array,
    high: Float32Array,
) -> tuple[Feature, ...]:
    features = []
    for i, column in enumerate(columns):
        wanted = missing == "all" or (missing == "seen" and bool(seen[i]))
        is_number = column.categories is None and not np.isnan(low[i])
        known = column.categories if column.known is None else tuple(map(_number_text, column.known))
        features.append(
            Feature(
                name=column.name,
                allows_missing=wanted and column.takes_missing,
                minimum=float(low[i]) if is_number else None,
                maximum=float(high[i]) if is_number else None,
                kind="string" if column.categories is not None else "categorical" if i in codes else "numeric",
                categories=known or (),
                allows_unknown=column.takes_unknown,
            )
        )
    return tuple(features)


def _number_text(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
