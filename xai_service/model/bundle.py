"""One version of one model on disk, ``REPO/<name>/<version>``: model.onnx, manifest.json and what they list beside.

Each file is read once, into memory, and checked against its digest there; what is served are those very bytes, so
nothing that happens to the files afterwards can change it. Digests find damage and mix-ups; whoever can replace all
files can still make a bundle that loads. Only a signature by a trusted key says whose bundle it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xai_service.errors import BundleMismatch, InvalidModel, UntrustedBundle
from xai_service.model.folder import list_folder
from xai_service.model.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MAX_OTHER_BYTES,
    MODEL_FILE,
    SIGNATURE_FILE,
    FileDigest,
    Manifest,
)
from xai_service.model.model_file import MAX_MODEL_BYTES, is_pickle
from xai_service.model.signature import MAX_SIGNATURE_BYTES, Signature

if TYPE_CHECKING:
    from xai_service.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle, read and checked.

    Attributes:
        path: its directory, absolute.
        manifest: what it says about its model.
        files: bytes of each file that the manifest lists, as digested, by name.
        manifest_sha256: SHA-256 of the manifest, 32 bytes. It pins all other files: the bundle's identity.
        is_signed: whether it has a signature.
        signed_by: id of the trusted key that signed it; ``None`` where it is not signed, or no keys were given.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)
    manifest_sha256: bytes
    is_signed: bool
    signed_by: str | None

    @property
    def onnx_bytes(self) -> bytes:
        """The model file."""
        return self.files[MODEL_FILE]

    @property
    def onnx_sha256(self) -> bytes:
        """SHA-256 of the model file, 32 bytes."""
        return bytes.fromhex(self.manifest.files[MODEL_FILE].sha256)

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each file but the signature, as hexadecimal digits, by name: what a signature signs."""
        return {MANIFEST_FILE: self.manifest_sha256.hex()} | {
            name: digest.sha256 for name, digest in self.manifest.files.items()
        }

    @staticmethod
    def load(
        directory: Path, trusted: Mapping[str, PublicKey] | None = None, *, ignore_signature: bool = False
    ) -> Bundle:
        """Returns the bundle in ``directory``, which is named after its version and its parent after its model.

        Args:
            directory: holds the files that the manifest lists, and no other but those whose names begin with a dot.
            trusted: public keys by id, one of which must have signed it. ``None`` takes unsigned bundles too; of a
                signed one it is then checked that what was signed are these files, but not who did.
            ignore_signature: for signing it anew.

        Raises:
            BundleMismatch: a file is missing, unreadable, too large, reached through a symbolic link that leaves the
                directory, not listed, or not the one that the manifest describes or that was signed; or the
                directory's names are not the manifest's.
            UntrustedBundle: it is not signed by a trusted key.
            InvalidModel: the manifest is malformed, or the model file is a pickle.
        """
        directory = directory.absolute()
        data = _read(directory, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        digest = hashlib.sha256(data).digest()
        signature = None if ignore_signature else _signature(directory, trusted)
        if signature is not None and signature.digests.get(MANIFEST_FILE) != digest.hex():
            raise BundleMismatch(f"{directory / MANIFEST_FILE}: is not the one that was signed")
        manifest = Manifest.parse(data)
        found = (directory.parent.name, directory.name)
        if found != (manifest.name, manifest.version):
            raise BundleMismatch(
                f"{directory}: the manifest is of model {manifest.name}, version {manifest.version}; "
                f"expected {found[0]}, version {found[1]}, after the directory: move it back or pack the model again"
            )
        _check_listed(directory, manifest)
        files = {name: _read_digested(directory, name, expected) for name, expected in manifest.files.items()}
        _refuse_pickle(directory / MODEL_FILE, files[MODEL_FILE])
        signed_by = signature.key_id if signature is not None and trusted is not None else None
        bundle = Bundle(directory, manifest, files, digest, signature is not None, signed_by)
        if signature is not None and signature.digests != bundle.digests:
            raise BundleMismatch(f"{directory / SIGNATURE_FILE}: does not sign the files that the manifest lists")
        return bundle


def _signature(directory: Path, trusted: Mapping[str, PublicKey] | None) -> Signature | None:
    path = directory / SIGNATURE_FILE
    if not os.path.lexists(path):
        if trusted is None:
            return None
        raise UntrustedBundle(f"{directory}: is not signed, and only signed bundles are served: `xai sign` signs it")
    try:
        signature = Signature.parse(_read(directory, SIGNATURE_FILE, MAX_SIGNATURE_BYTES))
        if trusted is not None:
            signature.verify(trusted)
    except (BundleMismatch, UntrustedBundle) as error:
        text = str(error)
        raise type(error)(text if text.startswith(str(directory)) else f"{directory}{os.sep}{text}") from error
    return signature


def _check_listed(directory: Path, manifest: Manifest) -> None:
    """Refuses files that nobody vouches for, before any file is read for long."""
    try:
        names = set(list_folder(directory))
    except OSError as error:
        raise BundleMismatch(f"{directory}: cannot be listed: {error}") from error
    unlisted = sorted(names - manifest.files.keys() - {MANIFEST_FILE, SIGNATURE_FILE})
    if unlisted:
        shown = ", ".join(map(ascii, unlisted[:4])) + (f" and {len(unlisted) - 4} more" if len(unlisted) > 4 else "")
        raise BundleMismatch(
            f"{directory}: holds {shown}, not listed in its manifest: take out what is not the bundle's"
        )


def _read_digested(directory: Path, name: str, expected: FileDigest) -> bytes:
    data = _read(directory, name, MAX_MODEL_BYTES if name == MODEL_FILE else MAX_OTHER_BYTES, expected)
    found = hashlib.sha256(data).hexdigest()
    if found != expected.sha256 or len(data) != expected.size_bytes:
        raise _other_file(directory / name, expected, f"{found} of {len(data)} bytes")
    return data


def _other_file(path: Path, expected: FileDigest, found: str) -> BundleMismatch:
    return BundleMismatch(
        f"{path}: expected SHA-256 {expected.sha256} of {expected.size_bytes} bytes, found {found}: "
        "the file is not the one that was packed"
    )


def _refuse_pickle(path: Path, data: bytes) -> None:
    if is_pickle(data):
        raise InvalidModel(
            f"{path}: is a Python pickle, and pickles are never loaded, because loading one runs whatever code it "
            "holds: pack the model with `xai pack`"
        )


def _read(directory: Path, name: str, longest: int, expected: FileDigest | None = None) -> bytes:
    path = directory / name
    try:
        inside = directory.resolve(strict=True)
        real = path.resolve(strict=True)
        # Links inside the directory are how Kubernetes mounts files; one that leaves it could show any file.
        if not real.is_relative_to(inside):
            raise BundleMismatch(f"{path}: is a symbolic link to {real}, outside the bundle: put the file itself there")
        # O_NONBLOCK: opening a named pipe must not hang. It changes nothing for a regular file.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleMismatch(f"{path}: is not a regular file")
            if expected is not None and expected.size_bytes != status.st_size <= longest:
                raise _other_file(path, expected, f"a file of {status.st_size} bytes")  # without reading it
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # Not `longest`: Python would set aside as much at once, whatever the file holds.
                data = file.read(status.st_size + 1) if status.st_size <= longest else None
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
        raise BundleMismatch(f"{path}: cannot be read: {error}") from error
    if data is None or len(data) > longest:
        raise BundleMismatch(f"{path}: is larger than {longest} bytes, the most that is accepted")
    return data
