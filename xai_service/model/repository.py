"""The bundles of a folder: ``REPO/<name>/<version>/``, the highest version that can be served serving unless pinned.

The folder may change while it is served; `Repository.reload` looks at it again. What requests see is one immutable
view, replaced whole: a request goes on with the snapshot that it took.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xai_service.errors import BundleMismatch, InvalidModel, ModelError, ModelNotFound
from xai_service.model.bundle import Bundle
from xai_service.model.folder import MAX_ENTRIES, Stamp, list_folder
from xai_service.model.manifest import is_name
from xai_service.model.snapshot import ModelSnapshot

if TYPE_CHECKING:
    from xai_service.keys import PublicKey

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One version found in the repository.

    Attributes:
        name, version: of the model.
        snapshot: what serves it; ``None`` where it cannot be served.
        error: why it cannot be, or, beside a snapshot, what is wrong with its files now.
        signed_by: id of the trusted key that signed it, or ``None``.
        loaded_at_ns: when the snapshot was made, nanoseconds since the Unix epoch; 0 without one.
    """

    name: str
    version: str
    snapshot: ModelSnapshot | None
    error: ModelError | None
    signed_by: str | None = None
    loaded_at_ns: int = 0


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Orders versions as people read them: ``2`` before ``10``, ``1.9`` before ``1.10``, ``1`` before ``1.1``."""
    parts = re.findall(r"[0-9]+|[^0-9.]+", version)
    return tuple((1, int(part), "") if part[0] in "0123456789" else (0, 0, part) for part in parts)


_Key = tuple[str, str]  # name and version


@dataclass(frozen=True, slots=True)
class _Known:
    """A version and what was found of it when its files were last looked at."""

    entry: ModelEntry
    stamp: Stamp
    manifest_sha256: bytes | None


class _View:
    """What requests see. Immutable."""

    def __init__(self, entries: Iterable[ModelEntry]) -> None:
        self.models: dict[str, dict[str, ModelEntry]] = {}
        for entry in sorted(entries, key=lambda e: (e.name, version_key(e.version), e.version)):
            self.models.setdefault(entry.name, {})[entry.version] = entry
        # By default the highest that can be served: a bad push must not take the model down.
        self.default = {
            name: next((one for one in reversed(versions.values()) if one.snapshot), list(versions.values())[-1])
            for name, versions in self.models.items()
        }


class Repository:
    """The models of a folder, as of the last look at it. Thread-safe.

    A bundle that cannot be served does not stop the others: asking for its version raises the error that loading it
    raised. A version never changes: if the files of one that serves do, it goes on serving as it was loaded, and its
    entry says so. Folders whose names no model can have, hidden ones among them, are passed over.

    Args:
        folder: holds a folder for each model, with one for each of its versions.
        trusted: public keys by id, one of which must have signed each bundle; ``None`` takes unsigned ones too.

    Raises:
        ModelError: the folder cannot be listed.
    """

    def __init__(self, folder: Path, trusted: Mapping[str, PublicKey] | None = None) -> None:
        if not folder.is_dir():
            raise ModelNotFound(f"the model repository {folder} is not a folder; `xai pack` makes one")
        self._folder = folder
        self._trusted = trusted
        self._reloading = threading.Lock()
        self._known: dict[_Key, _Known] = {}
        self._complaints: set[str] = set()
        self._alive: weakref.WeakValueDictionary[tuple[str, str, bytes], ModelSnapshot] = weakref.WeakValueDictionary()
        self._view = _View(())
        try:
            list_folder(folder)
        except OSError as error:
            raise ModelNotFound(f"the model repository cannot be listed: {error}") from error
        self.reload()

    def entries(self) -> list[ModelEntry]:
        """Returns all versions of all models, by name, versions ascending."""
        return [entry for versions in self._view.models.values() for entry in versions.values()]

    def get(self, name: str, version: str | None = None) -> ModelSnapshot:
        """Returns the version asked for, or the highest that can be served.

        Raises:
            ModelNotFound: no such model or version; names those there are.
            ModelError: it is there but cannot be served; without a version, the highest one's error.
        """
        view = self._view
        versions = view.models.get(name)
        if versions is None:
            raise ModelNotFound(f"no model is named {name!r}; there are: {_listed(view.models)}")
        if version is None:
            entry = view.default[name]
        elif version in versions:
            entry = versions[version]
        else:
            raise ModelNotFound(f"model {name!r} has no version {version!r}; there are: {_listed(versions)}")
        if entry.snapshot is None:
            assert entry.error is not None  # noqa: S101 (an entry without one has the other)
            raise type(entry.error)(f"model {name!r} version {entry.version!r} cannot be served: {entry.error}")
        return entry.snapshot

    def identify(self, name: str, version: str | None = None) -> tuple[str, str] | None:
        """Returns name and version of what `get` means by the same, servable or not; ``None`` without any."""
        view = self._view
        if name not in view.models:
            return None
        entry = view.default[name] if version is None else view.models[name].get(version)
        return None if entry is None else (entry.name, entry.version)

    def find(self, name: str, version: str, sha256: bytes) -> ModelSnapshot | None:
        """Returns the snapshot of this very model file, even of a version that is gone, while anyone holds it."""
        return self._alive.get((name, version, sha256))

    def reload(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Looks at the folder again; loads what is new or was mended, lets go of what is gone.

        One version at a time, each served as soon as it is ready; what is refused is shown at the end, or when the next
        is served. What cannot be listed now stays as it is.

        Args:
            stop: is asked before each version whether to leave the rest for another time.

        Returns:
            Whether a version was loaded.
        """
        with self._reloading:
            found = self._find()
            gone = self._known.keys() - found.keys()
            for key in gone:
                _log.info("model %s version %s is gone", *key, extra={"model": key[0]})
                del self._known[key]
            if gone:
                self._publish()
            loaded = unseen = False
            try:
                for key, folder in found.items():
                    if stop():
                        break
                    before = self._known.get(key)
                    now = self._look(folder, before)
                    if now is before:
                        continue
                    self._known[key] = now
                    unseen = True
                    if now.entry.snapshot is not None and (before is None or before.entry.snapshot is None):
                        self._publish()
                        loaded, unseen = True, False
            finally:
                if unseen:  # what nobody waits for is shown at once: a view for each of 10,000 would take half an hour
                    self._publish()
            return loaded

    def _publish(self) -> None:
        self._view = _View(one.entry for one in self._known.values())

    def _find(self) -> dict[_Key, Path]:
        """Returns the folders of all versions, with those that were known and may be there, but cannot be listed."""
        earlier, self._complaints = self._complaints, set()
        found: dict[_Key, Path] = {}

        def listed(folder: Path) -> list[str] | None:
            try:
                names = [name for name in list_folder(folder) if is_name(name) and _is_folder(folder / name)]
                if len(found) + len(names) > MAX_ENTRIES:
                    raise BundleMismatch(f"with it there would be more than {MAX_ENTRIES} versions")
                return names  # noqa: TRY300 (what the except is for stands above)
            except (OSError, ModelError) as error:
                # A repository that vanished as a whole is rather a mount that failed.
                if isinstance(error, FileNotFoundError) and folder != self._folder:
                    return []
                text = f"the folder {folder} cannot be listed: {error}"
                if text not in earlier:  # once, not at every look
                    _log.warning("%s", text)
                self._complaints.add(text)
                return None

        names = listed(self._folder)
        if names is None:
            return {(name, version): self._folder / name / version for name, version in self._known}
        for name in names:
            versions = listed(self._folder / name)
            if versions is None:
                versions = [version for known, version in self._known if known == name]
            found |= {(name, version): self._folder / name / version for version in versions}
        return found

    def _look(self, folder: Path, before: _Known | None) -> _Known:
        stamp = Stamp.of(folder)  # first: what changes while it is being read is looked at again
        if before is not None and stamp.shows_no_change_since(before.stamp):
            return before
        if before is None or before.entry.snapshot is None:
            return self._load(folder, stamp, before)
        return self._check_unchanged(folder, stamp, before)

    def _load(self, folder: Path, stamp: Stamp, before: _Known | None) -> _Known:
        name, version = folder.parent.name, folder.name
        try:
            bundle = Bundle.load(folder, self._trusted)
            snapshot = ModelSnapshot.of(bundle)
        except Exception as failure:  # noqa: BLE001 (one bundle must not keep the others)
            error = _refusal(failure)
            entry = ModelEntry(name, version, None, error)
            if before is None or str(before.entry.error) != str(error):
                bug = None if isinstance(failure, (ModelError, OSError)) else failure
                _log.warning(
                    "model %s version %s is not served: %s", name, version, error, exc_info=bug, extra={"model": name}
                )
            return _Known(entry, stamp if _is_of_the_files(failure) else stamp.unsettled(), None)
        self._alive[name, version, snapshot.sha256] = snapshot
        _log.info("model %s version %s is ready%s", name, version, _signed(bundle.signed_by), extra={"model": name})
        entry = ModelEntry(name, version, snapshot, None, bundle.signed_by, time.time_ns())
        return _Known(entry, stamp, bundle.manifest_sha256)

    def _check_unchanged(self, folder: Path, stamp: Stamp, before: _Known) -> _Known:
        """The version serves: whatever its files hold now, it goes on as it was loaded."""
        entry = before.entry
        problem: str | None = None
        signed_by = entry.signed_by
        try:
            bundle = Bundle.load(folder, self._trusted)
        except Exception as failure:  # noqa: BLE001 (whatever it is, the snapshot is not touched by it)
            problem = str(_refusal(failure))
            stamp = stamp if _is_of_the_files(failure) else stamp.unsettled()
        else:
            if bundle.manifest_sha256 != before.manifest_sha256:
                problem = f"{folder}: holds another bundle now; publish it as a version of its own"
            else:
                signed_by = bundle.signed_by
        text = problem and f"its files changed, and it goes on serving as it was loaded: {problem}"
        if text != (None if entry.error is None else str(entry.error)):
            if text:
                _log.warning("model %s version %s: %s", entry.name, entry.version, text, extra={"model": entry.name})
            else:
                _log.info(
                    "model %s version %s: its files are as they were loaded again",
                    entry.name,
                    entry.version,
                    extra={"model": entry.name},
                )
        error_now = None if text is None else BundleMismatch(text)
        return replace(before, entry=replace(entry, error=error_now, signed_by=signed_by), stamp=stamp)


def _refusal(failure: Exception) -> ModelError:
    """Returns what to keep of a failure: without its traceback, whose frames hold the files' bytes."""
    if isinstance(failure, ModelError):
        return type(failure)(str(failure))
    if isinstance(failure, OSError):
        return InvalidModel(f"cannot be read: {failure}")
    return InvalidModel(f"failed to load, {type(failure).__name__}: {failure}; the server's log has the rest")


def _is_of_the_files(failure: Exception) -> bool:
    """Whether the same files would be refused again; a disk or a memory that failed may not fail the next time."""
    return isinstance(failure, ModelError) and not isinstance(failure.__cause__, OSError)


def _is_folder(path: Path) -> bool:
    """Whether it is one, or may be: one that cannot be looked at now has not gone."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return os.path.lexists(path) and not path.is_symlink()


def _signed(key_id: str | None) -> str:
    return "" if key_id is None else f", signed by key {key_id[:12]}"


def _listed(names: Mapping[str, object]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[-20:])
    return shown or "none"
