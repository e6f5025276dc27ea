"""What may be wrong with certificate files, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.certificates import Authority
from xai_service.errors import InvalidSetting
from xai_service.wire.tls import server_credentials

AUTHORITY = Authority()


@pytest.fixture
def files(tmp_path):
    certificate, key = AUTHORITY.issue().write(tmp_path, "server")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(AUTHORITY.pem)
    return certificate, key, ca


def test_a_pair_and_a_chain_are_taken(files, caplog):
    assert server_credentials(*files)
    assert server_credentials(files[0], files[1], None)
    files[0].write_bytes(files[0].read_bytes() + AUTHORITY.pem)  # the issuer behind it
    assert server_credentials(*files)
    assert caplog.text == ""


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_file_is_named(files, which):
    files[which].unlink()
    with pytest.raises(InvalidSetting, match=f"{files[which]} cannot be read: No such file"):
        server_credentials(*files)


@pytest.mark.parametrize(("which", "what"), [(0, "certificate"), (1, "private key"), (2, "certificate")])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_holds_something_else_is_named(files, which, what, content):
    files[which].write_bytes(content)
    with pytest.raises(InvalidSetting, match=f"{files[which]}: holds no {what} in PEM"):
        server_credentials(*files)


def test_files_that_were_swapped(files):
    with pytest.raises(InvalidSetting, match="holds no certificate"):
        server_credentials(files[1], files[0], None)


def test_a_key_of_another_certificate(files, tmp_path):
    _, other = AUTHORITY.issue().write(tmp_path, "other")
    with pytest.raises(InvalidSetting, match=f"{other}: is not the key of the certificate in {files[0]}"):
        server_credentials(files[0], other, files[2])


def test_a_key_with_a_passphrase(files):
    key = serialization.load_pem_private_key(files[1].read_bytes(), None)
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidSetting, match="protected by a passphrase"):
        server_credentials(*files)


@pytest.mark.parametrize(("days", "said"), [((-9, -1), "expired at"), ((1, 2), "is valid from")])
def test_one_out_of_its_time_is_warned_of(tmp_path: Path, caplog, days, said):
    assert server_credentials(*AUTHORITY.issue(valid_days=days).write(tmp_path, "old"), None)
    assert said in caplog.text
