"""Who vouches for a bundle: ``manifest.sig``, a signature over the digests of the manifest and of each file it lists.

The file is what OpenSSF model signing 1.0 writes for a key (docs/adr/0009): a Sigstore bundle in JSON around a DSSE
envelope [1]_, whose payload is an in-toto statement [2]_ that names each file with its SHA-256. It is untrusted when
read. It must be, byte for byte, what `sign` would have written for the same digests, so that no altered byte passes for
want of meaning.

.. [1] https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md
.. [2] https://github.com/in-toto/attestation/blob/v1.0/spec/v1/statement.md
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xai_service.errors import BundleMismatch, UntrustedBundle
from xai_service.model.manifest import SIGNATURE_FILE

if TYPE_CHECKING:
    from xai_service.keys import PrivateKey, PublicKey

MAX_SIGNATURE_BYTES = 64 << 10

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_KEY_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it was read: well-formed, not yet verified.

    Attributes:
        key_id: the key that it says made it.
        digests: SHA-256 of each signed file, as hexadecimal digits, by name.
    """

    key_id: str
    digests: Mapping[str, str]
    _payload: bytes = field(repr=False)
    _bytes: bytes = field(repr=False)

    @staticmethod
    def parse(data: bytes) -> Signature:
        """Returns the signature that the file's bytes hold. Raises `BundleMismatch`."""
        try:
            bundle = json.loads(data)
            envelope = bundle["dsseEnvelope"]
            (signature,) = envelope["signatures"]
            payload = base64.b64decode(envelope["payload"], validate=True)
            raw = base64.b64decode(signature["sig"], validate=True)
            key_id = bundle["verificationMaterial"]["publicKey"]["hint"]
            statement = json.loads(payload)
            (subject,) = statement["subject"]
            digests = {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}
            if _KEY_ID.fullmatch(key_id) is None:
                raise ValueError("the key's id is not 64 hexadecimal digits")  # noqa: TRY301 (said as the others are)
            same = data == _envelope(key_id, payload, raw) and payload == _statement(subject["name"], digests)
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
            raise BundleMismatch(
                f"{SIGNATURE_FILE}: is no signature as `xai sign` writes it ({type(error).__name__}: {error})"
            ) from error
        if not same:
            raise BundleMismatch(f"{SIGNATURE_FILE}: is not, byte for byte, a signature as `xai sign` writes it")
        return Signature(key_id, digests, payload, raw)

    def verify(self, trusted: Mapping[str, PublicKey]) -> None:
        """Checks that one of the keys made it. Raises `UntrustedBundle`."""
        key = trusted.get(self.key_id)
        if key is None:
            known = ", ".join(one[:12] for one in trusted)
            raise UntrustedBundle(
                f"{SIGNATURE_FILE}: is by key {self.key_id[:12]}, which is not trusted; trusted are: {known}"
            )
        if not key.verifies(self._bytes, _pre_authentication(self._payload)):
            raise UntrustedBundle(f"{SIGNATURE_FILE}: is not what key {self.key_id[:12]} signed: it was altered")


def sign(key: PrivateKey, subject: str, digests: Mapping[str, str]) -> bytes:
    """Returns the signature file.

    Args:
        key: signs.
        subject: what is signed, for people to read.
        digests: SHA-256 of each file, as hexadecimal digits, by name.
    """
    payload = _statement(subject, digests)
    return _envelope(key.public.key_id, payload, key.sign(_pre_authentication(payload)))


def _statement(subject: str, digests: Mapping[str, str]) -> bytes:
    names = sorted(digests)
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in names)).hexdigest()
    return _json(
        {
            "_type": _STATEMENT,
            "subject": [{"name": subject, "digest": {"sha256": root}}],
            "predicateType": _PREDICATE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURE_FILE],
                },
                "resources": [{"name": name, "algorithm": "sha256", "digest": digests[name]} for name in names],
            },
        }
    )


def _envelope(key_id: str, payload: bytes, signature: bytes) -> bytes:
    return _json(
        {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    )


def _pre_authentication(payload: bytes) -> bytes:
    """What is signed: type and payload, each with its length, so that none can be taken for another (DSSE)."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _json(value: Any) -> bytes:
    return (json.dumps(value, separators=(",", ":")) + "\n").encode()
