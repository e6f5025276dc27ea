"""The bundles of a folder: ``REPO/<name>/<version>/``, the highest version serving unless pinned."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xai_service.errors import InvalidModel, ModelError, ModelNotFound
from xai_service.model.manifest import is_name
from xai_service.model.snapshot import ModelSnapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One version found in the repository: the snapshot that serves it, or the error why none does."""

    name: str
    version: str
    snapshot: ModelSnapshot | None
    error: ModelError | None


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Orders versions as people read them: ``2`` before ``10``, ``1.9`` before ``1.10``, ``1`` before ``1.1``."""
    parts = re.findall(r"[0-9]+|[^0-9.]+", version)
    return tuple((1, int(part), "") if part[0] in "0123456789" else (0, 0, part) for part in parts)


class Repository:
    """The models found in a folder when it was opened. Immutable.

    A bundle that cannot be served does not stop the others: asking for it raises the error that loading it raised.
    Folders whose names no model can have, hidden ones among them, are passed over.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ModelNotFound(f"the model repository {folder} is not a folder; `xai pack` makes one")
        entries = [
            _load(version_folder) for name_folder in _folders(folder) for version_folder in _folders(name_folder)
        ]
        self._models: dict[str, dict[str, ModelEntry]] = {}
        for entry in sorted(entries, key=lambda e: (e.name, version_key(e.version))):
            self._models.setdefault(entry.name, {})[entry.version] = entry

    def entries(self) -> list[ModelEntry]:
        """Returns all versions of all models, by name, versions ascending."""
        return [entry for versions in self._models.values() for entry in versions.values()]

    def get(self, name: str, version: str | None = None) -> ModelSnapshot:
        """Returns the version asked for, or the highest.

        Raises:
            ModelNotFound: no such model or version; names those there are.
            ModelError: it is there but cannot be served.
        """
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFound(f"no model is named {name!r}; there are: {_listed(self._models)}")
        if version is None:
            entry = list(versions.values())[-1]
        elif version in versions:
            entry = versions[version]
        else:
            raise ModelNotFound(f"model {name!r} has no version {version!r}; there are: {_listed(versions)}")
        if entry.error is not None:
            raise type(entry.error)(f"model {name!r} version {entry.version!r} cannot be served: {entry.error}")
        assert entry.snapshot is not None  # noqa: S101 (an entry has one or the other)
        return entry.snapshot


def _folders(parent: Path) -> Iterator[Path]:
    try:
        paths = sorted(parent.iterdir())
    except OSError as error:
        _log.warning("the folder %s cannot be listed: %s", parent, error)
        return
    for path in paths:
        if is_name(path.name) and os.path.isdir(path):  # noqa: PTH112 (unlike Path.is_dir, it never raises)
            yield path


def _load(folder: Path) -> ModelEntry:
    name, version = folder.parent.name, folder.name
    try:
        snapshot = ModelSnapshot.load(folder)
    except (ModelError, OSError) as failure:
        error = failure if isinstance(failure, ModelError) else InvalidModel(f"cannot be read: {failure}")
        _log.warning("model %s version %s is not served: %s", name, version, error)
        return ModelEntry(name, version, None, error)
    _log.info("model %s version %s is ready", name, version)
    return ModelEntry(name, version, snapshot, None)


def _listed(names: dict[str, object] | dict[str, ModelEntry] | dict[str, dict[str, ModelEntry]]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[-20:])
    return shown or "none"
