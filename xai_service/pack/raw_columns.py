"""The raw columns that a pipeline takes, as the matrix that is served, and back.

In the matrix a number stands as it is, rounded to float32; a string stands as the place of its category, and one that
is no known category as the place after the last; what is missing is NaN. The service makes the same matrix of a request
(`xai_service.model.raw_features`), from the categories in the manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.model.raw_features import encode, is_missing

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from xai_service.types import Float32Array

_UNKNOWN = "\N{REPLACEMENT CHARACTER} no category"  # longer if it should be one


@dataclass(frozen=True, slots=True)
class RawColumn:
    """One of them, as far as serving it goes.

    Attributes:
        name: of the column.
        categories: of a column of strings, those known; ``None`` for numbers.
        known: of a column of numbers, the only ones that are taken, ascending; ``None`` for any.
        takes_unknown: whether others than those known are taken.
        takes_missing: whether a value may be missing.
    """

    name: str
    categories: tuple[str, ...] | None = None
    known: tuple[float, ...] | None = None
    takes_unknown: bool = True
    takes_missing: bool = True

    def accepts(self, values: Float32Array) -> NDArray[np.bool_]:
        """Returns for each value of the matrix' column whether it is taken."""
        missing = np.isnan(values)
        if self.categories is not None:
            fine = (values >= 0) & (values < len(self.categories)) & (values == np.rint(values))
            fine |= self.takes_unknown & ~missing
        else:
            fine = np.isin(values, np.array(self.known, np.float32)) if self.known is not None else ~missing
        return np.asarray(np.where(missing, self.takes_missing, fine))


class RawFrame:
    """Rows such as a pipeline was fitted on: a DataFrame, or an array of numbers or objects.

    Args:
        X: the caller's rows, n ≥ 1.
        names: of the columns that the pipeline was fitted on, in order; ``None`` where it was fitted on an array.
        used: places of those that it uses; the others may hold anything.

    Attributes:
        names: of all columns, f0, f1 … for an array.
        strings, empty: the columns used that hold strings; and those in which every value is missing.

    Raises:
        PackRefused: not rows, a column is missing, or holds something else than numbers or strings.
    """

    def __init__(self, X: Any, names: Sequence[str] | None, used: Collection[int]) -> None:
        is_frame = hasattr(X, "columns") and hasattr(X, "dtypes")
        if (names is not None) != is_frame:
            due = "a DataFrame" if names is not None else "an array"
            raise PackRefused(f"the pipeline was fitted on {due}, and X is {type(X).__name__}: pass {due}")
        self._pandas: Any = None
        self._series: Any = None
        if names is not None:
            lacking = [name for name in names if name not in X.columns]
            if lacking:
                raise PackRefused(f"X has no column {lacking[0]!r}, which the pipeline was fitted on")
            columns = [X[name] for name in names]
            twice = next((name for name, one in zip(names, columns, strict=True) if one.ndim != 1), None)
            if twice is not None:
                raise PackRefused(f"X has more than one column {twice!r}")
            self._pandas, self._series = type(X), type(columns[0])
            # Strings come in several types, which steps tell apart; of categories those unknown would be missing.
            self._types = [
                object if str(one.dtype) == "category" or getattr(one.dtype, "kind", "O") in "fiub" else one.dtype
                for one in columns
            ]
            self.names = tuple(names)
        else:
            array = np.asarray(X)
            if array.ndim != 2 or hasattr(X, "tocsr"):
                raise PackRefused(f"X is {type(X).__name__} of shape {array.shape}; (rows, columns) is needed")
            columns = list(array.T)
            self.names = tuple(f"f{i}" for i in range(array.shape[1]))
        if not columns or not len(columns[0]):
            raise PackRefused("X has no rows or no columns")
        self._n = len(columns[0])
        self._idle = {i: column[:1] for i, column in enumerate(columns) if i not in used}
        self._values = {i: _column(columns[i], self.names[i]) for i in used}
        self._gaps = {i: _gap(values) for i, values in self._values.items()}
        self.strings = frozenset(i for i, values in self._values.items() if values.dtype == object)
        self.empty = frozenset(
            i for i, values in self._values.items() if i not in self.strings and np.isnan(values).all()
        )

    def matrix(self, categories: dict[int, list[str]]) -> Float32Array:
        """Returns float32 (n, columns), C order; 0 in columns that are not used.

        Args:
            categories: of each column of strings.

        Raises:
            PackRefused: a number is infinite as float32.
        """
        rows = np.zeros((self._n, len(self.names)), np.float32)
        for i, values in self._values.items():
            if i in categories:
                codes = {category: code for code, category in enumerate(categories[i])}
                rows[:, i] = encode(values.tolist(), codes)
                continue
            with np.errstate(over="ignore"):
                rows[:, i] = values
            wrong = np.flatnonzero(np.isinf(rows[:, i]))
            if len(wrong):
                raise PackRefused(
                    f"X[{wrong[0]}, {self.names[i]!r}] is {values[wrong[0]]}, infinite as float32 ({len(wrong)} such "
                    "values): replace infinities by NaN or by a finite number"
                )
        return rows

    def frame(self, rows: Float32Array, categories: dict[int, list[str]]) -> Any:
        """Returns what the pipeline takes for rows of the matrix: numbers as float64, categories as strings."""
        columns: dict[str, Any] = {}
        for i, name in enumerate(self.names):
            if i in self._idle:
                columns[name] = self._idle[i].repeat(len(rows))
                if self._pandas is not None:
                    columns[name] = columns[name].reset_index(drop=True)
            elif i in categories:
                unknown = _UNKNOWN
                while unknown in categories[i]:
                    unknown += "."
                texts = dict(enumerate(categories[i]))
                codes = rows[:, i].tolist()
                values = np.empty(len(codes), object)
                values[:] = [self._gaps[i] if math.isnan(code) else texts.get(code, unknown) for code in codes]
                columns[name] = values if self._pandas is None else self._series(values, dtype=self._types[i])
            else:
                columns[name] = rows[:, i].astype(np.float64)
        if self._pandas is not None:
            return self._pandas(columns)
        plain = all(values.dtype == np.float64 for values in columns.values())
        return np.column_stack([values if plain else values.astype(object) for values in columns.values()])


def _column(column: Any, name: str) -> NDArray[Any]:
    """Returns the column as float64, or as objects: strings, and what stands for missing ones."""
    dtype = column.dtype
    if getattr(dtype, "kind", "O") in "fiub":
        if hasattr(column, "to_numpy"):
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(column.astype(np.float64))
    values = np.empty(len(column), object)
    values[:] = list(column)
    if all(isinstance(one, (int, float, np.number)) for one in values.tolist()):
        return values.astype(np.float64)  # of an array that holds strings elsewhere
    wrong = next((one for one in values.tolist() if not isinstance(one, str) and not is_missing(one)), None)
    if wrong is not None:
        raise PackRefused(
            f"column {name!r} holds {wrong!r}, {type(wrong).__name__}: raw columns are numbers or strings; "
            "turn it into either"
        )
    return values


def _gap(values: NDArray[Any]) -> Any:
    """Returns what stands for a missing string in the column."""
    return next((one for one in values.tolist() if not isinstance(one, str)), math.nan)
