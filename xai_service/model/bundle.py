"""One version of one model on disk: ``REPO/<name>/<version>/{model.onnx, manifest.json}``.

Each file is read once, into memory, and checked against its digest there; what is served are those very bytes, so
nothing that happens to the files afterwards can change it. The digest finds damage and mix-ups. It is no signature:
whoever can replace both files can make a bundle that loads.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xai_service.errors import BundleMismatch
from xai_service.model.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, MAX_MODEL_BYTES, MODEL_FILE, Manifest

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle, read and checked.

    Attributes:
        path: its directory, absolute.
        manifest: what it says about its model.
        onnx_bytes: the model file, as digested.
        onnx_sha256: SHA-256 of ``onnx_bytes``, 32 bytes.
    """

    path: Path
    manifest: Manifest
    onnx_bytes: bytes = field(repr=False)
    onnx_sha256: bytes

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
        data = _read(directory, MODEL_FILE, MAX_MODEL_BYTES)
        digest = hashlib.sha256(data)
        expected = manifest.files[MODEL_FILE]
        if (digest.hexdigest(), len(data)) != (expected.sha256, expected.size_bytes):
            raise BundleMismatch(
                f"{directory / MODEL_FILE}: expected SHA-256 {expected.sha256} of {expected.size_bytes} bytes, "
                f"found {digest.hexdigest()} of {len(data)} bytes: the file is not the one that was packed"
            )
        return Bundle(directory, manifest, data, digest.digest())


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
