"""How a client is let in: TLS, its certificate, its token."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows, and whom it trusts.

    Attributes:
        channel: gRPC's channel credentials; ``None`` for plaintext.
        metadata: goes with each call.
    """

    channel: Any
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls,
        target: str,
        token: str | None,
        root_certificates: bytes | str | os.PathLike[str] | None,
        certificate: bytes | str | os.PathLike[str] | None,
        key: bytes | str | os.PathLike[str] | None,
    ) -> Credentials:
        """Returns them.

        Args:
            target: of the client; a ``unix:`` socket has no TLS, its permissions say who may connect.
            token: ``None`` for none.
            root_certificates: PEM, or its path; with it the connection is TLS.
            certificate: PEM, or its path, to be shown to the service.
            key: PEM, or its path, of the certificate.

        Raises:
            ValueError: they do not go together, or a token has characters that no token has.
            OSError: a file cannot be read.
        """
        if (certificate is None) != (key is None):
            raise ValueError("a certificate and its key go together")
        if certificate is not None and root_certificates is None:
            raise ValueError("a certificate is shown by TLS, which needs root_certificates to trust the service by")
        if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
            raise ValueError("the token has characters that no token has, or is empty")
        channel = None
        if root_certificates is not None and not target.startswith("unix:"):
            channel = grpc.ssl_channel_credentials(_pem(root_certificates), _pem(key), _pem(certificate))
        return cls(channel, () if token is None else (("authorization", f"Bearer {token}"),))

    def connect(self, library: Any, target: str, options: Any) -> Any:
        """Returns a channel of ``library``, which is `grpc` or `grpc.aio`."""
        if self.channel is None:
            return library.insecure_channel(target, options=options)
        return library.secure_channel(target, self.channel, options=options)


def _pem(source: bytes | str | os.PathLike[str] | None) -> bytes | None:
    return source if source is None or isinstance(source, bytes) else Path(source).read_bytes()
