"""Requests of the Open Inference Protocol, made and read by hand: apart from `xai_service.wire`."""

from __future__ import annotations

import struct

import grpc
import numpy as np

from xai_service.wire.gen.inference import grpc_service_pb2 as pb

DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}
CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "BYTES": "bytes_contents",
}
_METHOD = "/inference.GRPCInferenceService/"


def bytes_blob(elements):
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def request(model="loan", inputs=(), *, raw=True, outputs=(), **fields):
    """Returns a request; each input is (name, data type, array or list of bytes, shape or ``None`` for the array's)."""
    message = pb.ModelInferRequest(model_name=model, **fields)
    for name, datatype, values, *claimed in inputs:
        shape = claimed[0] if claimed else np.shape(values)
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if datatype == "BYTES":
            elements = list(np.ravel(values)) if isinstance(values, np.ndarray) else list(values)
        else:
            elements = np.asarray(values, DTYPES[datatype]).ravel()
        if raw:
            message.raw_input_contents.append(
                bytes_blob(elements) if datatype == "BYTES" else np.asarray(elements).tobytes()
            )
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(
                elements if datatype == "BYTES" else np.asarray(elements).tolist()
            )
    for name in outputs:
        message.outputs.add(name=name)
    return message


def unhurried(message):
    """Returns the request, with a budget that no machine is too busy for."""
    message.parameters["latency_budget_ms"].int64_param = 60_000
    return message


def matrix(rows, datatype="FP32"):
    return [("input", datatype, rows)]


def arrays(response):
    """Returns a response's outputs by name, in its order."""
    assert len(response.outputs) == len(response.raw_output_contents)
    found = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            elements, at = [], 0
            while at < len(raw):
                (size,) = struct.unpack_from("<I", raw, at)
                elements.append(raw[at + 4 : at + 4 + size])
                at += 4 + size
            found[output.name] = np.array(elements, object).reshape(output.shape)
        else:
            found[output.name] = np.frombuffer(raw, DTYPES[output.datatype]).reshape(output.shape)
    return found


def status_of(response):
    return response.parameters["explanation_status"].string_param


def _serialized(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


class Stub:
    """The service's methods over a channel, message by message."""

    def __init__(self, channel: grpc.Channel) -> None:
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        for method in service.methods:
            make = channel.stream_stream if method.client_streaming else channel.unary_unary
            response = getattr(pb, method.output_type.name)
            call = make(
                _METHOD + method.name, request_serializer=_serialized, response_deserializer=response.FromString
            )
            setattr(self, method.name, call)
