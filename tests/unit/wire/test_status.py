"""Each error reaches the caller as its code, with its details, whatever its text holds."""

from __future__ import annotations

import base64
import importlib
import pkgutil
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

import xai_service
from xai_service.errors import FieldViolation, InternalError, InvalidInput, Overloaded, Unavailable, XaiError
from xai_service.wire.status import CODES, DOMAIN, to_status

GRPC_DEFAULT_METADATA_LIMIT = 8192


def hierarchy(kind=XaiError):
    yield kind
    for derived in kind.__subclasses__():
        yield from hierarchy(derived)


def load_every_module():
    for module in pkgutil.walk_packages(xai_service.__path__, "xai_service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def make(kind, text="what was wrong"):
    return kind(FieldViolation("input", text)) if issubclass(kind, InvalidInput) else kind(text)


def test_every_error_of_the_package_stands_in_the_table():
    load_every_module()
    ours = {kind for kind in hierarchy() if kind.__module__.startswith("xai_service.")}
    elsewhere = {kind for kind in ours if kind not in CODES}
    # The demo is a caller, with errors of its own; were one raised in the service, it would still be an error.
    assert {kind.__module__.split(".")[1] for kind in elsewhere} <= {"demo"}
    assert all(to_status(make(kind)).code is grpc.StatusCode.INTERNAL for kind in elsewhere)
    assert ours - elsewhere == set(CODES)
    for kind in CODES:
        # A kind of error may tell more than its parent does, never something else, but for the root's catch-all.
        code = to_status(make(kind)).code.value[0]
        assert code == CODES[kind]
        assert code != code_pb2.OK
        (parent,) = kind.__bases__
        assert parent in {XaiError, Exception} or code == CODES[parent]


def test_an_error_derived_elsewhere_maps_as_its_parent():
    class Unlisted(Unavailable):
        pass

    status = to_status(Unlisted("later"))
    assert status.code is grpc.StatusCode.UNAVAILABLE
    assert status.details == "later"


class Raiser(grpc.GenericRpcHandler):
    """A server whose only method fails with ``error``."""

    error: Exception

    def service(self, _details):
        def fail(_request, context):
            context.abort_with_status(to_status(self.error))

        return grpc.unary_unary_rpc_method_handler(fail)


@pytest.fixture(scope="module")
def raised():
    """Sends an error through a real server and returns what the caller catches."""
    handler, server = Raiser(), grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:

        def send(error):
            handler.error = error
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/any/Method")(b"", timeout=30)
            return caught.value

        yield send
    server.stop(None).wait()


def details(error):
    """The details of a caught error by their type, and the size of its trailers as HTTP/2 counts it."""
    status = rpc_status.from_call(error)
    assert status.code == error.code().value[0]
    found = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    assert len(found) == len(status.details)
    size = 32 + len("grpc-message") + len(urllib.parse.quote(error.details(), safe=" "))
    for key, value in error.trailing_metadata():
        size += 32 + len(key) + (len(base64.b64encode(value)) if key.endswith("-bin") else len(value))
    return found, size


@pytest.mark.parametrize("kind", sorted(CODES, key=lambda kind: kind.__name__))
def test_every_error_reaches_the_caller(raised, kind):
    error = raised(make(kind))
    assert error.code().value[0] == CODES[kind]
    assert "what was wrong" in error.details()
    info = details(error)[0][error_details_pb2.ErrorInfo]
    assert (info.reason, info.domain) == (kind.__name__, DOMAIN)


def test_violations_and_retry_delays_arrive(raised):
    violations = [FieldViolation(f"input[:, {i}]", f"feature 'Größe {i}' is missing") for i in range(5)]
    error = raised(InvalidInput(*violations))
    found = details(error)[0][error_details_pb2.BadRequest]
    assert [(v.field, v.description) for v in found.field_violations] == [(v.field, v.description) for v in violations]
    assert error.details() == str(InvalidInput(*violations))
    found = details(raised(Overloaded("full", retry_after_s=1.25)))[0]
    assert found[error_details_pb2.RetryInfo].retry_delay.ToNanoseconds() == 1_250_000_000


NASTY = ["x", "é", "日本", "\0", "%", "\n", "\U0001f600", "\ud800", '"', "\x7f"]


@pytest.mark.parametrize("character", NASTY, ids=ascii)
@pytest.mark.parametrize("length", [1, 600, 100_000])
def test_no_text_is_too_long_or_too_strange_to_arrive(raised, character, length):
    text = character * length
    for error in (
        InvalidInput(*[FieldViolation(text, text)] * 20),
        InvalidInput(*[FieldViolation(f"input[:, {i}]", text) for i in range(10_000)]),
        Unavailable(text),
    ):
        caught = raised(error)
        assert caught.code().value[0] == CODES[type(error)]
        found, size = details(caught)
        assert size < GRPC_DEFAULT_METADATA_LIMIT - 512  # the rest is for gRPC's own headers
        if isinstance(error, InvalidInput):
            assert found[error_details_pb2.BadRequest].field_violations  # at least one is told
        if length == 100_000:
            assert caught.details().endswith("…")


@given(st.lists(st.tuples(st.text(), st.text()), max_size=20), st.text())
def test_any_text_makes_a_status(fields, text):
    violations = [FieldViolation(*field) for field in fields]
    for error in (InvalidInput(*violations), Overloaded(text)):
        status = to_status(error)
        assert status.code.value[0] == CODES[type(error)]
        if len(str(error).encode(errors="replace")) <= 1024:
            assert status.details == str(error).encode(errors="replace").decode()
        else:
            assert str(error).startswith(status.details[:-1])
            assert 1020 < len(status.details.encode()) <= 1024


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret"), OSError(2, "secret"), MemoryError(), KeyError("secret")]
)
def test_an_unexpected_error_tells_nothing_internal(raised, caplog, error):
    caught = raised(error)
    assert caught.code() is grpc.StatusCode.INTERNAL
    found, _ = details(caught)
    assert found.keys() == {error_details_pb2.ErrorInfo}
    assert found[error_details_pb2.ErrorInfo].reason == InternalError.__name__
    told = caught.details() + str(caught.trailing_metadata())
    assert "secret" not in told
    assert type(error).__name__ not in told
    assert type(error).__name__ in caplog.text  # but the log has it
