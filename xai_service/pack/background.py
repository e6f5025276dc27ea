"""The rows that a model is to be explained against: as the caller gives them, or drawn from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.model.background import MAX_ROWS
from xai_service.model.manifest import MAX_OTHER_BYTES
from xai_service.pack.rows import name_features, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array

_SEED = 0
_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True, eq=False)
class BackgroundRows:
    """``rows``: float32 (n, features); ``drawn``: how they were chosen, for people."""

    rows: Float32Array
    drawn: str


def read_background_rows(
    background: Any, native: NativeModel, names: Sequence[str], wanted: int | None
) -> BackgroundRows:
    """Returns the rows to explain against.

    Args:
        background: rows such as ``X`` of `xai_service.pack.pack`.
        native: the model.
        names: of its features.
        wanted: how many of them to draw; ``None`` for all.

    Raises:
        PackRefused: not such rows, or too many of them.
    """
    try:
        rows, columns = read_rows(background, native.categorical, native.categories)
        name_features(rows.shape[1], given=tuple(names), model=native.feature_names, columns=columns)
    except PackRefused as error:  # calls X what here is another argument
        raise PackRefused(f"background, read as X is: {error}") from error
    n = len(rows)
    if wanted is not None:
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise PackRefused(f"background_rows is {wanted!r}; a whole number from 1 on is expected")
        if wanted > n:
            raise PackRefused(f"background_rows is {wanted}, and the background has {n} rows: ask for as many at most")
        rows = rows[np.sort(np.random.default_rng(_SEED).choice(n, wanted, replace=False))]
    most = min(MAX_ROWS, (MAX_OTHER_BYTES - _HEADER_BYTES) // (4 * native.n_features))
    if len(rows) > most:
        raise PackRefused(
            f"background: {len(rows)} rows; at most {most} are explained against: draw some hundred of them "
            "(background_rows=200, --background-rows 200)"
        )
    drawn = "all of the rows given" if wanted is None else f"of {n} rows given, at random, without replacement"
    return BackgroundRows(rows, f"{len(rows)} rows: {drawn}")
