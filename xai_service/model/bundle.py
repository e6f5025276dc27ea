"""One version of one model on disk: ``REPO/<name>/<version>/{model.onnx, manifest.json, background.npy?}``.

Each file is read once, into memory, and checked against its digest there; what is served are those very bytes, so
nothing that happens to the files afterwards can change it. The digest finds damage and mix-ups. It is no signature:
whoever can replace both files can make a bundle that loads.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xai_service.errors import BundleMismatch
from xai_service.model.manifest import (
    MANIFEST_FILE,
    MAX_BACKGROUND_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_MODEL_BYTES,
    MODEL_FILE,
    FileDigest,
    Manifest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle, read and checked.

    Attributes:
        path: its directory, absolute.
        manifest: what it says about its model.
        files: bytes of each file that the manifest lists, as digested, by name.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def onnx_bytes(self) -> bytes:
        """The model file."""
        return self.files[MODEL_FILE]

    @property
    def onnx_sha256(self) -> bytes:
        """SHA-256 of the model file, 32 bytes."""
        return bytes.fromhex(self.manifest.files[MODEL_FILE].sha256)

    @staticmethod
    def load(directory: Path) -> Bundle:
        """Returns the bundle in ``directory``, which is named after its version and its parent after its model.

        Raises:
            BundleMismatch: a file is missing, unreadable, too large, reached through a symbolic link that leaves the
                directory, or not the one that the manifest describes; or the directory's names are not the manifest's.
            InvalidModel: the manifest is malformed.
        """
        directory = directory.absolute()
        manifest = Manifest.parse(_read(directory, MANIFEST_FILE, MAX_MANIFEST_BYTES))
        found = (directory.parent.name, directory.name)
        if found != (manifest.name, manifest.version):
            raise BundleMismatch(
                f"{directory}: the manifest is of model {manifest.name}, version {manifest.version}; "
                f"expected {found[0]}, version {found[1]}, after the directory: move it back or pack the model again"
            )
        files = {name: _read_digested(directory, name, expected) for name, expected in manifest.files.items()}
        return Bundle(directory, manifest, files)


def _read_digested(directory: Path, name: str, expected: FileDigest) -> bytes:
    data = _read(directory, name, MAX_MODEL_BYTES if name == MODEL_FILE else MAX_BACKGROUND_BYTES)
    found = FileDigest.of(data)
    if found != expected:
        raise BundleMismatch(
            f"{directory / name}: expected SHA-256 {expected.sha256} of {expected.size_bytes} bytes, "
            f"found {found.sha256} of {found.size_bytes} bytes: the file is not the one that was packed"
        )
    return data


def _read(directory: Path, name: str, longest: int) -> bytes:
    path = directory / name
    try:
        inside = directory.resolve(strict=True)
        real = path.resolve(strict=True)
        # Links inside the directory are how Kubernetes mounts files; one that leaves it could show any file.
        if not real.is_relative_to(inside):
            raise BundleMismatch(f"{path}: is a symbolic link to {real}, outside the bundle: put the file itself there")
        # O_NONBLOCK: opening a named pipe must not hang. It changes nothing for a regular file.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleMismatch(f"{path}: is not a regular file")
            data = file.read(longest + 1) if status.st_size <= longest else None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
        raise BundleMismatch(f"{path}: cannot be read: {error}") from error
    if data is None or len(data) > longest:
        raise BundleMismatch(f"{path}: is larger than {longest} bytes, the most that is accepted")
    return data
