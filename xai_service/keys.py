"""Keys that sign and verify: Ed25519, or ECDSA on P-256 with SHA-256 for tools that know no Ed25519.

A private key is a PKCS#8 PEM file, a public one a SubjectPublicKeyInfo PEM file, as `openssl` and every library reads
them. A key's *id* is the SHA-256 of its public PEM file as written here, so that ``sha256sum KEY.pub`` prints it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from xai_service.errors import InvalidKey

KeyType = Literal["ed25519", "p256"]

_MAX_KEY_BYTES = 16 << 10
_MAX_KEYS = 1000
_SUFFIXES = (".pub", ".pem")
_ECDSA = ec.ECDSA(hashes.SHA256())
_KINDS = "Ed25519 and ECDSA on P-256 are supported"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies.

    Attributes:
        key_id: 64 hexadecimal digits.
        pem: the file's bytes.
    """

    key_id: str
    pem: bytes
    _key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @staticmethod
    def load(path: Path) -> PublicKey:
        """Returns the public key in a PEM file. Raises `InvalidKey`."""
        data = _read(path)
        if b"PRIVATE KEY" in data:
            raise InvalidKey(f"{path}: is a private key; give the public one, and keep this one secret")
        if data.count(b"-----BEGIN") != 1:
            raise InvalidKey(f"{path}: must hold one public key as PEM; several keys are several files")
        try:
            return _public(serialization.load_pem_public_key(data), path)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidKey(f"{path}: is no public key as PEM: {error}") from error

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's of ``message``; DER for ECDSA."""
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, message)
            else:
                self._key.verify(signature, message, _ECDSA)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """A key that signs."""

    def __init__(self, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = _public(key.public_key(), Path("private key"))

    @staticmethod
    def generate(kind: KeyType = "ed25519") -> PrivateKey:
        """Returns a new key."""
        return PrivateKey(
            ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
        )

    @staticmethod
    def load(path: Path, passphrase: Callable[[], bytes] | None = None) -> PrivateKey:
        """Returns the key in a PKCS#8 PEM file.

        Args:
            path: of the file.
            passphrase: is asked for it where the key is protected.

        Raises:
            InvalidKey: it is not such a file, of another kind, or the passphrase is wrong or was not given.
        """
        data = _read(path)
        protected = b"ENCRYPTED" in data
        if protected and passphrase is None:
            raise InvalidKey(f"{path}: is protected by a passphrase, and none was given")
        try:
            key = serialization.load_pem_private_key(data, passphrase() if protected and passphrase else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            hint = ", or the passphrase is wrong" if protected else ""
            raise InvalidKey(f"{path}: is no private key as PEM{hint}: {error}") from error
        if not _is_supported(key):
            raise InvalidKey(f"{path}: is a key of another kind; {_KINDS}: `xai keygen` makes one")
        return PrivateKey(key)  # type: ignore[arg-type]  # what was just checked

    def save(self, name: Path, passphrase: bytes | None = None) -> tuple[Path, Path]:
        """Writes ``NAME.key``, which its owner alone may read, and ``NAME.pub``; returns both paths.

        Raises:
            InvalidKey: one exists already; none is ever overwritten.
        """
        private, public = name.with_name(name.name + ".key"), name.with_name(name.name + ".pub")
        for path in (private, public):
            if os.path.lexists(path):
                raise InvalidKey(f"{path} exists already, and no key is overwritten: choose another name")
        protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pem = self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        _write(private, pem, 0o600)
        _write(public, self.public.pem, 0o644)
        return private, public

    def sign(self, message: bytes) -> bytes:
        """Returns the signature: 64 bytes for Ed25519, DER for ECDSA."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, _ECDSA)


def load_trusted(paths: Iterable[Path]) -> Mapping[str, PublicKey]:
    """Returns public keys by id, from files and from the ``.pub`` and ``.pem`` files of folders.

    Raises:
        InvalidKey: a path is neither, a file is no public key, or a folder holds none.
    """
    keys: dict[str, PublicKey] = {}
    for path in paths:
        for file in _files_of(path) if path.is_dir() else (path,):
            key = PublicKey.load(file)
            keys[key.key_id] = key
    return keys


def _files_of(folder: Path) -> list[Path]:
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIXES) and not entry.name.startswith("."):
                found.append(folder / entry.name)
            if len(found) > _MAX_KEYS:
                raise InvalidKey(f"{folder}: holds more than {_MAX_KEYS} keys, the most that are accepted")
    if not found:
        raise InvalidKey(f"{folder}: holds no public key (*.pub, *.pem), so no bundle could be trusted")
    return sorted(found)


def _public(key: Any, path: Path) -> PublicKey:
    if not _is_supported(key):
        raise InvalidKey(f"{path}: is a key of another kind; {_KINDS}")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(pem).hexdigest(), pem, key)


def _is_supported(key: Any) -> bool:
    if isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey))


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe must not hang.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidKey(f"{path}: is not a regular file")
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise InvalidKey(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_KEY_BYTES:
        raise InvalidKey(f"{path}: is larger than {_MAX_KEY_BYTES} bytes: it is no key")
    return data


def _write(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
