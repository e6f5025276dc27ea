"""What a client may be given to be let in."""

from __future__ import annotations

import pytest

from tests.certificates import Authority
from xai_service.client import Client
from xai_service.wire.credentials import Credentials

AUTHORITY = Authority()
PAIR = AUTHORITY.issue()


def test_what_goes_with_each_call():
    assert Credentials.of("x:1", "abc", None, None, None).metadata == (("authorization", "Bearer abc"),)
    assert Credentials.of("x:1", None, None, None, None).metadata == ()


def test_pem_or_a_path(tmp_path):
    certificate, key = PAIR.write(tmp_path, "client")
    (tmp_path / "ca").write_bytes(AUTHORITY.pem)
    for given in ((AUTHORITY.pem, PAIR.certificate, PAIR.key), (tmp_path / "ca", certificate, str(key))):
        assert Credentials.of("x:1", None, *given).channel is not None
    assert Credentials.of("unix:/s", None, AUTHORITY.pem, None, None).channel is None
    with pytest.raises(FileNotFoundError):
        Client("x:1", root_certificates=tmp_path / "none")


@pytest.mark.parametrize("given", [(AUTHORITY.pem, PAIR.certificate, None), (AUTHORITY.pem, None, PAIR.key)])
def test_certificate_and_key_go_together(given):
    with pytest.raises(ValueError, match="go together"):
        Credentials.of("x:1", None, *given)


def test_a_certificate_is_not_silently_left_out():
    with pytest.raises(ValueError, match="needs root_certificates"):
        Client("x:1", certificate=PAIR.certificate, key=PAIR.key)


@pytest.mark.parametrize("token", ["", " ", "a ", "a\nb", "é", "\0"])
def test_what_is_no_token(token):
    with pytest.raises(ValueError, match="the token"):
        Client("x:1", token=token)
