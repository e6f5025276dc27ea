"""What the people who answer for a model state of it: a TOML card, a mapping with the same keys, or a `Provenance`.

Everything is optional. A key that is not known is refused with the nearest that is, since what is misspelt would
otherwise be missing from the model card without a word.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xai_service.errors import InvalidModel, PackRefused
from xai_service.model import provenance as facts
from xai_service.model.provenance import Code, FeatureFacts, Metric, Provenance, TrainingData
from xai_service.model.strict import join

_MAX_BYTES = 4 << 20
# What packing finds out, and nobody states.
_COMPUTED = {Provenance: {"packed_rows", "background"}, Code: {"source"}, FeatureFacts: {"is_monotonicity_proven"}}

Statements = Mapping[str, Any] | Provenance | Path | str
Features = Mapping[str, Mapping[str, Any] | FeatureFacts]


def read_statements(stated: Statements | None, features: Features | None, feature_names: Sequence[str]) -> Provenance:
    """Returns what is stated; what packing computes is ``None`` in it.

    Args:
        stated: a card's path, a mapping with the card's keys, a `Provenance`, or nothing.
        features: what is stated of features, by name, beside what ``stated`` says of others.
        feature_names: the model's.

    Raises:
        PackRefused: a key is not known or holds what it must not; names the source, the key and what to do.
    """
    source, said = "provenance", stated
    if isinstance(stated, (str, Path)):
        source, said = str(stated), _read_toml(Path(stated))
    given = _complete_all(_plain(said or {}), source)
    more = _complete_features(_plain(features or {}), "", "features")
    if not isinstance(more, dict):
        raise PackRefused(f"features: must map names of features to what is stated of them, is {type(more).__name__}")
    if isinstance(given["features"], dict):
        for name in more.keys() & given["features"].keys():
            raise PackRefused(f"features: {name!r} stands in {source} too; state it in one place")
        given["features"] |= more
    try:
        return facts.parse(given, "", feature_names)
    except InvalidModel as error:
        raise PackRefused(f"{source}: {str(error).removeprefix('manifest.json: ')}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PackRefused(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise PackRefused(f"{path}: is larger than {_MAX_BYTES} bytes, the most that is accepted")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad TOML; the message has line and column
        raise PackRefused(f"{path}: not TOML in UTF-8: {error}") from error


def _plain(value: Any) -> Any:
    """As JSON has it: dataclasses and mappings as dicts, sequences as lists, numpy's scalars as Python's."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        computed = _COMPUTED.get(type(value), set())
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in computed}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _complete_all(given: Any, source: str) -> dict[str, Any]:
    """Returns the statements with each key that is not stated at its default, at every depth."""
    if not isinstance(given, dict):
        raise PackRefused(f"{source}: must map keys of a card to what is stated, is {type(given).__name__}")
    all_of: dict[str, Any] = _complete(given, "", Provenance, source)
    all_of["training_data"] = _complete(all_of["training_data"], "training_data", TrainingData, source)
    all_of["code"] = _complete(all_of["code"], "code", Code, source)
    if isinstance(all_of["code"], dict):
        all_of["code"] = {"is_dirty": None, **all_of["code"], "source": "statement"}
    if isinstance(all_of["metrics"], list):
        entries = enumerate(all_of["metrics"])
        all_of["metrics"] = [_complete(one, f"metrics[{i}]", Metric, source) for i, one in entries]
    all_of["features"] = _complete_features(all_of["features"], "features", source)
    return all_of


def _complete_features(features: Any, path: str, source: str) -> Any:
    if not isinstance(features, dict):
        return features
    completed = {name: _complete(one, join(path, str(name)), FeatureFacts, source) for name, one in features.items()}
    for one in completed.values():
        if isinstance(one, dict) and one["monotonicity"] in (-1, 1):
            one["is_monotonicity_proven"] = False  # until the trees show it
    return completed


def _complete(given: Any, path: str, shape: type, source: str) -> Any:
    if not isinstance(given, dict):
        return given  # refused where it is parsed
    computed = _COMPUTED.get(shape, set())
    fields = dataclasses.fields(shape)
    known = sorted({field.name for field in fields} - computed)
    for key in given:
        if key not in known:
            raise PackRefused(f"{source}: {_unknown(key, path, known)}")
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    made = {field.name: field.default_factory() for field in fields if callable(field.default_factory)}
    return {**_plain(defaults), **made, **given}


def _unknown(key: Any, path: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{join(path, str(key))} is not a known key; {advice}"
