"""Puts a bundle into a repository: whole or not at all, and never over an existing one."""

from __future__ import annotations

import os
import secrets
import shutil
from typing import TYPE_CHECKING

from xai_service.errors import PackRefused
from xai_service.model.manifest import is_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def destination(repository: Path, name: str, version: str | None) -> Path:
    """Returns the directory that the bundle will be; without a version, of the next integer after the highest there.

    Raises:
        PackRefused: not a name or version, or the version exists already.
    """
    for what, text in (("name", name), ("version", version)):
        if not (isinstance(text, str) and is_name(text)) and not (what == "version" and text is None):
            raise PackRefused(
                f"{what} {text!r} must be letters, digits, '.', '_' and '-', begin with a letter or digit, and have at "
                "most 128 characters"
            )
    home = repository / name
    if version is None:
        taken = [int(entry.name) for entry in home.iterdir() if _is_integer(entry.name)] if home.is_dir() else []
        version = str(max(taken, default=0) + 1)
    path = home / version
    if os.path.lexists(path):
        raise PackRefused(f"{path} exists already, and a version never changes: choose another version")
    return path


def _is_integer(text: str) -> bool:
    return is_name(text) and text.isascii() and text.isdigit()


def publish(path: Path, files: Mapping[str, bytes]) -> None:
    """Makes the directory ``path`` with these files, durably. A reader sees all of it or none.

    Raises:
        PackRefused: it exists already, or the file system refuses.
    """
    # Hidden, so that no repository takes it for a version; beside it, so that the rename stays in one file system.
    draft = path.parent / f".{path.name[:64]}.{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        for name, data in files.items():
            with (draft / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(draft)
        # rename fails on a directory that holds files, so a rival who was faster is not overwritten.
        draft.rename(path)
        _sync(path.parent)
    except OSError as error:
        if path.is_dir():
            raise PackRefused(f"{path} exists already, and a version never changes: choose another version") from error
        raise PackRefused(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
