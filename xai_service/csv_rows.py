"""CSV with a header, to rows for a model and from results: columns have names, an empty cell is a missing value."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from xai_service.errors import FieldViolation, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class CsvRows:
    """What was read.

    Attributes:
        values: (n, features), n ≥ 1, NaN where a cell was empty; float64, or objects where some columns are strings.
        feature_names: of the columns of ``values``.
        ignored: columns of the file that were not asked for.
    """

    values: NDArray[Any]
    feature_names: tuple[str, ...]
    ignored: tuple[str, ...]


def read_rows(
    stream: IO[str],
    source: str,
    wanted: Sequence[str] | None,
    drop: Sequence[str] = (),
    required: Collection[str] = (),
    strings: Collection[str] = (),
) -> CsvRows:
    """Reads all rows of ``stream``.

    Args:
        stream: CSV text; its first line names the columns, in any order.
        source: what to call it in errors.
        wanted: the columns to take, in the order to give them; ``None`` for all, in the file's order.
        drop: columns to leave out; an error when the file has no such column.
        required: wanted columns in which no value may be missing.
        strings: wanted columns whose cells are taken as they are, apart from spaces around them.

    Raises:
        InvalidInput: a missing, repeated or non-numeric column, a value that is infinite as float32 or missing where it
            may not be, a ragged line or no rows; names line and column.
    """
    lines = _lines(stream, source)
    _, header = next(lines, (0, []))
    if not header:
        raise _wrong(source, "is empty; the first line must name the columns")
    first = f"{source} line 1"
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise _wrong(first, f"column {repeated[0]!r} stands there more than once")
    dropped = _places(header, drop, first)
    unknown = [name for name in drop if name not in dropped]
    if unknown:
        raise _wrong(first, f"no column {unknown[0]!r} to drop; there are: {', '.join(header)}")
    kept = {place: name for place, name in enumerate(header) if place not in dropped.values()}
    names = tuple(name.strip() for name in kept.values()) if wanted is None else tuple(wanted)
    found = _places(header, names, first, dropped.values())
    taken = set(found.values())
    ignored = tuple(name.strip() for place, name in kept.items() if place not in taken)
    missing = [name for name in names if name not in found]
    if missing:
        others = f"; columns that the model does not know: {', '.join(ignored)}" if ignored else ""
        raise _wrong(first, f"no column for {', '.join(missing)}{others}")
    rows = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise _wrong(f"{source} line {number}", f"{len(cells)} cells under {len(header)} column names")
        rows.append(
            [
                _value(cells[found[name]].strip(), source, number, name, name in required, is_text=name in strings)
                for name in names
            ]
        )
    if not rows:
        raise _wrong(source, "has column names but no rows")
    return CsvRows(np.array(rows, dtype=object if strings else np.float64), names, ignored)


def _places(header: list[str], names: Sequence[str], where: str, taken: Collection[int] = ()) -> dict[str, int]:
    """Where each of ``names`` stands, those aside that do not: as it is written, else apart from spaces around it."""
    own = set(names)
    free = [(place, column) for place, column in enumerate(header) if place not in taken]
    places = {column: place for place, column in free if column in own}
    like: dict[str, list[int]] = {}
    for place, column in free:
        if column not in own:
            like.setdefault(column.strip(), []).append(place)
    for name in names:
        close = like.pop(name.strip(), []) if name not in places else []
        if len(close) > 1:
            raise _wrong(where, f"{len(close)} columns are named {name.strip()!r} apart from spaces; only one may be")
        places.update((name, place) for place in close)
    return places


def _lines(stream: IO[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of the lines that are not blank."""
    reader = csv.reader(stream, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise _wrong(f"{source} line {reader.line_num + 1}", f"not CSV in UTF-8: {error}") from error


def _value(cell: str, source: str, line: int, column: str, required: bool, *, is_text: bool) -> float | str:
    """The cell's text or number, NaN for an empty one."""
    if is_text and cell:
        return cell
    where = f"{source} line {line}, column {column!r}"
    try:
        value = float(cell) if cell else math.nan
    except ValueError:
        value = math.inf
    if math.isinf(value) or "_" in cell:  # float() takes 1_000, which is more likely a slip than a number
        raise _wrong(where, f"{cell[:40]!r} is not a finite number; leave the cell empty where the value is missing")
    if abs(value) > _LARGEST:
        raise _wrong(where, f"{cell[:40]!r} is infinite as float32, which is what the model takes")
    if required and math.isnan(value):
        raise _wrong(where, "is missing, and the model knows no missing values there")
    return value


class Sheet:
    """A CSV file of results, or nothing where there is no path; its columns are those of the first row."""

    def __init__(self, path: Path | None) -> None:
        self._stream = None if path is None else path.open("w", encoding="utf-8", newline="")
        self._writer: csv.DictWriter[str] | None = None

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Appends rows, all of the same columns."""
        if self._stream is None:
            return
        for line in lines:
            if self._writer is None:
                self._writer = csv.DictWriter(self._stream, line)
                self._writer.writeheader()
            self._writer.writerow(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()


def _wrong(where: str, what: str) -> InvalidInput:
    return InvalidInput(FieldViolation(where, what))
