"""Settings from a TOML file: the names of `ServiceConfig`'s fields, and nothing else.

::

    repository = "models"
    listen = ["127.0.0.1:8001", "unix:/run/xai/xai.sock"]
    drain_s = 20
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xai_service.config import ServiceConfig
from xai_service.errors import InvalidSetting

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", Path: "a string, of a path"}


def read(path: Path, others: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Returns the settings that a file names, by field.

    Args:
        path: of a TOML file.
        others: settings that are no field of `ServiceConfig`, and their types.

    Raises:
        InvalidSetting: it cannot be read, is no TOML, names a setting that is not known, or gives a value of another
            type. Whether values are in range is for `ServiceConfig` to say.
    """
    try:
        settings = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSetting(f"{path}: is not TOML: {error}") from None
    known = setting_types() | dict(others or {})
    for name, value in settings.items():
        if name not in known:
            raise InvalidSetting(f"{path}: {name} is not a setting{nearest(name, known)}")
        kind = known[name]
        many = typing.get_origin(kind) is tuple
        one = typing.get_args(kind)[0] if many else kind
        if many and not isinstance(value, list):
            raise InvalidSetting(f"{path}: {name}: must be a list, is {_shown(value)}")
        for part in value if many else [value]:
            if not _is(part, one):
                raise InvalidSetting(f"{path}: {name}: must be {_KINDS[one]}, is {_shown(part)}")
    return settings


def setting_types() -> dict[str, Any]:
    """Returns the type of each field of `ServiceConfig`, without the ``None`` of those that may be unset."""
    hints = typing.get_type_hints(ServiceConfig)
    return {field.name: _without_none(hints[field.name]) for field in dataclasses.fields(ServiceConfig)}


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """Returns ``; did you mean ...?``, or nothing where no name is near."""
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(one for one in typing.get_args(hint) if one is not types.NoneType)
    return hint


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if kind is Path else kind)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
