"""From the columns of a request to the matrix that the model reads: numbers as they are, strings by their category.

A string stands in the matrix as its place among the feature's categories, one that is not among them as the place
after the last, a missing one as NaN. The model's trees were made for these places (`xai_service.pack.fold`); the list
that they count in stands in the manifest and in the model file, which must agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import FieldViolation, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xai_service.model.manifest import Feature
    from xai_service.types import Column, Float32Array

MAX_CHARACTERS = 4096
"""Of a string in a request: it is recorded as it is."""
_SHOWN = 40


def is_missing(value: Any) -> bool:
    """Whether the value is None, NaN, or what pandas has for missing."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def encode(values: Iterable[Any], codes: Mapping[str, int]) -> list[float]:
    """Returns what stands in the matrix for strings, and for what is none: that is missing."""
    return [codes.get(one, len(codes)) if isinstance(one, str) else math.nan for one in values]


class RawFeatures:
    """What the features of a model take, beside any number. Immutable.

    Attributes:
        codes: of each feature that is a string, by its place: the places of its categories.
        known: of each feature that takes certain numbers only, these: float32, ascending.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = tuple(features)
        self._places = {feature.name: i for i, feature in enumerate(features)}
        self.codes: Mapping[int, Mapping[str, int]] = {
            i: {category: code for code, category in enumerate(feature.categories)}
            for i, feature in enumerate(features)
            if feature.kind == "string"
        }
        self.known: Mapping[int, Float32Array] = {
            i: np.sort(np.array(feature.categories, np.float64)).astype(np.float32)
            for i, feature in enumerate(features)
            if feature.kind == "numeric" and not feature.allows_unknown
        }

    def ordered(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Returns a request's columns in the features' order.

        Raises:
            InvalidInput: a feature has no column or two, a column no feature, or one holds the wrong kind of values.
        """
        violations = []
        found: dict[int, Column] = {}
        for at, column in enumerate(columns):
            place = self._places.get(column.name)
            if place is None:
                what = f"the model has no feature {column.name[:_SHOWN]!r}"
            elif place in found:
                what = f"{column.name!r} was sent twice"
            elif isinstance(column.values, tuple) and place not in self.codes:
                what = f"feature {column.name!r} takes numbers, and strings were sent"
            elif not isinstance(column.values, tuple) and place in self.codes and not np.isnan(column.values).all():
                what = f"feature {column.name!r} takes strings, and numbers were sent"
            else:
                found[place] = column
                continue
            violations.append(FieldViolation(f"columns[{at}]", what))
            if len(violations) == InvalidInput.MAX_VIOLATIONS:
                break
        absent = [feature.name for i, feature in enumerate(self._features) if i not in found]
        if absent and not violations:
            shown = ", ".join(absent[:20]) + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")
            violations.append(FieldViolation("columns", f"there is none for {shown}"))
        if violations:
            raise InvalidInput(*violations)
        return tuple(found[i] for i in range(len(self._features)))

    def matrix(self, columns: Sequence[Column]) -> Float32Array:
        """Returns float32 (n, features), C order, of ordered columns."""
        rows = np.empty((len(columns[0].values), len(columns)), np.float32)
        for i, column in enumerate(columns):
            if isinstance(column.values, tuple):
                rows[:, i] = encode(column.values, self.codes[i])
            else:
                rows[:, i] = column.values
        return rows

    def unknown(self, rows: Float32Array, columns: Sequence[Column]) -> list[FieldViolation]:
        """Returns what is wrong with values that are in no list of the features that take only those listed.

        Args:
            rows: the matrix.
            columns: ordered, as it was made of; empty where it was sent.
        """
        violations = []
        for i in (*self.codes, *self.known):
            feature = self._features[i]
            values = columns[i].values if columns else rows[:, i]
            if feature.allows_unknown:
                wrong = np.zeros(len(rows), np.bool_)
            elif i in self.codes:
                wrong = rows[:, i] == len(self.codes[i])
            else:
                wrong = ~np.isin(rows[:, i], self.known[i]) & ~np.isnan(rows[:, i])
            where = f"columns[{feature.name!r}]" if columns else f"input[:, {i}]"
            row = int(wrong.argmax())
            if wrong[row]:
                listed = ", ".join(feature.categories[:10]) + (" …" if len(feature.categories) > 10 else "")
                what = (
                    f"feature {feature.name!r} is {str(values[row])[:_SHOWN]!r} in row {row}, which the model does not "
                    f"know, in {int(wrong.sum())} such row(s); it knows {listed}"
                )
                violations.append(FieldViolation(where, what))
            elif i in self.codes:
                too_long = [k for k, one in enumerate(values) if isinstance(one, str) and len(one) > MAX_CHARACTERS]
                if too_long:
                    what = f"feature {feature.name!r} has more than {MAX_CHARACTERS} characters in row {too_long[0]}"
                    violations.append(FieldViolation(where, what))
        return violations
