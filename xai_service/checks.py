"""Whether a request's rows are rows of the model. One native pass over the values, all complaints at once."""

from __future__ import annotations

import dataclasses

import numpy as np

from xai_service._profile import FeatureProfile, Scan
from xai_service.errors import FieldViolation, InvalidInput
from xai_service.model.snapshot import ModelSnapshot
from xai_service.types import Column, Float32Array, PredictCall

# Attributions of one request are held in memory as float64: 2^24 of them are 128 MiB.
MAX_ATTRIBUTIONS_PER_REQUEST = 1 << 24


def check_shape(call: PredictCall, model: ModelSnapshot, max_rows: int) -> None:
    """Checks what costs nothing to check: counts and names.

    Raises:
        InvalidInput: empty batch, too many rows, wrong number of features, other feature names.
    """
    n, columns = call.rows.shape
    expected = model.feature_names
    if call.columns:
        columns = len(expected)  # which of them they are, `in_model_order` tells
    elif model.raw.codes:
        strings = _listed(tuple(expected[i] for i in model.raw.codes))
        raise InvalidInput(FieldViolation("input", f"the model takes strings for {strings}: send `columns`"))
    violations = []
    if n == 0:
        violations.append(FieldViolation("input.shape", "the batch is empty; send at least one row"))
    if n > max_rows:
        violations.append(
            FieldViolation("input.shape", f"{n} rows are more than the limit of {max_rows}; send fewer at a time")
        )
    if columns != len(expected):
        violations.append(
            FieldViolation(
                "input.shape", f"{columns} features were sent, the model takes {len(expected)}: {_listed(expected)}"
            )
        )
    elif n * columns * model.n_outputs > MAX_ATTRIBUTIONS_PER_REQUEST:
        most = MAX_ATTRIBUTIONS_PER_REQUEST // (columns * model.n_outputs)
        violations.append(
            FieldViolation(
                "input.shape", f"{n} rows of {columns} features are too many at once; send at most {most} rows"
            )
        )
    names = call.feature_names
    if names is not None and names != expected:
        violations.append(_name_violation(names, expected))
    if violations:
        raise InvalidInput(*violations)


def in_model_order(call: PredictCall, model: ModelSnapshot) -> PredictCall:
    """Returns the call with its columns, if it has any, in the model's order, and as the matrix that the model reads.

    Raises:
        InvalidInput: they are not one column for each feature, of its kind.
    """
    if not call.columns:
        return call
    columns = model.raw.ordered(call.columns)
    return dataclasses.replace(call, columns=columns, rows=model.raw.matrix(columns))


def check_values(
    rows: Float32Array, columns: tuple[Column, ...], model: ModelSnapshot, profile: FeatureProfile
) -> Scan:
    """Checks every value and returns the scan, for the caller to merge into the model's profile.

    Args:
        rows: float32 (n, features), in the model's order.
        columns: what they were made of, where columns were sent.
        model: whose features they are.
        profile: the model's.

    Raises:
        InvalidInput: infinite values, missing ones (NaN) in features that the model knows no missing values of, codes
            of categories that are no whole numbers, or values that are not among those that a feature takes.
    """
    scan = profile.scan(rows)
    violations = [] if scan.is_plain else _odd_values(scan, model)
    violations += _category_violations(rows, model)
    violations += model.raw.unknown(rows, columns)
    if violations:
        raise InvalidInput(*violations)
    return scan


def _odd_values(scan: Scan, model: ModelSnapshot) -> list[FieldViolation]:
    """Infinite values, and missing ones where the model knows none."""
    violations = [
        FieldViolation(
            f"input[:, {column}]",
            f"feature {model.feature_names[column]!r} holds {count} infinite value(s); send finite numbers, or NaN for "
            "missing where the model allows it",
        )
        for column, count in enumerate(scan.infinite.tolist())
        if count
    ]
    for column, count in enumerate(scan.missing.tolist()):
        feature = model.manifest.features[column]
        if count and not feature.allows_missing:
            violations.append(
                FieldViolation(
                    f"input[:, {column}]",
                    f"feature {feature.name!r} is missing (NaN) in {count} row(s), first in row "
                    f"{int(scan.first_missing[column])}, and the model knows no missing values there",
                )
            )
    return violations


def _category_violations(rows: Float32Array, model: ModelSnapshot) -> list[FieldViolation]:
    """Codes that are no whole numbers: libraries take 2.5 for 2, the served model takes it for no category.

    Whole numbers that stand for no category, negative ones among them, get the native model's answer.
    """
    if not len(model.categorical):
        return []
    codes = rows[:, model.categorical]
    wrong = (codes != np.rint(codes)) & ~np.isnan(codes)
    violations = []
    for k in np.flatnonzero(wrong.any(axis=0)).tolist():
        column, row = int(model.categorical[k]), int(wrong[:, k].argmax())
        violations.append(
            FieldViolation(
                f"input[:, {column}]",
                f"feature {model.feature_names[column]!r} is {codes[row, k]} in row {row}, and holds the codes of "
                f"categories; send whole numbers ({int(wrong[:, k].sum())} such row(s))",
            )
        )
    return violations


def _name_violation(names: tuple[str, ...], expected: tuple[str, ...]) -> FieldViolation:
    if len(names) != len(expected):
        return FieldViolation("feature_names", f"{len(names)} names were sent, the model has {len(expected)} features")
    column = next(i for i, (sent, own) in enumerate(zip(names, expected, strict=True)) if sent != own)
    return FieldViolation(
        f"feature_names[{column}]", f"{names[column]!r} was sent, column {column} of the model is {expected[column]!r}"
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
