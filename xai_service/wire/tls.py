"""TLS of the TCP listeners: certificates checked before they are used, and exchanged while connections go on.

gRPC asks at every handshake which certificate to show. Connections that are there keep the one they were made with.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from xai_service.errors import InvalidSetting
from xai_service.followed import Followed

_log = logging.getLogger(__name__)


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> Any:
    """Returns what a secure listener needs; the files are followed from then on.

    Args:
        certificate: PEM, the server's own first, then those between it and the root.
        key: PEM, its private key.
        client_ca: PEM; with it each client has to show a certificate that one of these issued.

    Raises:
        InvalidSetting: a file is missing, holds something else, or key and certificate do not fit.
    """
    paths = (certificate, key) if client_ca is None else (certificate, key, client_ca)

    def configuration(contents: Sequence[bytes]) -> Any:
        check_pair(contents[0], contents[1], certificate, key)
        if client_ca is not None:
            _certificates(contents[2], client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(contents[1], contents[0])], root_certificates=contents[2] if client_ca is not None else None
        )

    followed = Followed("TLS certificates", paths, configuration)
    given = initial = followed.current()

    def changed() -> Any:
        """The new configuration, or ``None`` for that of before; called by gRPC at each handshake."""
        nonlocal given
        current = followed.current()
        if current is given:
            return None
        given = current
        return current

    return grpc.dynamic_ssl_server_credentials(initial, changed, require_client_authentication=client_ca is not None)


def check_pair(certificate_pem: bytes, key_pem: bytes, certificate: Path, key: Path) -> None:
    """Checks that a key is that of a certificate; warns of one that is expired, or not valid yet.

    Args:
        certificate_pem: the certificate, and those behind it.
        key_pem: the private key.
        certificate: where the first is from, for the messages.
        key: where the second is from.

    Raises:
        InvalidSetting: they are no such things, or do not fit.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as in server.py

    leaf = _certificates(certificate_pem, certificate)[0]
    try:
        private = load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise InvalidSetting(f"{key}: the key is protected by a passphrase; give it without one") from None
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise InvalidSetting(f"{key}: holds no private key in PEM: {error}") from None
    if private.public_key() != leaf.public_key():
        raise InvalidSetting(f"{key}: is not the key of the certificate in {certificate}")
    now = dt.datetime.now(dt.UTC)
    if now > leaf.not_valid_after_utc:
        _log.warning("%s: the certificate expired at %s; clients will refuse it", certificate, leaf.not_valid_after_utc)
    if now < leaf.not_valid_before_utc:
        _log.warning("%s: the certificate is valid from %s only", certificate, leaf.not_valid_before_utc)


def _certificates(pem: bytes, path: Path) -> list[Any]:
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - as in server.py

    try:
        return load_pem_x509_certificates(pem)
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise InvalidSetting(f"{path}: holds no certificate in PEM: {error}") from None
