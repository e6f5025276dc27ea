"""Reads untrusted JSON strictly: a value is what is due at its place, or is refused with the path of its key.

Unknown keys, wrong types, out-of-range and non-finite numbers are refused rather than passed over, so that a typo never
silently changes what is served. Each function returns the value it was given, or raises `InvalidModel`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import unicodedata
from typing import Any, NoReturn

from xai_service.errors import InvalidModel

MAX_TEXT = 512
MAX_PROSE = 8192
_SOURCE = "manifest.json"
_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def wrong(path: str, what: str) -> NoReturn:
    """Refuses what stands at ``path``; an empty path is the whole document."""
    raise InvalidModel(f"{_SOURCE}: {path + ': ' if path else ''}{what}")


def load(data: bytes, longest: int) -> Any:
    """UTF-8 JSON of at most ``longest`` bytes, without NaN, infinities or keys that stand twice."""
    if len(data) > longest:
        wrong("", f"{len(data)} bytes; at most {longest} are accepted")
    try:
        return json.loads(data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad JSON, integers of thousands of digits
        wrong("", f"not UTF-8 JSON: {error}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return mapping


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def join(path: str, key: str) -> str:
    """The path of ``key`` in the object at ``path``."""
    shown = key if _PLAIN_KEY.fullmatch(key) else json.dumps(key[:64])
    return f"{path}.{shown}" if path else shown


def kind(value: Any) -> str:
    """What JSON calls the value."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")  # TOML has dates, too


def mapping_of(value: Any, path: str, most: int | None = None) -> dict[str, Any]:
    """An object with any keys, at most ``most`` of them."""
    if not isinstance(value, dict):
        wrong(path, f"must be an object, is {kind(value)}")
    if most is not None and len(value) > most:
        wrong(path, f"has {len(value)} entries; at most {most} are accepted")
    return value


def object_of(value: Any, path: str, shape: type) -> dict[str, Any]:
    """An object with exactly the fields of the dataclass ``shape``."""
    mapping = mapping_of(value, path)
    keys = {field.name for field in dataclasses.fields(shape)}
    for key in sorted(keys - mapping.keys()):
        wrong(join(path, key), "is missing")
    for key in sorted(mapping.keys() - keys):
        wrong(join(path, key), "is not a known key")
    return mapping


def list_of(value: Any, path: str, longest: int) -> list[Any]:
    """A list of at most ``longest`` entries."""
    if not isinstance(value, list):
        wrong(path, f"must be a list, is {kind(value)}")
    if len(value) > longest:
        wrong(path, f"has {len(value)} entries; at most {longest} are accepted")
    return value


def text(value: Any, path: str) -> str:
    """One line of 1 to 512 printable characters."""
    if not isinstance(value, str):
        wrong(path, f"must be a string, is {kind(value)}")
    if not 1 <= len(value) <= MAX_TEXT:
        wrong(path, f"must have 1 to {MAX_TEXT} characters, has {len(value)}")
    if not value.isprintable():  # also excludes lone surrogates, which no UTF-8 message could carry
        wrong(path, f"must be printable, is {json.dumps(value[:64])}")
    return value


def prose(value: Any, path: str) -> str:
    """Lines and paragraphs of 1 to 8,192 characters: printable ones, line feeds and any spaces; not only blanks."""
    if not isinstance(value, str):
        wrong(path, f"must be a string, is {kind(value)}")
    if not 1 <= len(value) <= MAX_PROSE:
        wrong(path, f"must have 1 to {MAX_PROSE} characters, has {len(value)}")
    if not value.strip():
        wrong(path, "is blank")
    unprintable = next(
        (c for c in value if not (c.isprintable() or c == "\n" or unicodedata.category(c) == "Zs")), None
    )
    if unprintable is not None:
        wrong(path, f"holds {json.dumps(unprintable)}, which is not printable")
    return value


def one_of(value: Any, path: str, choices: tuple[str, ...]) -> str:
    """One of the strings."""
    if not isinstance(value, str) or value not in choices:
        shown = json.dumps(value[:64]) if isinstance(value, str) else kind(value)
        wrong(path, f"must be {' or '.join(map(json.dumps, choices))}, is {shown}")
    return value


def unique(texts: tuple[str, ...], path: str, key: str = "") -> None:
    """Refuses a text that stands in the list at ``path`` twice."""
    first: dict[str, int] = {}
    for i, one in enumerate(texts):
        if first.setdefault(one, i) != i:
            wrong(f"{path}[{i}]{key}", f"{json.dumps(one)} already stands at {path}[{first[one]}]{key}")


def boolean(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        wrong(path, f"must be true or false, is {kind(value)}")
    return value


def number(value: Any, path: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        wrong(path, f"must be a number, is {kind(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        wrong(path, "must be a finite number")
    return result


def count(value: Any, path: str) -> int:
    """An integer that a double holds exactly, 0 or greater."""
    if isinstance(value, bool) or not isinstance(value, int):
        wrong(path, f"must be an integer, is {kind(value)}")
    if not 0 <= value < 1 << 53:
        wrong(path, "must be from 0 to 2^53 - 1")
    return value


def sha256(value: Any, path: str) -> str:
    """64 lower-case hexadecimal digits."""
    digits = text(value, path)
    if _SHA256.fullmatch(digits) is None:
        wrong(path, "must be 64 lower-case hexadecimal digits")
    return digits
