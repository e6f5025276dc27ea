"""Follows raw columns through a pipeline's preprocessing: which of them each column that the model sees is made of.

Taken is what makes each column of one raw column alone: imputers, scalers, encoders, choices of columns, and whatever
nests them. Anything else is refused by the name of its step, since what a raw column contributes could not be told.
Nothing is computed here; `xai_service.pack.pipeline` asks the steps themselves what they make of a value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

How = Literal["same", "rising", "lookup"]


@dataclass(frozen=True, slots=True)
class Derived:
    """A column that some step made.

    Attributes:
        raw: the raw column that it is made of.
        how: its values are the raw ones; never fall where those rise; or are looked up, as an encoder does.
        known: what encoders look raw values up in, strings or numbers.
        is_plain: whether nothing but choices of columns and imputers came before, which keep a value as it is.
        bent: the step that made it rise otherwise than in a straight line, for people; empty where none did.
    """

    raw: int
    how: How = "same"
    known: tuple[Any, ...] = ()
    is_plain: bool = True
    bent: str = ""


def follow(steps: Sequence[tuple[str, Any]], names: Sequence[str]) -> list[Derived]:
    """Returns what each column after the last step is made of.

    Args:
        steps: name and fitted transformer, in order.
        names: of the raw columns, as the first step was fitted on.

    Raises:
        PackRefused: a step is not known to make each column of one column; names it.
    """
    columns = [Derived(i) for i in range(len(names))]
    known: Sequence[str] | None = names
    for name, step in steps:
        columns = _through(step, columns, f"step {name!r}", known)
        known = None
    return columns


def _through(step: Any, columns: list[Derived], where: str, names: Sequence[str] | None) -> list[Derived]:
    """Returns what a step makes of the columns; ``names`` are theirs, ``None`` where they are not known."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return columns
    kind = type(step).__name__ if type(step).__module__.startswith("sklearn.") else ""
    if kind in _NESTING:
        return _NESTING[kind](step, columns, where, names)
    if kind in _STEPS:
        return _STEPS[kind](step, columns, where)
    if kind and hasattr(step, "get_support"):  # a choice of columns
        return [columns[i] for i in step.get_support(indices=True)]
    raise _refusal(
        step, where, "is not known to make each column of one column alone, so what a raw column adds cannot be told"
    )


def _refusal(step: Any, where: str, reason: str) -> PackRefused:
    return PackRefused(
        f"{where}, {type(step).__name__}: {reason}; leave it out (trees need neither scaled nor rotated columns), or "
        "apply it to the data before, and train and pack on what it gives"
    )


def _through_chain(step: Any, columns: list[Derived], where: str, names: Sequence[str] | None) -> list[Derived]:
    for name, inner in step.steps:
        columns = _through(inner, columns, f"{where} / {name!r}", names)
        names = None
    return columns


def _through_union(step: Any, columns: list[Derived], where: str, names: Sequence[str] | None) -> list[Derived]:
    _check_weights(step, where)
    parts = [(name, one) for name, one in step.transformer_list if not _is_drop(one)]
    return [made for name, one in parts for made in _through(one, columns, f"{where} / {name!r}", names)]


def _through_parts(step: Any, columns: list[Derived], where: str, names: Sequence[str] | None) -> list[Derived]:
    _check_weights(step, where)
    names = getattr(step, "feature_names_in_", names)
    made: list[Derived] = []
    for name, part, chosen in step.transformers_:
        if _is_drop(part):
            continue
        places = _places(chosen, len(columns), names, f"{where} / {name!r}")
        part_names = None if names is None else [names[i] for i in places]
        made += _through(part, [columns[i] for i in places], f"{where} / {name!r}", part_names) if places else []
    return made


def _places(chosen: Any, n: int, names: Sequence[str] | None, where: str) -> list[int]:
    """Returns the places of the columns that a part of a ColumnTransformer chose, which may be said in many ways."""
    if isinstance(chosen, (str, int, np.integer)):
        chosen = [chosen]
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):  # by name, the last one included
            order = [] if names is None else list(names)
            first = 0 if chosen.start is None else order.index(chosen.start)
            last = n if chosen.stop is None else order.index(chosen.stop) + 1
            return list(range(n))[first : last : chosen.step]
        return list(range(n))[chosen]
    listed = np.asarray(chosen)
    if listed.dtype == bool:
        return [int(i) for i in np.flatnonzero(listed)]
    if listed.dtype.kind in "iu":
        return [int(i) % n for i in listed]
    if names is None:
        raise PackRefused(f"{where}: chooses columns by name of a step's output, which is not supported: use places")
    order = list(names)
    return [order.index(name) for name in listed.tolist()]


def _is_drop(part: Any) -> bool:
    return isinstance(part, str) and part == "drop"


def _check_weights(step: Any, where: str) -> None:
    wrong = {name: weight for name, weight in (step.transformer_weights or {}).items() if not weight > 0}
    if wrong:
        raise PackRefused(f"{where}: transformer_weights {wrong} are not above 0, which turns columns around")


def _same(step: Any, columns: list[Derived], where: str) -> list[Derived]:
    if step.func is not None:
        raise _refusal(step, where, "calls a function of yours, of which nothing is known")
    return columns


def _rising(_step: Any, columns: list[Derived], _where: str) -> list[Derived]:
    return [_risen(one) for one in columns]


def _ranged(step: Any, columns: list[Derived], where: str) -> list[Derived]:
    return (
        _bending(step, columns, f"{where}, {type(step).__name__}(clip=True)")
        if step.clip
        else _rising(step, columns, where)
    )


def _binary(step: Any, columns: list[Derived], where: str) -> list[Derived]:
    return _bending(step, columns, f"{where}, {type(step).__name__}")


def _bending(_step: Any, columns: list[Derived], where: str) -> list[Derived]:
    return [replace(_risen(one), bent=one.bent or where) for one in columns]


def _binned(step: Any, columns: list[Derived], where: str) -> list[Derived]:
    if step.encode != "ordinal":
        raise _refusal(step, where, f"has encode={step.encode!r}, which makes intervals; encode='ordinal' is taken")
    return _binary(step, columns, where)


def _risen(column: Derived) -> Derived:
    return replace(column, how="lookup" if column.how == "lookup" else "rising", is_plain=False)


def _imputed(step: Any, columns: list[Derived], where: str) -> list[Derived]:
    marker = step.missing_values
    if isinstance(marker, (int, float, np.number)) and not np.isnan(marker):
        raise PackRefused(
            f"{where}, SimpleImputer: takes {marker!r} for missing, and rows are served with NaN: write NaN where "
            f"{marker!r} stands, and fit it with missing_values=np.nan"
        )
    filled = []
    for column, statistic in zip(columns, step.statistics_.tolist(), strict=True):
        if step.keep_empty_features or not _is_empty(statistic):
            # A string that is taken for missing, and the one that is put in, are values like others.
            texts = tuple(one for one in (marker, statistic) if isinstance(one, str))
            how = "rising" if column.how == "same" else column.how
            filled.append(replace(column, how=how, known=column.known + texts))
    marks = [] if step.indicator_ is None else [columns[i] for i in step.indicator_.features_]
    return filled + [_risen(one) for one in marks]


def _is_empty(statistic: Any) -> bool:
    return statistic is None or (isinstance(statistic, float) and np.isnan(statistic))


def _encoded(step: Any, columns: list[Derived], where: str) -> list[Derived]:
    kind = type(step).__name__
    made = []
    for i, column in enumerate(columns):
        if not column.is_plain:
            raise PackRefused(f"{where}, {kind}: encodes what an earlier step computed; encode the raw column")
        categories = step.categories_[i].tolist()
        width = 1
        if kind == "OneHotEncoder":
            infrequent = getattr(step, "infrequent_categories_", None)  # which there are only where they were asked for
            rare = 0 if infrequent is None or infrequent[i] is None else len(infrequent[i])
            dropped = step.drop_idx_ is not None and step.drop_idx_[i] is not None
            width = len(categories) - rare + (rare > 0) - dropped
        elif kind == "TargetEncoder" and step.target_type_ == "multiclass":
            raise PackRefused(f"{where}, TargetEncoder: with several classes is not supported; use an OrdinalEncoder")
        known = column.known + tuple(one for one in categories if not _is_empty(one))
        made += [Derived(column.raw, "lookup", known)] * width
    return made


_NESTING: Mapping[str, Callable[[Any, list[Derived], str, Sequence[str] | None], list[Derived]]] = {
    "Pipeline": _through_chain,
    "ColumnTransformer": _through_parts,
    "FeatureUnion": _through_union,
}
_STEPS: Mapping[str, Callable[[Any, list[Derived], str], list[Derived]]] = {
    "SimpleImputer": _imputed,
    "OneHotEncoder": _encoded,
    "OrdinalEncoder": _encoded,
    "TargetEncoder": _encoded,
    "StandardScaler": _rising,
    "MinMaxScaler": _ranged,
    "MaxAbsScaler": _rising,
    "RobustScaler": _rising,
    "Binarizer": _binary,
    "KBinsDiscretizer": _binned,
    "FunctionTransformer": _same,
}
