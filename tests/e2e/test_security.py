"""Who gets in: certificates right, wrong, expired, missing, exchanged under way; tokens and roles; permissions."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys

import grpc
import pytest

from tests.certificates import Authority
from tests.conftest import serving
from tests.e2e.processes import check, started
from xai_service.access_file import Role, entry_for, new_token
from xai_service.client import AsyncClient, Client, RequestFailed
from xai_service.wire import server as server_module

AUTHORITY = Authority()
TOKENS = {role: new_token() for role in Role}


@pytest.fixture
def tls(tmp_path):
    """The settings of a server with TLS."""
    certificate, key = AUTHORITY.issue().write(tmp_path, "server")
    return {"tls_certificate": certificate, "tls_key": key}


@pytest.fixture
def mutual(tls, tmp_path):
    (tmp_path / "clients.crt").write_bytes(AUTHORITY.pem)
    return tls | {"tls_client_ca": tmp_path / "clients.crt"}


@pytest.fixture
def access(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text(
        "".join(entry_for(token, f"the {role.value}", [role]) for role, token in TOKENS.items())
        + '[[caller]]\nname = "desk"\nroles = ["caller"]\ncertificate = "spiffe://bank/desk"\n'
        + '[unix]\nroles = ["caller"]\n'
    )
    return path


@pytest.fixture
def look_at_once(monkeypatch):
    """Files are looked at whenever they are asked for, so that no test has to wait a second."""
    real = server_module.Access.__init__.__globals__["Followed"].__init__

    def at_once(self, *arguments, **named):
        real(self, *arguments, **(named | {"every_s": 0}))

    monkeypatch.setattr("xai_service.followed.Followed.__init__", at_once)


def shows(pair):
    return {"certificate": pair.certificate, "key": pair.key}


def refused(client, call=Client.models, *arguments):
    with client, pytest.raises(RequestFailed) as failed:
        call(client, *arguments)
    return failed.value


def test_tls(loans, loan_repository, tmp_path, tls):
    with serving(loan_repository, tmp_path / "l", listen=("127.0.0.1:0", f"unix:{tmp_path}/s"), **tls) as server:
        address, unix = server.addresses
        with Client(address, root_certificates=AUTHORITY.pem) as client:
            assert client.predict(loans.held_out.iloc[:1], "loan").decision_ids
        with Client(unix, root_certificates=AUTHORITY.pem) as client:  # whose permissions say who may
            assert client.models()
        assert refused(Client(address, timeout_s=2)).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")  # plaintext
        stranger = refused(Client(address, root_certificates=Authority("another").pem, timeout_s=5))
        assert stranger.code == "UNAVAILABLE"

        async def ask():
            async with AsyncClient(address, root_certificates=AUTHORITY.pem) as client:
                return await client.models()

        assert asyncio.run(ask())


@pytest.mark.parametrize("access_file", [False, True])
def test_client_certificates(loan_repository, loans, tmp_path, mutual, access, access_file):
    settings = mutual | ({"access": access} if access_file else {})
    row = loans.held_out.iloc[:1]
    with serving(loan_repository, tmp_path / "l", **settings) as server:
        address = server.addresses[0]

        def client(**shown):
            return Client(address, root_certificates=AUTHORITY.pem, timeout_s=5, **shown)

        with client(**shows(AUTHORITY.issue("desk", uri="spiffe://bank/desk"))) as desk:
            assert desk.predict(row, "loan").decision_ids
        for wrong in (
            {},  # none at all
            shows(Authority("test authority").issue("desk", uri="spiffe://bank/desk")),  # another of the same name
            shows(AUTHORITY.issue("desk", uri="spiffe://bank/desk", valid_days=(-9, -1))),  # expired
            shows(AUTHORITY.issue("desk", uri="spiffe://bank/desk", valid_days=(1, 9))),  # not yet
        ):
            for _ in range(3):
                assert refused(client(**wrong)).code == "UNAVAILABLE"
        other = client(**shows(AUTHORITY.issue("other", san=False)))  # genuine, and nobody in the file
        if access_file:
            assert refused(other).code == "PERMISSION_DENIED"
        else:
            with other:
                assert other.models()
        with client(**shows(AUTHORITY.issue("desk", uri="spiffe://bank/desk"))) as desk:
            assert desk.models()


def test_an_exchange_under_way(loan_repository, loans, tmp_path, tls, look_at_once, caplog):  # noqa: ARG001
    row = loans.held_out.iloc[:1]

    def shown(address):
        """Whose certificate new connections see."""
        for name, authority in (("old", AUTHORITY), ("new", new)):
            with Client(address, root_certificates=authority.pem, timeout_s=5) as client:
                try:
                    client.models()
                except RequestFailed:
                    continue
                return name
        return None

    new = Authority("the new one")
    with serving(loan_repository, tmp_path / "l", **tls) as server:
        address = server.addresses[0]
        with Client(address, root_certificates=AUTHORITY.pem) as old:
            old.models()
            pair = new.issue()
            tls["tls_certificate"].write_bytes(pair.certificate)  # half of it is there
            assert shown(address) == "old"
            assert "is not the key of the certificate" in caplog.text
            tls["tls_key"].write_bytes(pair.key)
            assert shown(address) == "new"
            # Connections from before go on.
            assert old.predict(row, "loan").decision_ids
            tls["tls_key"].write_bytes(b"nonsense")
            tls["tls_certificate"].unlink()
            assert shown(address) == "new"
            assert old.predict(row, "loan").decision_ids


def test_roles(loan_repository, loans, tmp_path, access, look_at_once):  # noqa: ARG001
    row = loans.held_out.iloc[:1]
    with serving(loan_repository, tmp_path / "l", access=access) as server:
        address = server.addresses[0]
        with Client(address, token=TOKENS[Role.CALLER]) as caller:
            decision_id = caller.predict(row, "loan").decision_ids[0]
            assert caller.explanation(decision_id).attributions is not None
            assert caller.models()
        with Client(address, token=TOKENS[Role.AUDITOR]) as auditor:
            assert auditor.decision(decision_id).decision_id == decision_id
        with Client(address, token=TOKENS[Role.OPERATOR]) as operator:
            assert operator.models()
        for role, call, *arguments in (
            (Role.CALLER, Client.decision, decision_id),
            (Role.AUDITOR, Client.predict, row, "loan"),
            (Role.AUDITOR, Client.models),
            (Role.OPERATOR, Client.predict, row, "loan"),
            (Role.OPERATOR, Client.decision, decision_id),
            (Role.OPERATOR, Client.explanation, decision_id),
        ):
            failed = refused(Client(address, token=TOKENS[role]), call, *arguments)
            assert failed.code == "PERMISSION_DENIED"
            assert f"'the {role.value}' may not call" in failed.message
        for client in (Client(address), Client(address, token="xai_wrong")):  # noqa: S106
            assert refused(client, Client.predict, row, "loan").code == "UNAUTHENTICATED"
        assert check(address) == 1  # health is for anyone
        # Taken back, and in force without a restart.
        access.write_text(entry_for(TOKENS[Role.AUDITOR], "the auditor", [Role.AUDITOR]))
        assert refused(Client(address, token=TOKENS[Role.CALLER])).code == "UNAUTHENTICATED"

        async def ask():
            async with AsyncClient(address, token=TOKENS[Role.AUDITOR]) as client:
                return await client.decision(decision_id)

        assert asyncio.run(ask()).decision_id == decision_id
    assert server._service._ledger._closing


def test_the_service_knows_who_calls(loan_repository, loans, tmp_path, access, monkeypatch):
    seen = []

    def watch(server):
        real = server._service.begin
        see = lambda calls: seen.extend(call.arrival.caller for call in calls) or real(calls)  # noqa: E731
        monkeypatch.setattr(server._service, "begin", see)

    with serving(loan_repository, tmp_path / "l", access=access) as server:
        watch(server)
        with Client(server.addresses[0], token=TOKENS[Role.CALLER]) as client:
            client.predict(loans.held_out.iloc[:1], "loan")
    with serving(loan_repository, tmp_path / "l") as server:
        watch(server)
        with Client(server.addresses[0]) as client:
            client.predict(loans.held_out.iloc[:1], "loan")
    assert seen == ["the caller", "ipv4:127.0.0.1"]


def test_a_refused_request_records_nothing(loan_repository, loans, tmp_path, access):
    with serving(loan_repository, tmp_path / "l", access=access) as server:
        refused(Client(server.addresses[0]), Client.predict, loans.held_out.iloc[:1], "loan")
        assert server._service._ledger.count() == 0


def test_a_socket_has_roles_and_permissions(loan_repository, loans, tmp_path, access):
    settings = {"listen": (f"unix:{tmp_path}/s", "127.0.0.1:0"), "unix_mode": "600", "access": access}
    with serving(loan_repository, tmp_path / "l", **settings) as server:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        with Client(server.addresses[0]) as client:
            decision_id = client.predict(loans.held_out.iloc[:1], "loan").decision_ids[0]
        assert refused(Client(server.addresses[0]), Client.decision, decision_id).code == "PERMISSION_DENIED"
        assert refused(Client(server.addresses[1])).code == "UNAUTHENTICATED"
        with Client(server.addresses[0], token=TOKENS[Role.AUDITOR]) as auditor:
            assert auditor.decision(decision_id)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("reflection", [True, False])
def test_reflection_is_a_setting(loan_repository, tmp_path, reflection):
    with (
        serving(loan_repository, tmp_path / "l", reflection=reflection) as server,
        grpc.insecure_channel(server.addresses[0]) as channel,
    ):
        method = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        stream = method(iter([b""]), timeout=10)
        if reflection:
            assert next(stream) is not None
            stream.cancel()
        else:
            with pytest.raises(grpc.RpcError) as unknown:
                next(stream)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_files_that_cannot_be_used_are_said_at_the_start(loan_repository, tmp_path, tls):
    tls["tls_key"].unlink()
    flags = ["--tls-certificate", tls["tls_certificate"], "--tls-key", tls["tls_key"]]
    with started("--repository", loan_repository, "--ledger", tmp_path / "l", *flags) as process:
        assert process.ended() == 1
        assert process.log.splitlines()[-1] == f"error: {tls['tls_key']} cannot be read: No such file or directory"
        assert process.popen.stdout.read() == ""


@pytest.mark.parametrize(
    ("listen", "settings", "said"),
    [
        ("0.0.0.0:0", {}, "is open unencrypted beyond this machine"),
        ("0.0.0.0:0", {"tls"}, "is open to anyone beyond this machine"),
        ("0.0.0.0:0", {"access"}, "is open unencrypted beyond this machine"),
        ("0.0.0.0:0", {"tls", "access"}, None),
        ("127.0.0.1:0", {}, None),
    ],
)
def test_what_is_open_is_warned_of(loan_repository, tmp_path, tls, access, caplog, listen, settings, said):
    given = (tls if "tls" in settings else {}) | ({"access": access} if "access" in settings else {})
    with serving(loan_repository, tmp_path / "l", listen=(listen,), **given):
        assert (said in caplog.text) if said else ("beyond this machine" not in caplog.text)


def test_the_command_line(loan_repository, tmp_path, mutual, access):
    pair = AUTHORITY.issue("desk", uri="spiffe://bank/desk").write(tmp_path, "desk")

    def xai(*options, **environment):
        command = [sys.executable, "-m", "xai_service.cli", "models", "--json", *map(str, options)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    with serving(loan_repository, tmp_path / "l", access=access, **mutual) as server:
        shown = ("--ca", mutual["tls_client_ca"], "--cert", pair[0], "--key", pair[1])
        done = xai("--target", server.addresses[0], *shown)
        assert json.loads(done.stdout)["model"] == "loan"
        done = xai("--target", server.addresses[0], *shown, XAI_TOKEN="xai_wrong")  # noqa: S106
        assert (done.returncode, done.stderr.startswith("error: UNAUTHENTICATED: the token is nobody's")) == (1, True)
        done = xai("--target", server.addresses[0], *shown, XAI_TOKEN=TOKENS[Role.OPERATOR])
        assert done.returncode == 0
        done = xai("--cert", pair[0])
        assert (done.returncode, "go together" in done.stderr) == (2, True)
