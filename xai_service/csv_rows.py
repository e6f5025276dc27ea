"""CSV with a header, to rows for a model: columns are found by name, an empty cell is a missing value."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xai_service.errors import FieldViolation, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from xai_service.types import Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class CsvRows:
    """What was read.

    Attributes:
        values: (n, features), n ≥ 1, NaN where a cell was empty.
        feature_names: of the columns of ``values``.
        ignored: columns of the file that were not asked for.
    """

    values: Float64Array
    feature_names: tuple[str, ...]
    ignored: tuple[str, ...]


def read_rows(stream: IO[str], source: str, wanted: Sequence[str] | None, drop: Sequence[str] = ()) -> CsvRows:
    """Reads all rows of ``stream``.

    Args:
        stream: CSV text; its first line names the columns, in any order.
        source: what to call it in errors.
        wanted: the columns to take, in the order to give them; ``None`` for all, in the file's order.
        drop: columns to leave out; an error when the file has no such column.

    Raises:
        InvalidInput: a missing, repeated or non-numeric column, a ragged line or no rows; names line and column.
    """
    lines = _lines(stream, source)
    _, header = next(lines, (0, []))
    if not header:
        raise _wrong(source, "is empty; the first line must name the columns")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise _wrong(f"{source} line 1", f"column {repeated[0]!r} stands there more than once")
    unknown = [name for name in drop if name not in header]
    if unknown:
        raise _wrong(f"{source} line 1", f"no column {unknown[0]!r} to drop; there are: {', '.join(header)}")
    names = tuple(name for name in header if name not in drop) if wanted is None else tuple(wanted)
    missing = [name for name in names if name not in header or name in drop]
    ignored = tuple(name for name in header if name not in names and name not in drop)
    if missing:
        others = f"; columns that the model does not know: {', '.join(ignored)}" if ignored else ""
        raise _wrong(f"{source} line 1", f"no column for {', '.join(missing)}{others}")
    places = [(name, header.index(name)) for name in names]
    rows = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise _wrong(f"{source} line {number}", f"{len(cells)} cells under {len(header)} column names")
        rows.append([_number(cells[place], source, number, name) for name, place in places])
    if not rows:
        raise _wrong(source, "has column names but no rows")
    return CsvRows(np.array(rows, dtype=np.float64), names, ignored)


def _lines(stream: IO[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and stripped cells of the lines that are not blank."""
    reader = csv.reader(stream, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, [cell.strip() for cell in cells]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _wrong(f"{source} line {reader.line_num + 1}", f"not CSV in UTF-8: {error}") from error


def _number(cell: str, source: str, line: int, column: str) -> float:
    """The cell's number, NaN for an empty one."""
    try:
        value = float(cell) if cell else math.nan
    except ValueError:
        value = math.inf
    if math.isinf(value) or "_" in cell:  # float() takes 1_000, which is more likely a slip than a number
        raise _wrong(
            f"{source} line {line}, column {column!r}",
            f"{cell[:40]!r} is not a finite number; leave the cell empty where the value is missing",
        )
    return value


def _wrong(where: str, what: str) -> InvalidInput:
    return InvalidInput(FieldViolation(where, what))
