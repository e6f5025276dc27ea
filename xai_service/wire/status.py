"""The one place where an error becomes a gRPC status. `google.rpc` details say which field, or when to try again."""

from __future__ import annotations

import logging

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from xai_service import errors

_log = logging.getLogger(__name__)

DOMAIN = "xai-service"

# Trailers beyond 8 KiB, gRPC's default, reach the caller as RESOURCE_EXHAUSTED instead of the error. The message
# travels twice: percent-encoded, three bytes for one at worst, and with the details in base64, four for three.
_MAX_MESSAGE_BYTES = 1024
_MAX_TEXT_BYTES = 512
_MAX_VIOLATIONS_BYTES = 2048
_ELLIPSIS = "…"

# The most derived class of an error that stands here decides. A test walks the hierarchy and asks each to be here.
CODES: dict[type[errors.XaiError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.ModelNotFound: code_pb2.NOT_FOUND,
    errors.DecisionNotFound: code_pb2.NOT_FOUND,
    errors.ModelError: code_pb2.FAILED_PRECONDITION,
    errors.InvalidModel: code_pb2.FAILED_PRECONDITION,
    errors.MissingCovers: code_pb2.FAILED_PRECONDITION,
    errors.BundleMismatch: code_pb2.FAILED_PRECONDITION,
    errors.UntrustedBundle: code_pb2.FAILED_PRECONDITION,
    errors.InvalidKey: code_pb2.FAILED_PRECONDITION,
    errors.InvalidSetting: code_pb2.FAILED_PRECONDITION,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Forbidden: code_pb2.PERMISSION_DENIED,
    errors.PackRefused: code_pb2.FAILED_PRECONDITION,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.BudgetExhausted: code_pb2.DEADLINE_EXCEEDED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.InternalError: code_pb2.INTERNAL,
    errors.XaiError: code_pb2.INTERNAL,
}


def to_status(error: Exception) -> grpc.Status:
    """Returns what to abort the call with: `to_message`, as gRPC has it."""
    return rpc_status.to_status(to_message(error))


def to_message(error: Exception) -> status_pb2.Status:
    """Returns what went wrong. An unexpected error is logged whole and told in one neutral line."""
    if not isinstance(error, errors.XaiError):
        _log.error("unexpected error", exc_info=error)
        error = errors.InternalError("an unexpected error; the server's log has it")
    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    details = [error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN)]
    if isinstance(error, errors.InvalidInput):
        bad_request = error_details_pb2.BadRequest()
        for v in error.violations:
            bad_request.field_violations.add(
                field=_cut(v.field, _MAX_TEXT_BYTES), description=_cut(v.description, _MAX_TEXT_BYTES)
            )
            if bad_request.ByteSize() > _MAX_VIOLATIONS_BYTES:
                del bad_request.field_violations[-1]
                break
        details.append(bad_request)
    if isinstance(error, errors.Overloaded):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code, message=_cut(str(error), _MAX_MESSAGE_BYTES))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str, limit: int) -> str:
    """Returns as much of ``text`` as takes ``limit`` bytes of UTF-8. What UTF-8 cannot hold becomes ``?``."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS
