"""One server of the serving benchmark in a process of its own: ``python -m bench.serving_servers KIND CPUS SETTINGS``.

It confines itself to CPUS (``0,1``), says ``{"listening": ...}`` in one line on stdout once it answers, and ends at
SIGTERM. SETTINGS is JSON. The kinds:

- ``ours``: what `xai_service.wire.server.serve` makes of these settings, and `ECHO` in the very same gRPC server.
- ``aio``: `ECHO` alone, in a plain ``grpc.aio`` server.
- ``naive``: xai.v1's Predict as a team would write it with what is at hand: grpcio's threads, ONNX Runtime, and
  ``shap.TreeExplainer`` of the native model. It records nothing and checks nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# What is heavy is imported by the kind that needs it, so that idle memory is its own.

ECHO = "/bench.Echo/Call"
PREDICT = "/xai.v1.DecisionService/Predict"
NAIVE_THREADS = 8
_MESSAGES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _handlers(method: str, answer: Callable[[bytes, Any], Any]) -> tuple[Any, ...]:
    """Answers one method with raw bytes for raw bytes."""
    grpc: Any = importlib.import_module("grpc")
    service, _, name = method[1:].partition("/")
    behaviour = grpc.unary_unary_rpc_method_handler(answer)
    return (grpc.method_handlers_generic_handler(service, {name: behaviour}),)


def _say(address: str) -> None:
    print(json.dumps({"listening": address}), flush=True)


def ours(settings: dict[str, Any]) -> None:
    """The service. `ECHO` joins its methods that are answered in waves: the same listeners, options and threads."""
    config: Any = importlib.import_module("xai_service.config")
    wire: Any = importlib.import_module("xai_service.wire.server")
    questions: Any = importlib.import_module("xai_service.wire.questions")
    types: Any = importlib.import_module("xai_service.types")
    _Echo.arrival = types.HERE
    express = wire.Express

    def with_echo(server: Any, methods: Mapping[str, Any], service: Any, *rest: Any) -> Any:
        echo = {ECHO: lambda message, _: questions.Question(_Echo(message), bytes)}
        return express(server, {**methods, **echo}, _Echoing(service), *rest)

    wire.Express = with_echo
    paths = {name: Path(settings.pop(name)) for name in ("repository", "ledger")}
    settings["listen"] = tuple(settings["listen"])
    wire.serve(config.ServiceConfig(**paths, **settings), lambda addresses: _say(addresses[0]))


class _Echo(bytes):
    arrival: Any


class _Echoing:
    """A service that answers bytes with themselves."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def is_short(self, call: Any) -> bool:
        return isinstance(call, bytes) or self._service.is_short(call)

    def begin(self, calls: Sequence[Any]) -> Any:
        return _Echoes(calls) if isinstance(calls[0], bytes) else self._service.begin(calls)


class _Echoes(list[Any]):
    is_settled = True

    def wait(self) -> list[Any]:
        return self


def aio(settings: dict[str, Any]) -> None:
    """The plain asyncio server of gRPC's own examples."""
    grpc_aio: Any = importlib.import_module("grpc.aio")

    async def answer(request: bytes, _: Any) -> bytes:
        return request

    async def run() -> None:
        server = grpc_aio.server()
        server.add_generic_rpc_handlers(_handlers(ECHO, answer))
        address = settings["listen"][0]
        port = server.add_insecure_port(address)
        await server.start()
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        _say(_resolved(address, port))
        await over.wait()
        await server.stop(1.0)

    asyncio.run(run())


def naive(settings: dict[str, Any]) -> None:
    """The service that a team writes first. One ONNX Runtime thread, which is better for it; shap as it comes."""
    grpc: Any = importlib.import_module("grpc")
    np: Any = importlib.import_module("numpy")
    ort: Any = importlib.import_module("onnxruntime")
    shap: Any = importlib.import_module("shap")
    xgb: Any = importlib.import_module("xgboost")
    pb: Any = importlib.import_module("xai_service.wire.gen.xai.v1.decision_service_pb2")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(settings["onnx"], options, providers=["CPUExecutionProvider"])
    explainer = shap.TreeExplainer(xgb.Booster(model_file=settings["native"]))
    base = float(np.ravel(explainer.expected_value)[0])

    def tensor(kind: int, array: Any) -> Any:
        return pb.Tensor(dtype=kind, shape=array.shape, data=array.tobytes())

    def predict(message: bytes, _: Any) -> bytes:
        request = pb.PredictRequest.FromString(message)
        rows = np.frombuffer(request.input.data, np.float32).reshape(tuple(request.input.shape))
        (margin,) = session.run(["margin"], {"input": rows})
        phi = np.asarray(explainer.shap_values(rows), np.float64)[:, :, None]
        explanations = pb.Explanations(
            statuses=[pb.EXPLANATION_STATUS_COMPLETE] * len(rows),
            attributions=tensor(pb.DATA_TYPE_FLOAT64, phi),
            base_values=tensor(pb.DATA_TYPE_FLOAT64, np.array([base])),
        )
        margin = tensor(pb.DATA_TYPE_FLOAT32, margin)
        reply = pb.PredictResponse(model_name=request.model_name, margin=margin, explanations=explanations)
        return bytes(reply.SerializeToString())

    server = grpc.server(ThreadPoolExecutor(NAIVE_THREADS), options=_MESSAGES)
    server.add_generic_rpc_handlers(_handlers(PREDICT, predict))
    address = settings["listen"][0]
    port = server.add_insecure_port(address)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server.start()
    _say(_resolved(address, port))
    over.wait()
    server.stop(1.0).wait()


def _resolved(address: str, port: int) -> str:
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


KINDS = {"ours": ours, "aio": aio, "naive": naive}


def main(kind: str, cpus: str, settings: str) -> None:
    """Serves until SIGTERM."""
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    KINDS[kind](json.loads(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
