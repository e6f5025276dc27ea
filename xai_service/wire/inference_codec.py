"""ModelInfer of the Open Inference Protocol to plain values and back. Nothing is decided here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from xai_service.errors import FieldViolation, InvalidInput, Unavailable
from xai_service.types import (
    HERE,
    LOWEST_PRIORITY,
    Arrival,
    Column,
    ExplanationMode,
    Explanations,
    ExplanationStatus,
    PredictCall,
)
from xai_service.wire.gen.inference import grpc_service_pb2 as pb
from xai_service.wire.inference_models import DECISION_ID, EXPLANATION_STATUS, MATRIX, TREESHAP, InferenceSignature
from xai_service.wire.inference_tensors import read_numbers, read_strings, to_bytes_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xai_service.types import Float32Array
    from xai_service.waves import PredictReply

_MODES = {mode.value.replace(" ", "_"): mode for mode in ExplanationMode}
_MAX_INPUTS = 1 << 20  # as many as a model may have features
_MAX_OUTPUTS = 64  # more than there are
_SHOWN = 40
_MIXED = "mixed"
# A UUID's text as an element of BYTES, and where its digits stand in it.
_ID = np.frombuffer(to_bytes_blob([b"********-****-****-****-************"]), np.uint8)
_DIGITS = np.flatnonzero(np.equal(_ID, ord("*")))
_MANY_IDS = 8  # from here on arrays are faster


@dataclass(frozen=True, slots=True)
class InferCall:
    """One decoded request: what to ask the service, and which outputs to answer with."""

    predict: PredictCall
    outputs: tuple[str, ...]


def decode_infer(request: Any, signature: InferenceSignature, arrival: Arrival = HERE) -> InferCall:
    """Returns the call that a request holds.

    Args:
        request: a `ModelInferRequest`, untrusted.
        signature: of the model that it names.
        arrival: how it came.

    Raises:
        InvalidInput: inputs that are not a matrix or columns of the types and sizes they claim, outputs that the model
            does not have, or parameters with no such value.
    """
    outputs = _outputs(request, signature)
    options = _Options.of(request.parameters) if request.parameters else _NO_OPTIONS
    mode = options.mode
    if mode is None:
        mode = ExplanationMode.COMPLETE_OR_DEFERRED if TREESHAP in outputs else ExplanationMode.NONE
    rows, columns = _inputs(request, signature, options.missing)
    call = PredictCall(
        model_name=request.model_name,
        model_version=request.model_version or None,
        rows=rows,
        columns=columns,
        latency_budget_ms=options.latency_budget_ms,
        mode=mode,
        priority=options.priority,
        arrival=arrival,
    )
    return InferCall(call, outputs)


def in_their_terms(error: InvalidInput) -> InvalidInput:
    """Returns the error as callers of this protocol know their fields: what `xai.v1` calls columns are inputs here."""
    return InvalidInput(
        *(
            FieldViolation(f"inputs{one.field.removeprefix('columns')}", one.description)
            if one.field.startswith("columns")
            else one
            for one in error.violations
        )
    )


def _inputs(
    request: Any, signature: InferenceSignature, missing: bytes | None
) -> tuple[Float32Array, tuple[Column, ...]]:
    inputs, raw = request.inputs, request.raw_input_contents
    n = len(inputs)
    if not 0 < n <= _MAX_INPUTS:
        due = "one for each feature, by name" if signature.takes_strings else f"`{MATRIX}`, FP32 [rows, features]"
        _refuse("inputs", f"{n} were sent; due is {due}")
    if raw:
        if len(raw) != n:
            _refuse("raw_input_contents", f"holds {len(raw)} blobs for {n} inputs; send one for each, or none")
        for i, one in enumerate(inputs):
            if one.HasField("contents"):
                _refuse(f"inputs[{i}].contents", "was sent beside raw_input_contents; send one of the two")
    first = inputs[0]
    if n == 1 and not signature.takes_strings and first.name == MATRIX:
        _check_plain(first, 0)
        rows = read_numbers(first, raw[0] if raw else None, "inputs[0]")
        if rows.ndim != 2:
            _refuse("inputs[0].shape", f"{list(rows.shape)} was sent, two dimensions are due: [rows, features]")
        return rows, ()
    columns = tuple(_column(one, raw[i] if raw else None, i, missing) for i, one in enumerate(inputs))
    sizes = [len(column.values) for column in columns]
    if len(set(sizes)) > 1:
        i = next(i for i, size in enumerate(sizes) if size != sizes[0])
        _refuse(f"inputs[{i}].shape", f"{sizes[i]} rows were sent, and {sizes[0]} in inputs[0]")
    return np.empty((sizes[0], 0), np.float32), columns


def _column(tensor: Any, raw: bytes | None, i: int, missing: bytes | None) -> Column:
    field = f"inputs[{i}]"
    _check_plain(tensor, i)
    if len(tensor.shape) > 2 or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
        what = f"an input named {tensor.name[:_SHOWN]!r} is one feature's: [rows] or [rows, 1]"
        _refuse(
            f"{field}.shape", f"{list(tensor.shape[:3])} was sent; {what}. All of them at once are named {MATRIX!r}"
        )
    if tensor.datatype == "BYTES":
        return Column(tensor.name, read_strings(tensor, raw, field, missing))
    return Column(tensor.name, read_numbers(tensor, raw, field).reshape(-1))


def _check_plain(tensor: Any, i: int) -> None:
    if tensor.parameters:
        _refuse_shared_memory(tensor.parameters, f"inputs[{i}]")


def _refuse_shared_memory(parameters: Any, field: str) -> None:
    if any(name.startswith("shared_memory") for name in parameters):
        _refuse(f"{field}.parameters", "shared memory is not supported; send the tensor's contents")


def _outputs(request: Any, signature: InferenceSignature) -> tuple[str, ...]:
    asked = request.outputs
    if not asked:
        return signature.default
    if len(asked) > _MAX_OUTPUTS:
        _refuse("outputs", f"{len(asked)} were asked for, at most {_MAX_OUTPUTS} are answered")
    names = []
    for i, one in enumerate(asked):
        name = one.name
        if name not in signature.outputs:
            there = ", ".join(signature.outputs)
            _refuse(f"outputs[{i}].name", f"the model has no output {name[:_SHOWN]!r}; it has {there}")
        if name in names:
            _refuse(f"outputs[{i}].name", f"{name!r} was asked for twice")
        if one.parameters:
            _refuse_shared_memory(one.parameters, f"outputs[{i}]")
            if "classification" in one.parameters:
                _refuse(f"outputs[{i}].parameters", "classification is not supported; ask for `label`")
        names.append(name)
    return tuple(names)


@dataclass(frozen=True, slots=True)
class _Options:
    """What a request's parameters say."""

    mode: ExplanationMode | None = None
    latency_budget_ms: float | None = None
    priority: int = 0
    missing: bytes | None = None

    @classmethod
    def of(cls, parameters: Any) -> _Options:
        sent = {name: parameters[name] for name in _PARAMETERS if name in parameters}
        sequence = sent.get("sequence_id")
        if sequence is not None and (sequence.int64_param or sequence.string_param or sequence.uint64_param):
            _refuse("parameters[sequence_id]", "models keep no state between requests; leave it out")
        budget_ms = _number(sent, "latency_budget_ms")
        timeout_us = _number(sent, "timeout")
        if budget_ms is None and timeout_us:  # 0 is Triton's way to say none
            budget_ms = timeout_us / 1e3
            if not budget_ms > 0:
                _refuse("parameters[timeout]", f"{timeout_us:g} is no number of microseconds")
        # Triton's: 1 is the first to be served, 0 the default. Ours: 0 is both, and 9 the last.
        priority = _number(sent, "priority") or 0.0
        if not (priority >= 0 and priority.is_integer()):
            _refuse(
                "parameters[priority]", f"{priority:g} is no priority: a whole number, 1 the highest, 0 the default"
            )
        missing = _text(sent, "missing_string")
        return cls(
            mode=_mode(sent),
            latency_budget_ms=budget_ms,
            priority=int(min(max(priority - 1, 0), LOWEST_PRIORITY)),
            missing=None if missing is None else missing.encode(),
        )


_NO_OPTIONS = _Options()
_PARAMETERS = ("latency_budget_ms", "timeout", "priority", "explanation_mode", "missing_string", "sequence_id")


def _mode(sent: dict[str, Any]) -> ExplanationMode | None:
    text = _text(sent, "explanation_mode")
    if text is None:
        return None
    if text not in _MODES:
        _refuse("parameters[explanation_mode]", f"{text[:_SHOWN]!r} is none of {', '.join(_MODES)}")
    return _MODES[text]


def _text(sent: dict[str, Any], name: str) -> str | None:
    if name not in sent:
        return None
    if sent[name].WhichOneof("parameter_choice") != "string_param":
        _refuse(f"parameters[{name}]", "is not a string")
    text: str = sent[name].string_param
    return text


def _number(sent: dict[str, Any], name: str) -> float | None:
    if name not in sent:
        return None
    kind = sent[name].WhichOneof("parameter_choice")
    value = getattr(sent[name], kind) if kind is not None and kind != "bool_param" else "no number"
    try:
        return float(value)
    except ValueError:
        _refuse(f"parameters[{name}]", f"{str(value)[:_SHOWN]!r} is not a number")


def encode_infer(
    reply: PredictReply, outputs: tuple[str, ...], request_id: str, signature: InferenceSignature
) -> bytes:
    """Returns the serialized `ModelInferResponse` to one request.

    Args:
        reply: the service's.
        outputs: what to answer with, in this order.
        request_id: echoed.
        signature: of the reply's model.

    Raises:
        Unavailable: the model was replaced by one without such an output while the request was under way.
    """
    explanations, manifest = reply.explanations, reply.model.manifest
    if not signature.outputs.keys() >= set(outputs):
        raise Unavailable(
            f"model {manifest.name!r} was replaced while the request was under way, by one without such outputs: the "
            "request was recorded and cannot be answered as asked"
        )
    message = pb.ModelInferResponse(id=request_id, raw_output_contents=[_BLOBS[name](reply) for name in outputs])
    status = _status(explanations)
    if explanations.detail and status is not ExplanationStatus.NOT_REQUESTED:
        message.parameters["explanation_detail"].string_param = explanations.detail
    said = status.value if status is not None else _MIXED
    # Messages that are joined are merged, so that what many responses share is encoded once.
    head = _head(signature, manifest.name, manifest.version, outputs, len(reply.decision_ids), said)
    body: bytes = message.SerializeToString()
    return head + body


@lru_cache(maxsize=1024)
def _head(
    signature: InferenceSignature, name: str, version: str, outputs: tuple[str, ...], rows: int, status: str
) -> bytes:
    message = pb.ModelInferResponse(model_name=name, model_version=version)
    message.parameters[EXPLANATION_STATUS].string_param = status
    for output in outputs:
        spec = signature.outputs[output]
        message.outputs.add(name=output, datatype=spec.datatype, shape=(rows, *spec.row_shape))
    data: bytes = message.SerializeToString()
    return data


def _status(explanations: Explanations) -> ExplanationStatus | None:
    """The status of all rows, ``None`` where they differ."""
    first = explanations.statuses[0]
    return first if explanations.statuses.count(first) == len(explanations.statuses) else None


def _treeshap(reply: PredictReply) -> bytes:
    """Float32 (n, outputs, features + 1), the base value last; NaN in rows that are not complete."""
    explanations, features = reply.explanations, len(reply.model.feature_names)
    statuses, phi = explanations.statuses, explanations.phi
    table = np.empty((len(statuses), reply.model.n_outputs, features + 1), np.float32)
    if phi is None:
        table.fill(np.nan)
        return table.tobytes()
    table[:, :, :features] = phi.transpose(0, 2, 1)
    table[:, :, features] = explanations.base_values
    if _status(explanations) is not ExplanationStatus.COMPLETE:
        table[[one is not ExplanationStatus.COMPLETE for one in statuses]] = np.nan
    return table.tobytes()


def _decision_ids(reply: PredictReply) -> bytes:
    ids = reply.decision_ids
    if len(ids) < _MANY_IDS:
        return to_bytes_blob([str(one).encode() for one in ids])
    digits = np.frombuffer(b"".join([one.bytes for one in ids]).hex().encode(), np.uint8)
    blob = np.tile(_ID, (len(ids), 1))
    blob[:, _DIGITS] = digits.reshape(len(ids), -1)
    return blob.tobytes()


def _little(array: Any, dtype: str) -> bytes:
    data: bytes = array.astype(dtype, copy=False).tobytes()
    return data


_BLOBS: Mapping[str, Callable[[PredictReply], bytes]] = {
    "label": lambda reply: _little(reply.prediction.labels, "<i8"),
    "probabilities": lambda reply: _little(reply.prediction.probabilities, "<f4"),
    "prediction": lambda reply: _little(reply.prediction.prediction, "<f4"),
    "margin": lambda reply: _little(reply.prediction.margin, "<f4"),
    TREESHAP: _treeshap,
    DECISION_ID: _decision_ids,
    EXPLANATION_STATUS: lambda reply: to_bytes_blob([one.value.encode() for one in reply.explanations.statuses]),
}


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidInput(FieldViolation(field, description))
