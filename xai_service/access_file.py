"""Who may call: a TOML file of callers, each known by a token's digest or by a certificate's name, and their roles.

::

    [[caller]]
    name = "loan-desk"
    roles = ["caller"]
    token_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

    [[caller]]
    name = "audit"
    roles = ["auditor"]
    certificate = "spiffe://bank/audit"

    [unix]
    roles = ["caller"]

Tokens themselves are never kept: `new_token` makes one of 256 random bits, so a plain digest gives nothing away.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xai_service.errors import InvalidSetting

_PREFIX = "xai_"  # for those who search code and logs for secrets
_MAX_NAME = 200


class Role(enum.Enum):
    """What one may do; `xai_service.wire.access.METHODS` has the methods of each."""

    CALLER = "caller"
    AUDITOR = "auditor"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a name for fair shares and logs, and what it may do."""

    name: str
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Grants:
    """What the file says."""

    tokens: Mapping[bytes, tuple[bytes, Caller]]  # by SHA-256, which stands beside the caller again
    certificates: Mapping[str, Caller]
    unix: Caller | None

    @classmethod
    def parse(cls, content: bytes, source: str = "the file") -> Grants:
        """Returns what a file says.

        Args:
            content: TOML in UTF-8.
            source: its name, for the messages.

        Raises:
            InvalidSetting: it is no TOML, has a key that is not known, or says something twice; says which.
        """
        try:
            document = tomllib.loads(content.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidSetting(f"{source}: is not TOML: {error}") from None
        _check_keys(source, document, ("caller", "unix"))
        tokens: dict[bytes, tuple[bytes, Caller]] = {}
        certificates: dict[str, Caller] = {}
        entries = document.get("caller", [])
        if not isinstance(entries, list):
            raise InvalidSetting(f"{source}: caller: is written [[caller]], once for each")
        for number, entry in enumerate(entries, 1):
            where = f"{source}: caller {number}"
            caller = _caller(where, entry, ("name", "roles", "token_sha256", "certificate"))
            if ("token_sha256" in entry) == ("certificate" in entry):
                raise InvalidSetting(f"{where}: needs token_sha256 or certificate, one of the two")
            if "token_sha256" in entry:
                digest = _digest(where, entry["token_sha256"])
                twice = tokens.setdefault(digest, (digest, caller))[1] is not caller
            else:
                name = _certificate(where, entry["certificate"])
                twice = certificates.setdefault(name, caller) is not caller
            if twice:
                raise InvalidSetting(f"{where}: its token or certificate stands there twice")
        unix = document.get("unix")
        anonymous = None
        if unix is not None:
            anonymous = _caller(f"{source}: unix", {"name": "unix"} | unix if isinstance(unix, dict) else unix)
        if not tokens and not certificates and anonymous is None:
            raise InvalidSetting(f"{source}: names nobody, so that nobody could call")
        return cls(tokens, certificates, anonymous)

    def by_token(self, token: str) -> Caller | None:
        """Returns whose token it is, ``None`` for nobody's.

        How long it takes tells nothing of a token: what is looked for is its digest, which nobody can choose byte by
        byte, and what is found is compared whole.
        """
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known, caller = self.tokens.get(digest, (b"", None))
        return caller if hmac.compare_digest(known, digest) else None

    def by_certificate(self, names: Iterable[bytes]) -> Caller | None:
        """Returns whose certificate bears one of these names, ``None`` for nobody's."""
        for name in names:
            caller = self.certificates.get(name.decode(errors="replace"))
            if caller is not None:
                return caller
        return None


def new_token() -> str:
    """Returns a token of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def entry_for(token: str, name: str, roles: Iterable[Role]) -> str:
    """Returns the lines for the file that let the bearer of a token in.

    Args:
        token: from `new_token`.
        name: who it is for.
        roles: what it may do.
    """
    listed = ", ".join(f'"{role.value}"' for role in roles)
    digest = hashlib.sha256(token.encode()).hexdigest()
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'[[caller]]\nname = "{quoted}"\nroles = [{listed}]\ntoken_sha256 = "{digest}"\n'


def check_name(name: object) -> str:
    """Returns a caller's name.

    Raises:
        ValueError: it is empty, long, or has characters that no log line should have.
    """
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"is not a name of 1 to {_MAX_NAME} printable characters")
    return name


def _caller(where: str, entry: Any, keys: Iterable[str] = ("name", "roles")) -> Caller:
    if not isinstance(entry, dict):
        raise InvalidSetting(f"{where}: is not a table")
    _check_keys(where, entry, tuple(keys))
    try:
        name = check_name(entry.get("name"))
    except ValueError as error:
        raise InvalidSetting(f"{where}: name: {error}") from None
    known = {role.value: role for role in Role}
    roles = entry.get("roles")
    if not isinstance(roles, list) or not roles or not all(isinstance(role, str) for role in roles):
        raise InvalidSetting(f"{where}: roles: is a list of {', '.join(known)}")
    for role in roles:
        if role not in known:
            raise InvalidSetting(f"{where}: roles: {role!r} is none; there are {', '.join(known)}")
    return Caller(name, frozenset(known[role] for role in roles))


def _digest(where: str, text: object) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise InvalidSetting(f"{where}: token_sha256: is not 64 hexadecimal digits; `xai token` makes them")
    return bytes.fromhex(text)


def _certificate(where: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidSetting(f"{where}: certificate: is a name that it bears, such as spiffe://bank/audit")
    return name


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise InvalidSetting(f"{where}: {key} is not a known key; {hint}")
