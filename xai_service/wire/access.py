"""Who calls, and whether it may: before any handler, for every method of every service, and for none where it is open.

One table says which roles may call what; a method that is not in it is nobody's. Where neither an access file nor a
client CA is configured nothing of this is installed, and a call costs nothing more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from xai_service.access_file import Caller, Grants, Role
from xai_service.errors import Forbidden, Unauthenticated, XaiError
from xai_service.followed import Followed
from xai_service.wire.status import to_status

_ANYONE = None
_CALLER, _AUDITOR, _OPERATOR = Role.CALLER, Role.AUDITOR, Role.OPERATOR

# Callers read what they need to ask: which models there are, and the explanation of a decision whose id they were given
# where it was not ready with the reply. The decision itself, with its input, is for auditors.
METHODS: Mapping[str, frozenset[Role] | None] = {
    "/xai.v1.DecisionService/Predict": frozenset({_CALLER}),
    "/xai.v1.DecisionService/PredictStream": frozenset({_CALLER}),
    "/xai.v1.DecisionService/GetDecision": frozenset({_AUDITOR}),
    "/xai.v1.DecisionService/GetExplanation": frozenset({_CALLER, _AUDITOR}),
    "/xai.v1.DecisionService/ListModels": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ServerLive": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ServerReady": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ModelReady": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ServerMetadata": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ModelMetadata": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ModelConfig": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ModelInfer": frozenset({_CALLER}),
    "/inference.GRPCInferenceService/ModelStreamInfer": frozenset({_CALLER}),
    "/inference.GRPCInferenceService/RepositoryIndex": frozenset({_CALLER, _OPERATOR}),
    "/inference.GRPCInferenceService/ModelStatistics": frozenset({_OPERATOR}),
    "/grpc.health.v1.Health/Check": _ANYONE,
    "/grpc.health.v1.Health/List": _ANYONE,
    "/grpc.health.v1.Health/Watch": _ANYONE,
    # Whether there is any reflection is a setting.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANYONE,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _ANYONE,
}
_NOBODY: frozenset[Role] = frozenset()
_KEY, _SCHEME = "authorization", "bearer "
_ATTRIBUTE = "xai_caller"


def caller_of(context: Any) -> str:
    """Returns who makes this call, for fair shares: its name where it is known, else the address that it comes from."""
    caller = getattr(context, _ATTRIBUTE, None)
    if caller is not None:
        return str(caller.name)
    peer = str(context.peer())
    return peer.rpartition(":")[0] or peer  # without the port, which each connection has its own of


class Access:
    """Who may call what.

    Args:
        grants: the access file; ``None`` lets whoever reached the service do anything, under its certificate's name.

    Raises:
        InvalidSetting: the file cannot be read, or says something that is not understood.
    """

    def __init__(self, grants: Path | None) -> None:
        self._grants = (
            None
            if grants is None
            else Followed("access", (grants,), lambda contents: Grants.parse(contents[0], str(grants)))
        )

    def identify(self, context: Any) -> Caller:
        """Returns who makes a call.

        A token decides before a certificate, and that before the socket: what was shown on purpose is meant.

        Raises:
            Unauthenticated: nothing was shown that is known.
            Forbidden: a certificate that is genuine, and names nobody in the file.
        """
        grants = None if self._grants is None else self._grants.current()
        names = context.peer_identities()
        if grants is None:
            return Caller(_shown(names) if names else "", frozenset(Role))
        token = _token(context.invocation_metadata())
        if token is not None:
            caller = grants.by_token(token)
            if caller is None:
                raise Unauthenticated("the token is nobody's: it was mistyped, replaced or taken back")
            return caller
        if names:
            caller = grants.by_certificate(names)
            if caller is None:
                raise Forbidden(f"the certificate of {_shown(names)!r} is valid, and has no role in this service")
            return caller
        if grants.unix is not None and context.peer().startswith("unix:"):
            return grants.unix
        raise Unauthenticated(
            "say who calls: send the metadata `authorization: Bearer TOKEN`, or use a client certificate"
        )

    def check(self, method: str, context: Any) -> Caller:
        """Returns who makes a call, if it may.

        Args:
            method: its full name, ``/package.Service/Method``.
            context: gRPC's.

        Raises:
            Unauthenticated, Forbidden: it may not.
        """
        caller = self.identify(context)
        allowed = METHODS.get(method, _NOBODY)
        if allowed is not None and caller.roles.isdisjoint(allowed):
            needed = " or ".join(sorted(role.value for role in allowed)) or "no role there is"
            raise Forbidden(f"{caller.name!r} may not call {method.rpartition('/')[2]}: that takes the role {needed}")
        return caller


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]  # no types there
    """Asks `Access` before each handler. It wraps each once, so that a call costs no more than the question."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._wrapped: dict[tuple[str, int], tuple[Any, Any]] = {}  # holds the handler, so that its id stays its own

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Returns the handler of a call, guarded."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or METHODS.get(method, _NOBODY) is None:
            return handler
        key = method, id(handler)  # of a method and of its refusal, which may take turns
        known = self._wrapped.get(key)
        if known is None:
            known = self._wrapped[key] = (handler, self._guarded(method, handler))
        return known[1]

    def _guarded(self, method: str, handler: Any) -> Any:
        access = self._access
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streaming else "unary" for streaming in sides)
        behaviour = getattr(handler, kind)

        @functools.wraps(behaviour)  # gRPC reads from it whether the method has threads of its own
        def guarded(request: Any, context: Any, *send: Any) -> Any:
            try:
                caller = access.check(method, context)
            except XaiError as error:
                context.abort_with_status(to_status(error))
            setattr(context, _ATTRIBUTE, caller)
            return behaviour(request, context, *send)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(guarded, handler.request_deserializer, handler.response_serializer)


def _token(metadata: Any) -> str | None:
    found = None
    for key, value in metadata:
        if key == _KEY:
            if found is not None or not value[: len(_SCHEME)].lower() == _SCHEME:
                raise Unauthenticated("the metadata `authorization` is not, once, `Bearer TOKEN`")
            found = value[len(_SCHEME) :].strip()
    return found


def _shown(names: Any) -> str:
    """The name that says most: a URI, such as SPIFFE's, where the certificate has one."""
    texts: list[str] = [name.decode(errors="replace") for name in names]
    return next((text for text in texts if "://" in text), texts[0])
