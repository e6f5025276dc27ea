"""Who may call what: the table is whole, and the guard asks for every method of every kind."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from xai_service.access_file import Caller, Role
from xai_service.errors import Forbidden, InvalidSetting, Unauthenticated
from xai_service.wire.access import METHODS, Access, Guard, caller_of
from xai_service.wire.gen.xai.v1 import decision_service_pb2

FILE = """
[[caller]]
name = "desk"
roles = ["caller"]
token_sha256 = "{desk}"
[[caller]]
name = "audit"
roles = ["auditor"]
token_sha256 = "{audit}"
[[caller]]
name = "ops"
roles = ["operator"]
certificate = "spiffe://bank/ops"
""".format(**{name: hashlib.sha256(name.encode()).hexdigest() for name in ("desk", "audit")})


class Context:
    def __init__(self, *metadata, names=None, peer="ipv4:10.0.0.7:4321"):
        self._metadata, self._names, self._peer = metadata, names, peer

    def invocation_metadata(self):
        return self._metadata

    def peer_identities(self):
        return self._names

    def peer(self):
        return self._peer


def bearer(token):
    return Context(("user-agent", "x"), ("authorization", f"Bearer {token}"))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    "descriptor", [decision_service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
)
def test_every_method_that_is_served_is_in_the_table(descriptor):
    for service in descriptor.services_by_name.values():
        for method in service.methods:
            assert f"/{service.full_name}/{method.name}" in METHODS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", Role)
def test_a_role_may_what_the_table_says_and_nothing_else(path, method, role):
    access = Access(path)
    access.identify = lambda _: Caller("x", frozenset({role}))
    allowed = METHODS[method]
    if allowed is None or role in allowed:
        assert access.check(method, None).name == "x"
    else:
        with pytest.raises(Forbidden, match=f"'x' may not call {method.rpartition('/')[2]}: that takes the role"):
            access.check(method, None)


def test_the_table_keeps_roles_apart():
    service = "/xai.v1.DecisionService/"
    assert METHODS[service + "Predict"] == METHODS[service + "PredictStream"] == {Role.CALLER}
    assert METHODS[service + "GetDecision"] == {Role.AUDITOR}
    assert all(roles is None or roles < set(Role) for roles in METHODS.values())


def test_who_calls(path):
    access = Access(path)
    assert access.identify(bearer("desk")).name == "desk"
    assert access.identify(Context(("authorization", "bearer  audit "))).name == "audit"
    ops = Context(names=[b"localhost", b"spiffe://bank/ops"])
    assert access.identify(ops).name == "ops"
    both = Context(("authorization", "Bearer desk"), names=[b"spiffe://bank/ops"])
    assert access.identify(both).name == "desk"  # what was shown on purpose


@pytest.mark.parametrize(
    "context",
    [
        Context(),
        Context(peer="unix:"),
        bearer("nobody"),
        bearer(""),
        bearer("desk" * 10_000),
        Context(("authorization", "Basic desk")),
        Context(("authorization", "desk")),
        Context(("authorization", "Bearer desk"), ("authorization", "Bearer audit")),
        Context(("authorization", "Bearer nobody"), names=[b"spiffe://bank/ops"]),  # not the certificate's instead
        Context(("authorization-bin", b"Bearer desk")),
    ],
)
def test_who_is_not_known(path, context):
    with pytest.raises(Unauthenticated) as refused:
        Access(path).identify(context)
    assert "desk" not in str(refused.value)


def test_a_genuine_certificate_of_nobody_here(path):
    with pytest.raises(Forbidden, match=r"certificate of 'spiffe://bank/x' is valid"):
        Access(path).identify(Context(names=[b"localhost", b"spiffe://bank/x"]))


def test_a_socket_has_the_roles_that_the_file_gives_it(path):
    path.write_text(FILE + '[unix]\nroles = ["auditor"]\nname = "pod"')
    access = Access(path)
    assert access.identify(Context(peer="unix:")) == Caller("pod", frozenset({Role.AUDITOR}))
    with pytest.raises(Unauthenticated):
        access.identify(Context(peer="ipv4:127.0.0.1:1"))


def test_without_a_file_whoever_is_let_in_may_do_anything():
    access = Access(None)
    caller = access.identify(Context(names=[b"localhost", b"spiffe://bank/x"]))
    assert caller == Caller("spiffe://bank/x", frozenset(Role))
    assert access.identify(Context(peer="unix:")).roles == frozenset(Role)


def test_a_token_that_was_taken_back(path):
    access = Access(path)
    access._grants._every_s = access._grants._look_at = 0
    assert access.identify(bearer("desk")).name == "desk"
    path.write_text("[[caller")  # half-written: nobody is let in or shut out by it
    assert access.identify(bearer("desk")).name == "desk"
    path.write_text(FILE.split('[[caller]]\nname = "audit"')[0].replace('desk"', 'other"'))
    assert access.identify(bearer("desk")).name == "other"
    with pytest.raises(Unauthenticated):
        access.identify(bearer("audit"))


def test_a_bad_file_is_refused_at_the_start(tmp_path):
    with pytest.raises(InvalidSetting, match="cannot be read"):
        Access(tmp_path / "none")


def test_the_name_of_a_caller_that_nobody_named_is_its_address():
    assert caller_of(Context()) == "ipv4:10.0.0.7"
    assert caller_of(Context(peer="ipv6:[::1]:99")) == "ipv6:[::1]"
    assert caller_of(Context(peer="unix:")) == "unix"


class Echo(grpc.GenericRpcHandler):
    """Each kind of method, under names from the table; says who called."""

    def __init__(self):
        self.called = []
        self.handlers = {
            "/xai.v1.DecisionService/Predict": grpc.unary_unary_rpc_method_handler(self.one),
            "/xai.v1.DecisionService/GetDecision": grpc.unary_unary_rpc_method_handler(self.one),
            "/xai.v1.DecisionService/PredictStream": grpc.stream_stream_rpc_method_handler(self.many),
            "/inference.GRPCInferenceService/ModelInfer": grpc.stream_unary_rpc_method_handler(self.last),
            "/inference.GRPCInferenceService/ServerLive": grpc.unary_stream_rpc_method_handler(self.twice),
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(self.one),
            "/who.Knows/What": grpc.unary_unary_rpc_method_handler(self.one),
        }

    def service(self, details):
        return self.handlers.get(details.method)

    def _says(self, context):
        self.called.append(caller_of(context))
        return caller_of(context).encode()

    def one(self, _, context):
        return self._says(context)

    def many(self, requests, context):
        for _ in requests:
            yield self._says(context)

    def last(self, requests, context):
        return b"".join(requests) and self._says(context)

    def twice(self, _, context):
        yield self._says(context)
        yield self._says(context)


@pytest.fixture
def guarded(path):
    echo = Echo()
    server = grpc.server(ThreadPoolExecutor(4), handlers=(echo,), interceptors=(Guard(Access(path)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield echo, channel
    server.stop(None)


def ask(channel, method, token):
    """The answers, whatever the kind of the method."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    if method.endswith("PredictStream"):
        return list(channel.stream_stream(method)(iter([b"1", b"2"]), metadata=metadata, timeout=10))
    if method.endswith("ModelInfer"):
        return [channel.stream_unary(method)(iter([b"1", b"2"]), metadata=metadata, timeout=10)]
    if method.endswith("ServerLive"):
        return list(channel.unary_stream(method)(b"1", metadata=metadata, timeout=10))
    return [channel.unary_unary(method)(b"1", metadata=metadata, timeout=10)]


def test_the_guard_stands_before_every_kind_of_method(guarded):
    echo, channel = guarded
    for method in echo.handlers:
        allowed = METHODS.get(method, frozenset())
        for token, role in ((None, None), ("wrong", None), ("desk", Role.CALLER), ("audit", Role.AUDITOR)):
            echo.called.clear()
            if allowed is None:
                assert ask(channel, method, token)[0].startswith(b"ipv4:127.0.0.1")
            elif role in allowed:
                assert set(ask(channel, method, token)) == {token.encode()}
                assert set(echo.called) == {token}
            else:
                with pytest.raises(grpc.RpcError) as refused:
                    ask(channel, method, token)
                code = grpc.StatusCode.PERMISSION_DENIED if role else grpc.StatusCode.UNAUTHENTICATED
                assert refused.value.code() is code, (method, token)
                assert echo.called == []
                info = error_details_pb2.ErrorInfo()
                assert rpc_status.from_call(refused.value).details[0].Unpack(info)
                assert info.reason == ("Forbidden" if role else "Unauthenticated")


def test_a_method_that_does_not_exist_is_told_as_ever(guarded):
    with pytest.raises(grpc.RpcError) as refused:
        ask(guarded[1], "/xai.v1.DecisionService/Nothing", "desk")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
