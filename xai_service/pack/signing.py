"""Signs bundles: as they are packed, or later."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from xai_service.errors import BundleMismatch
from xai_service.model.bundle import Bundle
from xai_service.model.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from xai_service.model.signature import sign

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xai_service.keys import PrivateKey


def manifest_files(manifest: Manifest, key: PrivateKey | None) -> dict[str, bytes]:
    """Returns ``manifest.json`` and, with a key, ``manifest.sig``, by name."""
    data = manifest.to_json()
    files = {MANIFEST_FILE: data}
    if key is not None:
        digests = {name: digest.sha256 for name, digest in manifest.files.items()}
        files[SIGNATURE_FILE] = _signed(manifest, digests | {MANIFEST_FILE: hashlib.sha256(data).hexdigest()}, key)
    return files


def sign_bundle(directory: Path, key: PrivateKey) -> Path:
    """Signs a bundle as it lies there, in place of any signature before; returns the signature's path.

    A server that looks at the bundle meanwhile sees the old signature or the new.

    Raises:
        ModelError: it is not whole: only what its manifest describes is signed.
        BundleMismatch: the signature cannot be written.
    """
    bundle = Bundle.load(directory, ignore_signature=True)
    path = bundle.path / SIGNATURE_FILE
    draft = bundle.path / f".{SIGNATURE_FILE}.{secrets.token_hex(8)}"
    try:
        with draft.open("xb") as file:
            file.write(_signed(bundle.manifest, bundle.digests, key))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BundleMismatch(f"{path}: cannot be written: {error}") from error
    return path


def _signed(manifest: Manifest, digests: Mapping[str, str], key: PrivateKey) -> bytes:
    return sign(key, f"{manifest.name}/{manifest.version}", digests)
