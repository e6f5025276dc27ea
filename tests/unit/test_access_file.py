"""The file that says who may call."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.access_file import Caller, Grants, Role, check_name, entry_for, new_token
from xai_service.errors import InvalidSetting

DIGEST = hashlib.sha256(b"secret").hexdigest()
FILE = f"""
[[caller]]
name = "loan-desk"
roles = ["caller"]
token_sha256 = "{DIGEST.upper()}"

[[caller]]
name = "audit"
roles = ["auditor", "operator"]
certificate = "spiffe://bank/audit"

[unix]
roles = ["caller"]
"""


def test_who_may_call():
    grants = Grants.parse(FILE.encode())
    assert grants.by_token("secret") == Caller("loan-desk", frozenset({Role.CALLER}))
    assert grants.by_token("Secret") is None
    assert grants.by_token("") is None
    assert grants.by_token("\ud800") is None
    assert grants.by_certificate([b"localhost", b"spiffe://bank/audit"]).name == "audit"
    assert grants.by_certificate([b"spiffe://bank/audit/x", b"\xff"]) is None
    assert grants.unix == Caller("unix", frozenset({Role.CALLER}))


def test_a_caller_may_have_two_tokens_while_one_is_replaced():
    tokens = [new_token(), new_token()]
    grants = Grants.parse("".join(entry_for(one, "x", [Role.CALLER]) for one in tokens).encode())
    assert [grants.by_token(one).name for one in tokens] == ["x", "x"]
    assert len(set(tokens)) == 2
    assert all(len(one) >= 47 for one in tokens)


C = '[[caller]]\nname = "x"\nroles = ["caller"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nobody"),
        ("[[", "is not TOML"),
        ("\xff", "is not TOML"),
        ("[" * 5000, "is not TOML"),
        ("callers = []", "callers is not a known key; did you mean 'caller'"),
        ("caller = 1", "caller: is written"),
        ("caller = [1]", "caller 1: is not a table"),
        ("unix = 1", "unix: is not a table"),
        ("[unix]", "unix: roles: is a list of caller, auditor, operator"),
        ("[unix]\nroles = []", "unix: roles: is a list"),
        ("[unix]\nroles = 'caller'", "unix: roles: is a list"),
        ("[unix]\nroles = [1]", "unix: roles: is a list"),
        ("[unix]\nroles = ['root']", "unix: roles: 'root' is none"),
        (C, "caller 1: needs token_sha256 or certificate"),
        (C + f"token_sha256='{DIGEST}'\ncertificate='y'", "caller 1: needs token_sha256 or certificate"),
        (C + "token_sha256='secret'", "caller 1: token_sha256: is not 64 hex"),
        (C + "token_sha256=7", "caller 1: token_sha256: is not 64 hex"),
        (C + "certificate=''", "caller 1: certificate: is a name"),
        (C + "token='secret'", "caller 1: token is not a known key; there are name"),
        ((C + f"token_sha256='{DIGEST}'\n") * 2, "caller 2: its token or certificate stands there twice"),
        ((C + "certificate='y'\n") * 2, "caller 2: its token or certificate stands there twice"),
        (C.replace('"x"', '""') + "certificate='y'", "caller 1: name: is not a name"),
        (C.replace('"x"', '"a\\nb"') + "certificate='y'", "caller 1: name: is not a name"),
        (C.replace('"x"', "7") + "certificate='y'", "caller 1: name: is not a name"),
    ],
)
def test_what_is_not_understood_is_refused(text, message):
    with pytest.raises(InvalidSetting, match="^access.toml: " + message.replace("[", r"\[")):
        Grants.parse(text.encode("latin-1"), "access.toml")


@given(st.text(min_size=1, max_size=60).filter(str.isprintable))
def test_any_name_can_be_written(name):
    check_name(name)
    token = new_token()
    assert Grants.parse(entry_for(token, name, [Role.AUDITOR]).encode()).by_token(token).name == name


@given(st.binary(max_size=300))
def test_no_content_is_worse_than_refused(content):
    with pytest.raises(InvalidSetting):
        Grants.parse(content)
