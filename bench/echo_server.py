"""A plain gRPC server that sends back what it is sent: the price of a call in Python, whatever our own server does."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/bench.Echo/Echo"
THREADS = 16


def main() -> None:
    """Serves on a free port until SIGTERM; says where in a line of JSON on stdout, as `xai serve --json` does."""
    _, service, method = METHOD.split("/")
    echo = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: echo})])
    port = server.add_insecure_port("127.0.0.1:0")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    print(json.dumps({"listening": [f"127.0.0.1:{port}"]}), flush=True)
    ended.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
